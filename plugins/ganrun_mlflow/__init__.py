"""MLflow: mirrors the parameters, curves, scores and pictures of every run in a tracking store, to compare runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    import click

    from ganrun import HealthCheck, Observer, Tracker


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    """The observer `mlflow`."""
    from ganrun_mlflow.observer import Mlflow

    return {"mlflow": Mlflow}


@hookimpl
def ganrun_commands() -> Mapping[str, click.Command]:
    """The commands `sync` and `ui`."""
    from ganrun_mlflow.commands import sync, ui

    return {"sync": sync, "ui": ui}


@hookimpl
def ganrun_trackers() -> Mapping[str, Tracker]:
    """The tracker `mlflow`."""
    from ganrun_mlflow.tracker import MlflowTracker

    return {"mlflow": MlflowTracker()}


@hookimpl
def ganrun_health_checks() -> Mapping[str, Callable[[], HealthCheck]]:
    """The check `tracking store`."""
    from ganrun_mlflow.tracker import check_store

    return {"tracking store": check_store}
