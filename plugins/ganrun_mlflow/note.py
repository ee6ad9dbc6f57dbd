"""mlflow.json in the run directory: which MLflow run mirrors this one, what it is labelled with, and how far it is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Self

from ganrun import RequestError, RunDirectory

NAME = "mlflow.json"


@dataclass
class Note:
    """What must be known to bring MLflow level with a run directory: nothing else of the run is needed."""

    uri: str
    """The store, without a password."""

    experiment: str
    name: str
    started: float
    """Seconds since 1970."""

    params: dict[str, str]
    tags: dict[str, str]
    dataset: dict[str, str]
    description: str = ""
    """For the first time only: people may change it there."""

    log_checkpoints: bool = False
    log_model: bool = False

    run_id: str = ""
    """Empty until the store has taken the run."""

    experiment_id: str = ""

    status: str = ""
    """As MLflow was told last."""

    bytes_sent: int = 0
    """Of metrics.jsonl."""

    digest: str = ""
    """Of these bytes: where it no longer fits, the run was taken back to an earlier step."""

    files: dict[str, str] = field(default_factory=dict)
    """What else was sent: digests by name."""

    told: dict[str, int] = field(default_factory=dict)
    """Of which step each score's protocol was told last."""

    @classmethod
    def of(cls, directory: RunDirectory) -> Self:
        """The note in a run directory.

        Raises:
            RequestError: if there is none, or it is damaged.
        """
        content = directory.read_json(NAME)
        known = {each.name for each in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in content.items() if name in known})
        except TypeError:
            raise RequestError(
                f"{directory / NAME} is absent or damaged; only what was trained with MLflow can be sent to it, "
                "nothing that was trained without (mlflow = false, --no-plugin mlflow)"
            ) from None

    def write(self, directory: RunDirectory) -> None:
        """Put the note into the run directory."""
        directory.write_json(NAME, dataclasses.asdict(self))

    def continues(self, earlier: Note) -> Note:
        """This note, going on in the MLflow run of an earlier one."""
        progress = (
            "run_id",
            "experiment",
            "experiment_id",
            "status",
            "bytes_sent",
            "digest",
            "files",
            "told",
            "started",
        )
        return dataclasses.replace(self, **{name: getattr(earlier, name) for name in progress})

    def anew(self, uri: str | None = None) -> Note:
        """The same labels, of which no store has taken anything yet; for the store at `uri` if that is another."""
        return dataclasses.replace(
            self,
            uri=uri or self.uri,
            run_id="",
            experiment_id="",
            status="",
            bytes_sent=0,
            digest="",
            files={},
            told={},
        )
