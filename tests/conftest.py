"""What holds for all tests."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes with all threads each would wait for one another. Set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist puts files of few tests last, and the longest test is alone in one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The run of the README first: whatever comes last, the other processes wait for."""
    items.sort(key=lambda item: item.path.name != "test_readme_command.py")
