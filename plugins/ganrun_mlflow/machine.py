"""The load of processor, memory and GPUs, as far as psutil and NVML are installed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

log = logging.getLogger("ganrun")

SECONDS_BETWEEN_READINGS = 10.0


class Machine:
    """Reads the machine's load, under the names that MLflow's page of system metrics expects."""

    def __init__(self) -> None:
        self._next = 0.0
        self._psutil = _installed("psutil")
        self._nvml = _installed("pynvml")
        self._gpus = list(_gpu_handles(self._nvml)) if self._nvml else []
        with contextlib.suppress(Exception):
            self._psutil.cpu_percent()  # the first call starts the measurement

    def read(self) -> dict[str, float]:
        """The load since the last reading; empty within `SECONDS_BETWEEN_READINGS` of it, or where it cannot be read:
        in containers, for example, psutil raises all kinds of errors."""
        if time.monotonic() < self._next:
            return {}
        self._next = time.monotonic() + SECONDS_BETWEEN_READINGS
        try:
            return {f"system/{name}": float(value) for name, value in (*self._processor(), *self._graphics())}
        except Exception as error:
            log.debug("the load of the machine cannot be read: %s", error)
            return {}

    def _processor(self) -> Iterator[tuple[str, float]]:
        if self._psutil:
            memory = self._psutil.virtual_memory()
            yield "cpu_utilization_percentage", self._psutil.cpu_percent()
            yield "system_memory_usage_megabytes", memory.used / 1e6
            yield "system_memory_usage_percentage", memory.percent

    def _graphics(self) -> Iterator[tuple[str, float]]:
        for index, gpu in enumerate(self._gpus):
            with contextlib.suppress(self._nvml.NVMLError):  # a value that this GPU does not provide
                memory = self._nvml.nvmlDeviceGetMemoryInfo(gpu)
                yield f"gpu_{index}_memory_usage_megabytes", memory.used / 1e6
                yield f"gpu_{index}_memory_usage_percentage", 100 * memory.used / memory.total
                yield f"gpu_{index}_utilization_percentage", self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu
                yield f"gpu_{index}_power_usage_watts", self._nvml.nvmlDeviceGetPowerUsage(gpu) / 1000


def _gpu_handles(nvml: Any) -> Iterator[Any]:
    with contextlib.suppress(nvml.NVMLError):  # no GPU, or no driver
        nvml.nvmlInit()
        for index in range(nvml.nvmlDeviceGetCount()):
            yield nvml.nvmlDeviceGetHandleByIndex(index)


def _installed(name: str) -> Any:
    """An optional module; None if it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        return None
