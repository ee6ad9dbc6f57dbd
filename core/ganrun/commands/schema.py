"""`ganrun schema`."""

from __future__ import annotations

from pathlib import Path

import click

from ganrun.base.spinner import spinner
from ganrun.commands.options import output_option
from ganrun.discovery.registry import load_registry


@click.command("schema")
@output_option(default=Path("ganrun.schema.json"), show_default=True)
def command(output: Path) -> None:
    """Write a JSON Schema of recipes with the installed components' settings, for completion in an editor."""
    with spinner("loading PyTorch"):
        from ganrun.recipe.schema import write_schema

        registry = load_registry()
        write_schema(registry, output)
    for name, reason in registry.broken().items():
        click.echo(f'warning: the plugin "{name}" is broken and left out: {reason}', err=True)
    click.echo(f"wrote {output}; make this the first line of a recipe:  #:schema ./{output.name}")
