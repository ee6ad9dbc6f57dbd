"""What a run has left in its directory, and how it differs from what an undisturbed one has left."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

TIMES = ("seconds", "time", "images_per_second", "perf/images_per_second", "perf/step_milliseconds")
"""Keys of JSON files whose values are times."""

PER_START = ("environment.json", ".lock", "mlflow.json", "mlflow_run.json")
"""Files that say how a run was started, rather than what it found."""

FAULTS = "faults"
"""The key of summary.json for what went wrong on the way."""

Content = dict[str, Any]


def outcome(run: Path) -> Content:
    """The content of every file of a run's directory, by relative path, without times; of a folder None."""
    return {str(path.relative_to(run)): _content_or_fault(path) for path in sorted(run.rglob("*"))}


def differences(found: Content, wanted: Content) -> list[str]:
    """What a run has left otherwise than an undisturbed one, a line for each file."""
    lines = [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"left over: {name}" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(found.keys() & wanted.keys()):
        if not _equal(found[name], wanted[name]):
            lines.append(f"differs: {name}{_where(found[name], wanted[name])}")
    return lines


def _content_or_fault(path: Path) -> Any:
    try:
        return _content(path)
    except Exception as error:
        return f"damaged: {error!r}"


def _content(path: Path) -> Any:
    if path.is_dir():
        return None
    if path.name in PER_START:
        return path.name
    if path.suffix == ".pt":  # its copy of the summary says what was missed in between; the summary itself is compared
        progress = torch.load(path, map_location="cpu", weights_only=True)
        return _timeless({name: value for name, value in progress.items() if name != "summary"})
    if path.name == "manifest.json":  # holds the checksum of a file with times
        return sorted(json.loads(path.read_text(encoding="utf-8"))["sha256"])
    if path.suffix in (".json", ".jsonl"):
        return [_timeless(json.loads(line)) for line in _documents(path)]
    return sha256(path.read_bytes()).hexdigest()


def _documents(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    yield from text.splitlines() if path.suffix == ".jsonl" else [text]


def _timeless(content: Any) -> Any:
    """Without times, and with lines of curves whose values are null as they are."""
    if isinstance(content, Mapping):
        return {key: _timeless(value) for key, value in content.items() if key not in (*TIMES, FAULTS)}
    if isinstance(content, list | tuple):
        return [_timeless(value) for value in content]
    return content


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return same and one.contiguous().flatten().view(torch.uint8).equal(
            other.contiguous().flatten().view(torch.uint8)
        )
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def _where(one: Any, other: Any) -> str:
    """The path to the first difference, and both values if they are short."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [key for key in {**one, **other} if not _equal(one.get(key), other.get(key))]
        return f" / {keys[0]}{_where(one.get(keys[0]), other.get(keys[0]))}"
    if isinstance(one, list) and isinstance(other, list):
        place = next((n for n, pair in enumerate(zip(one, other, strict=False)) if not _equal(*pair)), None)
        if place is None:
            return f": {len(one)} entries instead of {len(other)}"
        return f" / {place}{_where(one[place], other[place])}"
    return f": {str(one)[:80]} instead of {str(other)[:80]}"
