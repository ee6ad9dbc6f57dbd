"""The entry point of the command line. `ganrun.commands` has one module for each command."""

from __future__ import annotations

import click

from ganrun.base.collector import relax_garbage_collection
from ganrun.commands.group import RecipeGroup, set_up_logging


@click.group(cls=RecipeGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ganrun")
def main() -> None:
    """Train, score and compare generative image models: one TOML recipe is one experiment.

    \b
    ganrun recipes/quickstart.toml                     train it
    ganrun recipes/quickstart.toml --set train.steps=50
    ganrun list                                        what a recipe can use
    ganrun show loss gan                               the settings of one component
    """
    relax_garbage_collection()
    set_up_logging()


if __name__ == "__main__":
    main()
