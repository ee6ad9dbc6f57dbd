"""Curves and scores: the lines of metrics.jsonl, sent once each and in order."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING

from ganrun import Record, opened
from ganrun_mlflow.labels import score_tags
from ganrun_mlflow.mlflow_run import MlflowRun
from ganrun_mlflow.points import Line, batches, points_of

if TYPE_CHECKING:
    from mlflow.entities import RunTag


LARGEST_BYTES, LONGEST_LINE_BYTES = 8 << 30, 1 << 20
"""Limits for metrics.jsonl and for one of its lines; a longer line is no record."""

BYTES_AT_ONCE = 4 << 20
"""Lines that are read at a time."""


class MetricsUpload:
    """Sends the lines of metrics.jsonl that an MLflow run does not have.

    Args:
        run: The MLflow run.
    """

    def __init__(self, run: MlflowRun) -> None:
        self._run = run
        self._path = run.directory.metrics_path
        self._sent = _new_hash()
        """Hash of the bytes that were sent."""
        self._file: int | None = None
        """Identifies the file that they come from."""

    def resume(self) -> None:
        """Continue after the bytes that were sent; from the start if the file no longer begins with them, or the store
        has lost the last of them."""
        progress, self._file, end = self._run.state.progress, self._identity(), b""
        self._sent = _new_hash()
        with contextlib.suppress(FileNotFoundError), opened(self._path, LARGEST_BYTES) as file:
            for piece in _pieces(file, progress.bytes_sent):
                self._sent.update(piece)
                end = (end + piece)[-LONGEST_LINE_BYTES:]
        if self._sent.hexdigest() != progress.digest or self._has_lost(end):
            self._sent = _new_hash()
            progress.bytes_sent = 0

    def _has_lost(self, end: bytes) -> bool:
        """Whether the store lacks the last line that it was sent: a database may lose its last transaction in a power
        cut, or more where a copy of it is put back."""
        records = map(Record.parse, reversed(end.splitlines()))
        last = next((points for record in records if record and (points := list(points_of(record)))), [])
        found = self._run.client.get_run(self._run.id).data.metrics if last else {}
        return not all(math.isclose(found.get(point.key, math.nan), point.value) for point in last)

    def send(self) -> None:
        """Send all complete lines that are new. Those that are written meanwhile are left to the next call: curves are
        thinned within what is read at once."""
        run, progress = self._run, self._run.state.progress
        if self._file != self._identity():
            self.resume()
        size = BYTES_AT_ONCE
        while size >= BYTES_AT_ONCE:
            lines = self._next_lines()
            size = sum(len(line.text) for line in lines)
            for batch in batches(lines):
                run.client.log_batch(run.id, metrics=batch.points, tags=self._tags(batch.records))
                self._sent.update(batch.text)
                progress.bytes_sent += len(batch.text)
                progress.digest = self._sent.hexdigest()
                run.record()

    def _identity(self) -> int | None:
        """Another number where the file was replaced, as by a run that goes back to an earlier step."""
        try:
            return self._path.stat().st_ino
        except OSError:
            return None

    def _next_lines(self) -> list[Line]:
        """Some of the new lines, and of the pieces of a line that is too long for a record."""
        found: list[Line] = []
        with contextlib.suppress(FileNotFoundError), opened(self._path, LARGEST_BYTES) as file:
            start = self._run.state.progress.bytes_sent
            file.seek(max(0, start - 1))
            is_whole = start == 0 or file.read(1) == b"\n"
            while file.tell() - start < BYTES_AT_ONCE and (text := file.readline(LONGEST_LINE_BYTES)):
                is_end = text.endswith(b"\n")
                if not is_end and len(text) < LONGEST_LINE_BYTES:
                    break  # a line that is being written
                found.append(Line(text, Record.parse(text) if is_whole and is_end else None))
                is_whole = is_end
        return found

    def _tags(self, records: Iterable[Record]) -> list[RunTag]:
        """Protocols and floors. MLflow shows a score as of its last step, so the tags must be of that step too."""
        from mlflow.entities import RunTag

        steps = self._run.state.progress.protocol_steps
        tags: dict[str, str] = {}
        for record in records:
            for score in record.evaluation:
                if record.step >= steps.get(score.name, 0):
                    steps[score.name] = record.step
                    tags |= score_tags(score)
        return [RunTag(key, text) for key, text in tags.items()]


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The first bytes of a file, some at a time."""
    while size > 0 and (piece := file.read(min(size, LONGEST_LINE_BYTES))):
        size -= len(piece)
        yield piece


def _new_hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
