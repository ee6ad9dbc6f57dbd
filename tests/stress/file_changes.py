"""What changes the files that `fuzz_files.py` tries: bytes, tables, tensors, archives, and what kind of file one is."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import pickle
import random
import socket
import tomllib
import warnings
import zipfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from fuzzing import mutate, mutated_bytes, odd_bytes, odd_value
from safetensors.torch import save


def changed_json(content: bytes, chance: random.Random) -> bytes:
    """Other tables, of JSON that Python reads also where it is none: NaN, and texts that are no Unicode."""
    tables = {"": json.loads(content)}
    mutate(tables, chance)
    with suppress(ValueError, RecursionError, TypeError):
        text = json.dumps(tables.get("", odd_value(chance)), ensure_ascii=chance.random() < 0.5)
        return text.encode("utf-8", "surrogatepass")
    return content


def changed_lines(content: bytes, chance: random.Random) -> bytes:
    """Some lines, each of JSON, with other tables."""
    lines = content.splitlines()
    for _ in range(chance.choice((1, 1, 3))):
        at = chance.randrange(len(lines))
        lines[at] = changed_json(lines[at], chance)
    return b"\n".join(lines) + b"\n"


def changed_toml(content: bytes, chance: random.Random) -> bytes:
    """Other tables."""
    tables = tomllib.loads(content.decode())
    mutate(tables, chance, dates=True)
    with suppress(ValueError, RecursionError, TypeError):
        return tomli_w.dumps(tables).encode("utf-8", "surrogatepass")
    return content


def changed_progress(content: bytes, chance: random.Random) -> bytes:
    """Another progress of a checkpoint, with tensors among its values."""
    progress = copy.deepcopy(_loaded(content))
    for _ in range(chance.choice((1, 1, 2))):
        if chance.random() < 0.6:
            mutate(progress, chance, count=1)
            continue
        with suppress(KeyError, TypeError, AttributeError, IndexError):  # of what the first change has left
            _change_state(progress, chance)
    file = io.BytesIO()
    with suppress(Exception):
        torch.save(progress, file)
        return file.getvalue()
    return content


@cache
def _loaded(content: bytes) -> Any:
    """What torch has saved; reading it takes longer than copying it."""
    return torch.load(io.BytesIO(content), weights_only=True)


def _change_state(progress: dict[str, Any], chance: random.Random) -> None:
    optimizer = chance.choice(list(progress["optimizers"].values()))
    table = chance.choice([*optimizer["state"].values(), *optimizer["param_groups"]])
    table[chance.choice(list(table))] = chance.choice([odd_tensor(chance), odd_value(chance)])


def odd_tensor(chance: random.Random, large: float = 0.05) -> torch.Tensor:
    """Of any type, shape and values; also one that would be large if it were copied."""
    dtype = chance.choice((torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.complex64))
    shape = chance.choice(((), (0,), (1,), (4,), (4, 4), (1, 1, 1), (3, 0, 2)))
    if chance.random() < large:
        return torch.zeros(1).expand(2**40)
    return torch.full(shape, chance.choice((0, 1, -1, 7, float("nan"))), dtype=torch.float64).to(dtype)


def changed_weights(content: bytes, chance: random.Random) -> bytes:
    """Other tensors in a file of safetensors, or another header."""
    length = int.from_bytes(content[:8], "little")
    if chance.random() < 0.5:
        header = changed_json(content[8 : 8 + length], chance)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    tensors = {name: odd_tensor(chance, large=0) for name in names if chance.random() < 0.9}
    with suppress(Exception):
        return bytes(save(tensors))
    return content


def changed_npz(content: bytes, chance: random.Random) -> bytes:
    """Other arrays."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    for name in list(arrays):
        if chance.random() < 0.5:
            arrays[name] = _odd_array(chance)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _odd_array(chance: random.Random) -> Any:
    dtype = chance.choice(("f4", "f8", "u1", "i8", "c8", "b1", "U3", "S2", ">f8", "f2", "M8[s]", "O", "V4"))
    shape = chance.choice(((), (0,), (4,), (4, 4), (3, 4), (2, 2, 2), (1, 10_000)))
    return np.zeros(shape, dtype)


def repacked(content: bytes, chance: random.Random) -> bytes:
    """A zip with other members, of which some may have one name."""
    file, rate = io.BytesIO(), chance.choice((0.03, 0.3))
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for member in old.infolist():
            data = old.read(member)
            if chance.random() < rate:
                data = chance.choice((mutated_bytes(data, chance), odd_bytes(chance), b"\0" * 100_000))
            name = member.filename if chance.random() >= rate else chance.choice(("../x", "/etc/x", "a\\b", "é" * 90))
            new.writestr(name, data, chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))
    return file.getvalue()


def regzipped(content: bytes, chance: random.Random) -> bytes:
    """What is packed is changed, and packed again, perhaps twice."""
    packed = gzip.compress(mutated_bytes(gzip.decompress(content), chance), 1)
    return gzip.compress(packed) if chance.random() < 0.1 else packed


def repickled(content: bytes, chance: random.Random) -> bytes:
    """Another pickle of tables."""
    tables = {str(name): each for name, each in pickle.loads(content, encoding="bytes").items()}
    mutate(tables, chance)
    try:
        return pickle.dumps(
            {name.encode("utf-8", "replace"): each for name, each in tables.items()}, chance.randrange(5)
        )
    except RecursionError:  # a table is deeper than Python's pickler goes
        return mutated_bytes(content, chance)


def special(path: Path, chance: random.Random) -> None:
    """Something else under the name of a file."""
    kind = chance.choice(("folder", "pipe", "device", "endless", "nothing", "loop", "socket", "sparse", "absent"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as found, suppress(OSError):
            found.bind(str(path))
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(10**10)
    elif kind != "absent":
        targets = {"device": "/dev/zero", "endless": "/dev/urandom", "nothing": "/dev/null", "loop": path.name}
        path.symlink_to(targets[kind])


def changed_state(content: bytes, chance: random.Random) -> bytes:
    """Other tensors in a file of torch."""
    state = copy.deepcopy(_loaded(content))
    mutate(state, chance)
    for name in [name for name in state if chance.random() < 0.3]:
        state[name] = chance.choice((odd_tensor(chance), _odd_layout(chance)))
    file = io.BytesIO()
    with suppress(Exception):
        torch.save(state, file)
        return file.getvalue()
    return content


def _odd_layout(chance: random.Random) -> torch.Tensor:
    """Of the shape of a weight, but not as weights are stored."""
    plain = torch.ones(chance.choice(((3, 2), (3,))))
    kinds = (torch.float16, torch.float64, torch.complex64, torch.int32, torch.bool)
    odd = (plain.to_sparse(), plain.to("meta"), *map(plain.to, kinds))
    return chance.choice(odd)
