"""Writes recipe.toml, environment.json and summary.json into a run's directory."""

from __future__ import annotations

import tomli_w

from ganrun.base.secrets import without_secrets
from ganrun.rundir.records import ENVIRONMENT, RECIPE, SUMMARY, Summary
from ganrun.training.run import Run


def write_facts(run: Run) -> None:
    """Write recipe.toml, with every default, and environment.json.

    Raises:
        RunError: if they cannot be written.
    """
    text = f"{run.recipe.source.preamble}\n{tomli_w.dumps(run.recipe.resolved())}".lstrip()
    run.directory.write_text(RECIPE, text)
    environment = run.directory.write_json(ENVIRONMENT, run.environment)
    run.announce(run.directory.recipe_path, "recipe")
    run.announce(environment, "environment")


def write_summary(run: Run, status: str, error: BaseException | None = None) -> None:
    """Write summary.json with the run's present state.

    Args:
        run: The run.
        status: `running`, `finished`, `failed` or `interrupted`.
        error: What stopped the run, if it failed.

    Raises:
        RunError: if it cannot be written.
    """
    summary = Summary(
        name=run.name,
        status=status,
        steps=run.step,
        images_seen=run.images_seen,
        seconds=run.state.seconds,
        images_per_second=run.state.images_per_second,
        device=run.environment["device_name"],
        error=None if error is None else without_secrets(str(error)) or type(error).__name__,
        evaluation=tuple(run.scores.values()),
        last=run.last_files,
        notes=run.notes,
    )
    path = run.directory.write_json(SUMMARY, summary.to_json())
    if run.directory.metrics_path.is_file():
        run.announce(run.directory.metrics_path, "metrics")
    run.announce(path, "summary")
