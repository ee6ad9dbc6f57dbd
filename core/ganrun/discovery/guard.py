"""Isolates plugin code that runs during discovery: its output and its changes to torch do not affect others."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

log = logging.getLogger("ganrun")

CHANGED = "the plugin %s changes %s of torch for the whole process on import; ganrun has restored it"


@contextmanager
def guarded(plugin: str) -> Iterator[None]:
    """A block that imports a plugin or calls one of its hooks.

    Its output goes to standard error, because standard output is for results. If it changes a process-wide setting of
    torch, the setting is restored, with a warning that names the plugin. Torch itself is not imported: without it,
    there is nothing to change.
    """
    before = _states() if "torch" in sys.modules else None
    watch = None if before is not None else _FirstImport()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _restore(plugin, before if watch is None else watch.end())


class _Setting(NamedTuple):
    """One process-wide setting of torch."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _settings() -> list[_Setting]:
    import torch

    def set_device(device: torch.device) -> None:
        torch.set_default_device(None if device.type == "cpu" else device)

    def deterministic() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    def set_deterministic(mode: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])

    cudnn = torch.backends.cudnn
    return [
        _Setting("the default device", torch.get_default_device, set_device),  # first: tensors of others depend on it
        _Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
        _Setting("the use of deterministic algorithms", deterministic, set_deterministic),
        _Setting("the gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
        _Setting("the anomaly mode", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        _Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
        _Setting("the matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        *(_attribute(cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
        _Setting("the random stream", _random_state, _set_random_state),
    ]


def _attribute(module: Any, name: str) -> _Setting:
    return _Setting(f"cudnn.{name}", lambda: getattr(module, name), lambda value: setattr(module, name, value))


def _random_state() -> bytes:
    import torch

    return torch.default_generator.get_state().numpy().tobytes()


def _set_random_state(state: bytes) -> None:
    import torch

    torch.default_generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _states() -> dict[str, Any]:
    """The value of each setting by name."""
    return {setting.name: _value(setting) for setting in _settings()}


def _value(setting: _Setting) -> Any:
    try:
        return setting.read()
    except RuntimeError:  # torch refuses to read it if its older and newer setters were mixed
        return None


def _restore(plugin: str, before: dict[str, Any] | None) -> None:
    if before is None:
        return
    for setting in _settings():
        if before[setting.name] is not None and _value(setting) != before[setting.name]:
            setting.write(before[setting.name])
            log.warning(CHANGED, plugin, setting.name)


class _FirstImport:
    """An import finder that finds no modules, but records torch's settings as soon as torch is imported."""

    def __init__(self) -> None:
        self._states: dict[str, Any] | None = None
        self._is_searching = False
        sys.meta_path.insert(0, self)

    def end(self) -> dict[str, Any] | None:
        """Stop watching; returns the settings, or None if torch has not been imported."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        return self._states

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The other finders' spec for torch, with a loader that records the settings; None for other modules."""
        if name != "torch" or self._is_searching:
            return None
        self._is_searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._is_searching = False
        if spec is not None and spec.loader is not None:
            self._wrap(spec.loader)
        return spec

    def _wrap(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._states = _states()

        loader.exec_module = exec_module
