"""Tensors in ganrun's cache, read whole and sealed by a digest. A damaged or misplaced file counts as missing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ganrun import CacheError, cache_file, cache_path

log = logging.getLogger("ganrun.fidelity")

Facts = Mapping[str, str | int | float]


class Stored(NamedTuple):
    """The contents of one file of the cache."""

    tensors: dict[str, Tensor]
    facts: Facts


def load_stored(folder: str, key: str) -> Stored | None:
    """The contents stored under `key`; None if there are none, or, with a warning, if the file is damaged."""
    try:
        path = _path(folder, key)
        return _read(path, key) if path.is_file() else None
    except CacheError:
        return None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and is made again: %s", path, error)
        return None


def _read(path: Path, key: str) -> Stored:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        header = file.metadata() or {}
    facts = json.loads(header["facts"])
    if header["digest"] != _seal(key, tensors, facts):
        raise ValueError("its digest is another one")
    return Stored(tensors, facts)


def store(folder: str, key: str, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Store under `key`. A cache that cannot be written is warned about: it only costs time later."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"facts": json.dumps(facts), "digest": _seal(key, plain, facts)}
    try:
        with cache_file(_path(folder, key)) as partial:
            partial.write_bytes(save(plain, header))
    except (OSError, CacheError) as error:
        log.warning("the cache does not keep %s, which will be computed again: %s", folder, error)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().numpy()
        digest.update(str((name, array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def digest_of_text(*parts: object) -> str:
    """A hash of the values' representations: 16 hexadecimal digits."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def _seal(key: str, tensors: Mapping[str, Tensor], facts: Facts) -> str:
    return digest_of_text(key, digest_of(tensors), sorted(facts.items()))


def _path(folder: str, key: str) -> Path:
    return cache_path(folder, f"{key}.safetensors")
