"""The device of a process that torchrun has started, and how it reads its environment."""

from __future__ import annotations

import pytest
import torch

from ganrun import RequestError
from ganrun.base.devices import device_of_rank
from ganrun.base.launched import is_first, launched

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node-a",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As rank 5 of 8, the second of four on its machine, which has four GPUs."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", ""), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "one"), ("MASTER_PORT", "-1")]
)
def test_a_process_by_itself_is_first_whatever_else_the_environment_holds(
    started: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert launched() is not None and not is_first()
    started.setenv(name, value)
    assert launched() is None and is_first()
    assert device_of_rank("cuda:3") == "cuda:3" and device_of_rank("auto") == "auto"


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_each_process_has_the_gpu_of_its_number_on_its_machine(started: pytest.MonkeyPatch, wanted: str) -> None:
    assert device_of_rank(wanted) == "cuda:1" and device_of_rank("cpu") == "cpu"
    started.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(RequestError, match=r"4 processes were started .* sees 3 GPUs; start one for each GPU"):
        device_of_rank(wanted)
    started.setattr(torch.cuda, "is_available", lambda: False)
    started.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_of_rank("auto") == "cpu"


@pytest.mark.parametrize("wanted", ["cuda:0", "mps"])
def test_processes_do_not_share_a_device(started: pytest.MonkeyPatch, wanted: str) -> None:
    with pytest.raises(RequestError, match=f"4 processes would share the device {wanted}"):
        device_of_rank(wanted)
