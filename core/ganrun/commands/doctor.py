"""`ganrun doctor`."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import click

from ganrun.base.errors import ContractError, PluginError
from ganrun.base.spinner import spinner
from ganrun.commands.output import print_line
from ganrun.contracts.health import HealthCheck
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.plugins import describe_error
from ganrun.discovery.registry import Registry, load_registry

if TYPE_CHECKING:
    import torch

MARK_WIDTH = 9
"""Columns of the mark at the start of a line, with the space behind it."""


@click.command("doctor")
def command() -> None:
    """Check this machine: packages, devices, plugins, data, weights, tracking store.

    The exit status is 1 if a line begins with `fail`: something is broken.
    """
    with spinner("checking this machine"):
        lines = list(examine(load_registry()))
    for line in lines:
        print_line(line)
    if any(line.startswith("fail") for line in lines):
        sys.exit(1)


def examine(registry: Registry) -> Iterator[str]:
    """Lines about packages, devices, plugins and data sets, and the results of the plugins' health checks.

    A line begins with `ok`, `missing` (often harmless), `skip` (not checked) or `fail` (broken); its continuation
    lines are indented. A section that raises is reported, and the others are still examined.
    """
    for section in (_packages, _devices, _plugins, _data, _health_checks):
        try:
            yield from section(registry)
        except (Exception, SystemExit) as error:
            yield _line("fail", f"{section.__name__.strip('_')}: {describe_error(error)}")


def _line(mark: Literal["ok", "missing", "skip", "fail"], text: str) -> str:
    return mark.ljust(MARK_WIDTH) + f"\n{' ' * MARK_WIDTH}".join(text.splitlines())


# ── The machine ───────────────────────────────────────────────────────────────────────────────────────────


def _packages(registry: Registry) -> Iterator[str]:
    from ganrun.rundir.environment import package_versions, required_packages

    yield _line("ok", f"python {platform.python_version()} on {platform.platform()}")
    versions = package_versions()
    for package in required_packages():
        if package in versions:
            yield _line("ok", f"{package} {versions[package]}")
        else:
            yield _line("missing", f"{package}: not installed; say: pip install {package}")


def _devices(registry: Registry) -> Iterator[str]:
    import torch

    from ganrun.base.devices import device_text

    yield _line("ok", f"{device_text(torch.device('cpu'))}, {torch.backends.cpu.get_cpu_capability()}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _line("ok", _cuda_text(torch.device("cuda", index)))
    else:
        version = torch.version.cuda
        build = f"PyTorch is built for CUDA {version}" if version else "PyTorch is built without CUDA"
        yield _line("missing", f"cuda: PyTorch finds no GPU ({build}; check nvidia-smi)")
    has_mps = torch.backends.mps.is_available()
    yield _line("ok", "mps: Apple GPU") if has_mps else _line("missing", "mps: no Apple GPU")


def _cuda_text(device: torch.device) -> str:
    import torch

    from ganrun.base.devices import device_text, has_bf16, has_tf32

    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    arithmetic = f"{'with' if has_bf16(device) else 'without'} bf16, {'with' if has_tf32(device) else 'without'} TF32"
    return f"{device}: {device_text(device)}, {memory:.0f} GiB, {arithmetic}"


# ── The plugins ───────────────────────────────────────────────────────────────────────────────────────────


def _plugins(registry: Registry) -> Iterator[str]:
    for kind in KINDS:
        registry.components(kind)
    registry.health_checks()
    registry.trackers()
    broken = registry.broken()
    for fault in registry.plugins.faults:
        yield _line("fail", fault)
    for plugin in registry.plugins.found:
        text = f"plugin {plugin.name} ({plugin.package} {plugin.version})"
        if plugin.name in broken:
            yield _line("fail", f"{text}: {broken[plugin.name]}")
        else:
            yield _line("skip", f"{text}: blocked") if plugin.blocked else _line("ok", text)


def _data(registry: Registry) -> Iterator[str]:
    from ganrun.commands.data import whereabouts

    for registered in registry.components("data"):
        try:
            known, where = whereabouts(registered, registry)
            yield _line("skip" if known is None else "ok" if known else "missing", f"data {registered.name}: {where}")
        except PluginError as error:
            yield _line("fail", str(error))


def _health_checks(registry: Registry) -> Iterator[str]:
    for name, check in registry.health_checks().items():
        try:
            result = check()
            if not isinstance(result, HealthCheck):
                raise ContractError(f"it returns {result!r}, not a ganrun.HealthCheck")
            yield _line("ok" if result.ok else "missing", f"{name}: {result.text}")
        except (Exception, SystemExit) as error:
            yield _line("fail", f"{name}: {describe_error(error)}")
