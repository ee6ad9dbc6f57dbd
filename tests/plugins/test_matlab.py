"""Arrays in MATLAB's files: files from SciPy are read as SciPy reads them, and damage is reported."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.io import loadmat, savemat

from ganrun_datasets.matlab import read_arrays

MOST = 1 << 20
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@given(
    st.sampled_from(TYPES).flatmap(lambda kind: arrays(kind, array_shapes(min_dims=2, max_dims=4, max_side=4))),
    st.booleans(),
)
def test_arrays_are_those_that_scipy_reads(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, packed: bool
) -> None:
    path = tmp_path_factory.mktemp("mat") / "file.mat"
    others = {"text": "a name", "cell": np.array([1, "b"], object), "y": np.arange(3)[:, None] % 2 == 0}
    savemat(path, {"first": np.zeros((2, 2)), "X": array, **others}, do_compression=packed)
    found, expected = read_arrays(path, ("X", "absent"), MOST), loadmat(path)
    assert found.keys() == {"X"}
    assert found["X"].dtype.str[1:] == expected["X"].dtype.str[1:]
    assert np.array_equal(found["X"], expected["X"], equal_nan=array.dtype.kind == "f")


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_file_is_told(tmp_path: Path, packed: bool) -> None:
    """Cut, and with changed bytes anywhere: SciPy's reader has crashed on such files."""
    path, chance = tmp_path / "file.mat", random.Random(0)
    savemat(path, {"X": np.arange(60, dtype=np.uint8).reshape(3, 4, 5)}, do_compression=packed)
    whole, told = path.read_bytes(), 0
    for _ in range(500):
        content = bytearray(whole[: chance.randrange(len(whole) + 1)] if chance.random() < 0.3 else whole)
        for _ in range(chance.randrange(1, 4) if content else 0):
            content[chance.randrange(len(content))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        path.write_bytes(content)
        try:
            read_arrays(path, ("X",), MOST)
        except ValueError:
            told += 1
    assert told > 100


def test_a_file_of_much_is_not_unpacked(tmp_path: Path) -> None:
    savemat(tmp_path / "file.mat", {"X": np.zeros((1, MOST), np.uint8)}, do_compression=True)
    with pytest.raises(ValueError, match="unpacks to more than 1,000,000 bytes"):
        read_arrays(tmp_path / "file.mat", ("X",), 1_000_000)
