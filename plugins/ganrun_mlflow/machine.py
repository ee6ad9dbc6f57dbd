"""How busy the machine is: processor, memory and GPUs, as far as psutil and NVML are installed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

SECONDS_BETWEEN_READINGS = 10.0


class Machine:
    """Reads the machine's load, under the names that MLflow's page for system metrics knows."""

    def __init__(self) -> None:
        self._next = 0.0
        self._psutil = _installed("psutil")
        self._nvml = _installed("pynvml")
        if self._psutil:
            self._psutil.cpu_percent()  # it tells the load since it was asked last
        self._gpus: list[Any] = []
        if self._nvml:
            with contextlib.suppress(self._nvml.NVMLError):  # no GPU, or no driver
                self._nvml.nvmlInit()
                self._gpus = [
                    self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self._nvml.nvmlDeviceGetCount())
                ]

    def read(self) -> dict[str, float]:
        """The load since the last reading; nothing where that is not long ago."""
        if time.monotonic() < self._next:
            return {}
        self._next = time.monotonic() + SECONDS_BETWEEN_READINGS
        return {f"system/{name}": float(value) for name, value in (*self._processor(), *self._graphics())}

    def _processor(self) -> Iterator[tuple[str, float]]:
        if self._psutil:
            memory = self._psutil.virtual_memory()
            yield "cpu_utilization_percentage", self._psutil.cpu_percent()
            yield "system_memory_usage_megabytes", memory.used / 1e6
            yield "system_memory_usage_percentage", memory.percent

    def _graphics(self) -> Iterator[tuple[str, float]]:
        for index, gpu in enumerate(self._gpus):
            with contextlib.suppress(self._nvml.NVMLError):  # a figure that this GPU does not tell
                memory = self._nvml.nvmlDeviceGetMemoryInfo(gpu)
                yield f"gpu_{index}_memory_usage_megabytes", memory.used / 1e6
                yield f"gpu_{index}_memory_usage_percentage", 100 * memory.used / memory.total
                yield f"gpu_{index}_utilization_percentage", self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu
                yield f"gpu_{index}_power_usage_watts", self._nvml.nvmlDeviceGetPowerUsage(gpu) / 1000


def _installed(name: str) -> Any:
    """A module that may be there; None where it is not."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        return None
