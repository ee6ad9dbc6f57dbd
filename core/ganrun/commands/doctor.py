"""What `ganrun doctor` says about this machine: what is there, what is missing, and how to mend it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ganrun.discovery.kinds import KINDS
from ganrun.discovery.plugins import describe_fault
from ganrun.discovery.registry import Registry

if TYPE_CHECKING:
    import torch


def examine(registry: Registry) -> Iterator[str]:
    """Lines about packages, devices, plugins, data sets and the plugins' own health_checks.

    Each begins with `ok`, `miss` (not there; often no harm), `skip` (not looked at) or `fail` (broken), in a column
    of its own; lines that go on from one before are indented. Whatever fails is told, and the rest goes on.
    """
    for section in (_packages, _devices, _plugins, _data, _checkups):
        try:
            yield from section(registry)
        except (Exception, SystemExit) as error:
            yield _line("fail", f"{section.__name__.strip('_')}: {describe_fault(error)}")


def _line(mark: str, text: str) -> str:
    return f"{mark:<6}" + "\n      ".join(text.splitlines())


# ── The machine ───────────────────────────────────────────────────────────────────────────────────────────


def _packages(registry: Registry) -> Iterator[str]:
    yield _line("ok", f"python {platform.python_version()} on {platform.platform()}")
    from ganrun.rundir.environment import package_versions, required_packages

    found = package_versions()
    for package in required_packages():
        if package in found:
            yield _line("ok", f"{package} {found[package]}")
        else:
            yield _line("miss", f"{package}: not installed; say: pip install {package}")


def _devices(registry: Registry) -> Iterator[str]:
    import torch

    from ganrun.base.devices import device_text

    yield _line("ok", f"{device_text(torch.device('cpu'))}, {torch.backends.cpu.get_cpu_capability()}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _line("ok", _cuda_text(torch.device("cuda", index)))
    else:
        build = (
            f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "PyTorch is built without CUDA"
        )
        yield _line("miss", f"cuda: PyTorch finds no GPU ({build}; look at nvidia-smi)")
    present = torch.backends.mps.is_available()
    yield _line("ok", "mps: Apple GPU") if present else _line("miss", "mps: no Apple GPU")


def _cuda_text(device: torch.device) -> str:
    import torch

    from ganrun.base.devices import device_text

    with torch.cuda.device(device):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"{device}: {device_text(device)}, {memory:.0f} GiB, {'with' if bf16 else 'without'} bf16"


# ── What the plugins bring ────────────────────────────────────────────────────────────────────────────────


def _plugins(registry: Registry) -> Iterator[str]:
    for kind in KINDS:
        registry.components(kind)
    registry.health_checks()
    broken = registry.broken()
    for plugin in registry.plugins.found:
        if plugin.name in broken:
            yield _line("fail", f"plugin {plugin.name} ({plugin.package} {plugin.version}): {broken[plugin.name]}")
        else:
            mark, state = ("skip", ": blocked") if plugin.blocked else ("ok", "")
            yield _line(mark, f"plugin {plugin.name} ({plugin.package} {plugin.version}){state}")


def _data(registry: Registry) -> Iterator[str]:
    from ganrun.commands.datasets import whereabouts

    for registered in registry.components("data"):
        try:
            known, where = whereabouts(registered)
            mark = "skip" if known is None else "ok" if known else "miss"
            yield _line(mark, f"data {registered.name}: {where}")
        except (Exception, SystemExit) as error:
            yield _line("fail", f"data {registered.name}: {describe_fault(error)}")


def _checkups(registry: Registry) -> Iterator[str]:
    for name, ask in registry.health_checks().items():
        try:
            answer = ask()
            yield _line("ok" if answer.ok else "miss", f"{name}: {answer.text}")
        except (Exception, SystemExit) as error:
            yield _line("fail", f"{name}: {describe_fault(error)}")
