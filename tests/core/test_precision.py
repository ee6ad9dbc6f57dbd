"""Precision: what TF32 is set to, where; and what `precision` in a recipe stands for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganrun import exact_float32
from ganrun.base.arithmetic import float32_as

backends: Any = torch.backends

NODES = {
    "generic": backends,
    "cuda": backends.cudnn,
    "cuda.conv": backends.cudnn.conv,
    "cuda.rnn": backends.cudnn.rnn,
    "cuda.matmul": backends.cuda.matmul,
    "cpu.conv": backends.mkldnn.conv,
    "cpu.rnn": backends.mkldnn.rnn,
    "cpu.matmul": backends.mkldnn.matmul,
}
CUDA = [name for name in NODES if name.startswith("cuda")]

OLDER: dict[str, Callable[[], Any]] = {
    "cudnn": lambda: backends.cudnn.allow_tf32,
    "cublas": lambda: backends.cuda.matmul.allow_tf32,
    "matmul": torch.get_float32_matmul_precision,
}

SETTERS: dict[str, Callable[[], None]] = {
    "old: no TF32 in convolutions": lambda: setattr(backends.cudnn, "allow_tf32", False),
    "old: TF32 in convolutions": lambda: setattr(backends.cudnn, "allow_tf32", True),
    "old: TF32 in products": lambda: setattr(backends.cuda.matmul, "allow_tf32", True),
    "old: high": lambda: torch.set_float32_matmul_precision("high"),
    "old: medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old: highest": lambda: torch.set_float32_matmul_precision("highest"),
    **{
        f"new: {name} {value}": lambda name=name, value=value: setattr(NODES[name], "fp32_precision", value)  # type: ignore[misc]
        for name in NODES
        for value in ("none", "ieee", "tf32", *(() if name.startswith("cuda") else ("bf16",)))
    },
}


def state() -> dict[str, Any]:
    """What all settings give; an older one whose reading fails gives None."""
    return {name: node.fp32_precision for name, node in NODES.items()} | {name: read(name) for name in OLDER}


def read(name: str) -> Any:
    try:
        return OLDER[name]()
    except RuntimeError:
        return None


def in_depth() -> list[dict[str, Any]]:
    """What all settings give now, and would give if those above the operations were others."""
    found, generic = [state()], backends.fp32_precision
    for value in ("ieee", "tf32", "bf16"):
        backends.fp32_precision = value
        found.append(state())
    backends.fp32_precision = generic
    return found


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Torch's settings as in a new process, before and after."""
    as_new()
    yield
    as_new()


def as_new() -> None:
    torch.set_float32_matmul_precision("highest")
    for node in NODES.values():
        node.fp32_precision = "none"
    backends.cudnn.allow_tf32 = True


def check_exact() -> None:
    assert {NODES[name].fp32_precision for name in NODES if name != "generic"} == {"ieee"}
    assert {name: read() for name, read in OLDER.items()} == {"cudnn": False, "cublas": False, "matmul": "highest"}


def check_tf32() -> None:
    assert {NODES[name].fp32_precision for name in CUDA} == {"tf32"}
    assert {NODES[name].fp32_precision for name in NODES if name.startswith("cpu")} == {"ieee"}
    assert {name: read() for name, read in OLDER.items()} == {"cudnn": True, "cublas": True, "matmul": "high"}


# ── Blocks ────────────────────────────────────────────────────────────────────────────────────────────────


@given(calls=st.lists(st.sampled_from(sorted(SETTERS)), max_size=6))
def test_blocks_hold_whatever_was_set_and_leave_all_of_it(calls: list[str]) -> None:
    """By the older settings, the newer ones, or a mix that torch refuses to read; where a node follows those above it, it
    goes on following them."""
    as_new()
    for call in calls:
        SETTERS[call]()
    before = in_depth()
    with exact_float32():
        check_exact()
        with float32_as(tf32=True):
            check_tf32()
            with exact_float32():
                check_exact()
            check_tf32()
        check_exact()
    assert in_depth() == before
    with float32_as(tf32=True):
        check_tf32()
    assert in_depth() == before


def test_an_exception_leaves_the_settings_as_they_were() -> None:
    torch.set_float32_matmul_precision("high")
    before = in_depth()
    with pytest.raises(ZeroDivisionError), exact_float32(), float32_as(tf32=True):
        raise ZeroDivisionError
    assert in_depth() == before


def test_a_function_can_be_exact() -> None:
    @exact_float32()
    def check() -> None:
        check_exact()

    check()
    check()
    assert backends.cudnn.allow_tf32


def test_blocks_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with exact_float32(), float32_as(tf32=True):
            pass
