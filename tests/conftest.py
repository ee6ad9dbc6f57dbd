"""Settings of the test processes."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes with a thread per core each would wait for one another. Set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Keep xdist from moving files of few tests to the end, because the longest one is among them."""
    config.option.loadscopereorder = False


LONG = ("test_readme_command.py", "test_recipes.py", "test_disturbed_runs.py", "test_several_processes.py")
"""Files that take a minute or two, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with long files, so that no process waits for one of them at the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


# Both of them measure how busy the machine is.
settings.register_profile("ganrun", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ganrun")


@pytest.fixture(autouse=True, scope="session")
def unflushed() -> Iterator[None]:
    """Leave out what only a power cut would show: most of the time of a small run is spent on flushing its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def library_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test with the log as `import ganrun` leaves it: the command line of an earlier test has changed it."""
    logger = logging.getLogger("ganrun")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])


@pytest.fixture(scope="session")
def pair() -> Iterator[Any]:
    """Two ranks, `tests.pair.Pair`."""
    from tests.pair import Pair  # imports torch

    ranks = Pair()
    yield ranks
    ranks.close()
