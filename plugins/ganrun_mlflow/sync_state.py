"""mlflow.json in the run directory: the labels of the MLflow run that mirrors it, and the progress of sending."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from ganrun import RequestError, RunDirectory, bare_address

NAME = "mlflow.json"

Count = Annotated[int, Field(ge=0, lt=2**53)]

JSON_KEYS = {"protocol_steps": "told"}
"""Keys of mlflow.json that differ from the names of their fields."""


@dataclass
class Progress:
    """The part of the run that MLflow has received."""

    run_id: str = ""
    """Empty until the store has created the run."""

    experiment_id: str = ""

    status: str = ""
    """The last status sent, in MLflow's terms; empty if it must be sent again."""

    bytes_sent: Count = 0
    """Bytes of metrics.jsonl that were sent."""

    digest: str = ""
    """BLAKE2b digest of these bytes. It no longer matches once a resumed run has rewound metrics.jsonl."""

    files: dict[str, str] = field(default_factory=dict)
    """Digests of everything else that was sent, by name."""

    protocol_steps: dict[str, Count] = field(default_factory=dict)
    """The step of the protocol tag that was sent last, by score."""


def _printable(uri: str) -> str:
    if not uri or not uri.isprintable():
        raise ValueError("is no address")
    return bare_address(uri)


@dataclass
class SyncState:
    """The settings, labels and progress of synchronisation; the run directory's own files hold everything else."""

    uri: Annotated[str, AfterValidator(_printable)]
    """The store, without user and password."""

    experiment: str
    name: str
    started: Annotated[float, Field(ge=0, lt=1e11)]
    """Seconds since 1970."""

    params: dict[str, str]
    tags: dict[str, str]
    dataset: dict[str, str]
    description: str = ""
    """Sent only when the MLflow run is created, because users may edit it there."""

    log_checkpoints: bool = False
    log_model: bool = False
    ended: Annotated[float, Field(ge=0, lt=1e11)] = 0.0
    """Seconds since 1970; 0 until the run has ended, and where its process was killed."""

    progress: Progress = field(default_factory=Progress)

    @classmethod
    def read(cls, directory: RunDirectory) -> Self:
        """The state in a run directory, which is untrusted.

        Raises:
            RequestError: if there is none, or it is damaged.
        """
        content = directory.read_json(NAME)
        table = {**_fields(cls, content), "progress": _fields(Progress, content)}
        try:
            return TypeAdapter(cls).validate_json(json.dumps(table), strict=True)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"])).removeprefix("progress.")
            raise RequestError(
                f'{directory / NAME} is absent or damaged, at "{place}"; only runs that were trained with MLflow can '
                "be sent to it, not those trained without it (mlflow = false, --no-plugin mlflow)"
            ) from None

    def write(self, directory: RunDirectory) -> None:
        """Write the state to a run directory, as one flat table."""
        content = dataclasses.asdict(self)
        progress = {JSON_KEYS.get(name, name): value for name, value in content.pop("progress").items()}
        directory.write_json(NAME, {**content, **progress})

    @property
    def start_milliseconds(self) -> int:
        """When the run started, in milliseconds since 1970. With the run directory, it identifies the run in MLflow."""
        return int(1000 * self.started)

    def resume_from(self, earlier: SyncState) -> None:
        """Continue the MLflow run of an earlier state, with the directory that MLflow was sent last."""
        self.experiment, self.started, self.progress = earlier.experiment, earlier.started, earlier.progress
        self.tags |= {name: text for name, text in earlier.tags.items() if name == "run_directory"}

    def reset(self) -> None:
        """Forget the MLflow run, so that a new one is created."""
        self.progress = Progress()

    def move_to(self, uri: str) -> None:
        """Continue in another store. It may have a different part of the run, so everything is sent again."""
        if uri != self.uri:
            self.uri = uri
            self.progress = Progress(self.progress.run_id, self.progress.experiment_id)


def _fields(cls: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of mlflow.json that are fields of a class; versions may differ in the others."""
    keys = {each.name: JSON_KEYS.get(each.name, each.name) for each in dataclasses.fields(cls)}
    return {name: content[key] for name, key in keys.items() if key in content}
