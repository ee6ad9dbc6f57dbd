"""What is on its way to the store: sent in batches, and kept while the store does not answer."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ganrun import RunError
from ganrun_mlflow.labels import key_text
from ganrun_mlflow.store import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger("ganrun")

METRICS_PER_CALL = 1000
"""MLflow's own limit."""

SECONDS_BETWEEN_CALLS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 600.0


class Outbox:
    """Metrics, tags and files on their way to one MLflow run.

    A store that is away for a while loses nothing: what it did not take is offered again after a pause that
    doubles each time.

    Args:
        client: The store's client.
        run_id: The MLflow run.
        reach: Raises quickly where the store does not answer.
    """

    def __init__(self, client: MlflowClient, run_id: str, reach: Callable[[], None]) -> None:
        self.client = client
        self.run_id = run_id
        self._reach = reach
        self._metrics: list[Metric] = []
        self._tags: dict[str, str] = {}
        self._files: deque[tuple[Path, Callable[[], None]]] = deque()
        self._next_call = 0.0
        self._pause = 0.0

    def add_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Put scalars in. NaN and infinities, which ruin MLflow's charts, are left out."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._metrics += [Metric(key_text(name), value, now, step) for name, value in finite.items()]

    def add_tags(self, tags: Mapping[str, str]) -> None:
        """Put tags in."""
        self._tags |= tags

    def add_file(self, path: Path, folder: str | None) -> None:
        """Put a file, or a whole folder, in; it becomes an artifact of its name in `folder`."""

        def send() -> None:
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), "/".join(filter(None, (folder, path.name))))
            else:
                self.client.log_artifact(self.run_id, str(path), folder)

        self._files.append((path, send))

    def add_picture(self, path: Path, key: str, step: int) -> None:
        """Put a picture in, for MLflow's charts with a slider over the steps."""

        def send() -> None:
            from PIL import Image

            with Image.open(path) as picture:
                self.client.log_image(self.run_id, picture.convert("RGB"), key=key, step=step, synchronous=True)

        self._files.append((path, send))

    def flush(self, *, hurry: bool = True) -> None:
        """Send what has gathered, unless the store is being left alone; without hurry, only every few seconds."""
        if time.monotonic() < self._next_call and (self._pause or not hurry):
            return
        fault = self._send()
        if fault is None:
            self._pause = 0.0
            self._next_call = time.monotonic() + SECONDS_BETWEEN_CALLS
        else:
            self._put_off(fault)

    def close(self, status: str) -> None:
        """Send all that is left and end the MLflow run.

        Args:
            status: `FINISHED`, `FAILED` or `KILLED`.

        Raises:
            RunError: if the store does not take all of it.
        """
        fault = self._send()
        try:
            self.client.set_terminated(self.run_id, status)
        except Exception as error:
            fault = fault or error
        if fault is not None:
            left = f"{len(self._metrics)} values and {len(self._files)} files"
            raise RunError(
                f"MLflow did not take all of the run, which its directory holds ({left} were left): {first_line(fault)}"
            )

    def _send(self) -> Exception | None:
        """Send everything, in order; what went wrong, if anything did."""
        try:
            if self._pause:
                self._reach()
            self._send_numbers()
            while self._files:
                path, send = self._files[0]
                if path.exists():
                    send()
                self._files.popleft()
        except Exception as error:  # Each kind of artifact store raises errors of a library of its own.
            return error
        return None

    def _send_numbers(self) -> None:
        from mlflow.entities import RunTag

        while self._metrics or self._tags:
            tags = [RunTag(name, text) for name, text in self._tags.items()]
            metrics = self._metrics[: METRICS_PER_CALL - len(tags)]
            self.client.log_batch(self.run_id, metrics=metrics, tags=tags)
            self._tags = {}
            del self._metrics[: len(metrics)]

    def _put_off(self, fault: Exception) -> None:
        if not self._pause:
            log.warning("MLflow does not take what it is sent; it will be sent again later: %s", first_line(fault))
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._next_call = time.monotonic() + self._pause
