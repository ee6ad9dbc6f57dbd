"""Pictures: of a run's progress, from fixed latents; and of trained models, by commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    import click

    from ganrun import Observer


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    """The observer `samples`."""
    from ganrun_samples.observer import Samples

    return {"samples": Samples}


@hookimpl
def ganrun_commands() -> Mapping[str, click.Command]:
    """The commands that draw pictures of a trained model."""
    from ganrun_samples.commands import COMMANDS

    return COMMANDS
