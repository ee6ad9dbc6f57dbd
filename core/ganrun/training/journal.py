"""What the runner writes into a run's directory."""

from __future__ import annotations

import tomli_w

from ganrun.rundir.records import ENVIRONMENT, METRICS, RECIPE, SUMMARY, Summary
from ganrun.training.run import Run


def write_facts(run: Run) -> None:
    """Write recipe.toml and environment.json: what is trained, and with what.

    Raises:
        RunError: if they cannot be written.
    """
    text = f"{run.recipe.source.preamble}\n{tomli_w.dumps(run.recipe.resolved())}".lstrip()
    run.directory.write_text(RECIPE, text)
    run.directory.write_json(ENVIRONMENT, run.environment)
    run.announce(run.directory / RECIPE, "recipe")
    run.announce(run.directory / ENVIRONMENT, "environment")


def write_summary(run: Run, status: str, error: BaseException | None = None) -> None:
    """Write summary.json as of now.

    Args:
        run: What is summed up.
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
        error=None if error is None else str(error) or type(error).__name__,
        evaluation=tuple(run.scores.values()),
        last=run.last_files,
        notes=run.notes,
    )
    run.directory.write_json(SUMMARY, summary.to_json())
    if (run.directory / METRICS).is_file():
        run.announce(run.directory / METRICS, "metrics")
    run.announce(run.directory / SUMMARY, "summary")
