"""The commands that draw pictures of what was trained: they parse and print, and import nothing slow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ganrun_samples.making import Maker
    from ganrun_samples.target import Target

HELP = {"help_option_names": ["-h", "--help"]}


def _options(
    name: str, count: int | None, meaning: str = "How many."
) -> Callable[[Callable[..., None]], click.Command]:
    """What all of them take."""

    def decorate(function: Callable[..., None]) -> click.Command:
        for option in (
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps."),
            click.option(
                "--output",
                type=click.Path(path_type=Path),
                metavar="FILE.png|FOLDER",
                help="One PNG, or a new folder of them. Default: a PNG in the run's own folder pictures/.",
            ),
            click.option("-n", "--count", type=click.IntRange(1), default=count, show_default=True, help=meaning),
            click.argument("run", metavar="RUN"),
        ):
            function = option(function)
        return click.command(name, no_args_is_help=True, context_settings=HELP)(function)

    return decorate


_SEED = click.option("--seed", type=click.IntRange(0), help="Which ones. Default: always the same.")
_LABEL = click.option("--label", type=click.IntRange(0), help="The class of all, of a model that knows classes.")
_COLUMNS = click.option("--columns", type=click.IntRange(1), help="Pictures in a row. Default: about a square.")
_STEPS = click.option("--columns", type=click.IntRange(2, 512), default=10, show_default=True, help="Steps of a row.")


@_options("sample", 64)
@_COLUMNS
@_LABEL
@_SEED
def sample(
    run: str, count: int, output: Path | None, device: str, seed: int | None, label: int | None, columns: int | None
) -> None:
    """Draw samples of RUN: a run directory, a checkpoint, an exported folder, or an MLflow run id.

    They are those that the run's scores are made of, the first ones first, unless --seed asks for others. So a folder
    of as many as were scored has the run's own score.

    \b
    ganrun sample runs/wgan-… -n 64
    ganrun sample runs/wgan-…/checkpoints/best -n 5000 --output pictures/
    """
    maker = _maker(run, device)
    target = maker.target("sample", output, seed=seed, label=label)
    _tell(target, maker.sample(target, count, columns, seed, label))


@_options("interpolate", 8, "Rows.")
@_STEPS
@_LABEL
@_SEED
def interpolate(
    run: str, count: int, output: Path | None, device: str, seed: int | None, label: int | None, columns: int
) -> None:
    """Go from samples of RUN to others: a row for each pair; in a folder, a picture for each step.

    Noise moves along a great circle (slerp), what is uniform straight; classes and categorical codes stay.

    \b
    ganrun interpolate runs/wgan-…
    ganrun interpolate runs/wgan-… -n 16 --columns 60 --output frames/
    """
    maker = _maker(run, device)
    target = maker.target("interpolate", output, seed=seed, label=label)
    _tell(target, maker.interpolate(target, count, columns, seed, label))


@_options("traverse", None, "Rows for each. Default: as many as make ten in all.")
@_STEPS
@click.option(
    "--dimensions", metavar="0,3,7", help="Latents, counted from 0. Default: all codes, or what matters most."
)
@_LABEL
@_SEED
def traverse(
    run: str,
    count: int | None,
    output: Path | None,
    device: str,
    seed: int | None,
    label: int | None,
    dimensions: str | None,
    columns: int,
) -> None:
    """Vary one latent of RUN at a time, a row for each code or dimension; in a folder, a picture for each step.

    Categorical codes go through their values, continuous ones from -2 to 2, noise from -3 to 3. Of a model without
    codes, those ten latents are taken that change its samples most.

    \b
    ganrun traverse runs/infogan-… -n 3
    ganrun traverse runs/vae-… --dimensions 0,3,7
    """
    maker = _maker(run, device)
    target = maker.target("traverse", output, seed=seed, label=label)
    _tell(target, maker.traverse(target, count, columns, dimensions, seed, label))


@_options("reconstruct", 32)
@_COLUMNS
@click.option("--split", type=click.Choice(["test", "train"]), help="Whose images. Default: test where there is one.")
def reconstruct(run: str, count: int, output: Path | None, device: str, columns: int | None, split: str | None) -> None:
    """Show real images, each above what RUN makes of it; in a folder, a picture for each.

    \b
    ganrun reconstruct runs/vae-… -n 16
    """
    maker = _maker(run, device)
    target = maker.target("reconstruct", output, split=split)
    _tell(target, maker.reconstruct(target, count, columns, split))


def _maker(run: str, device: str) -> Maker:
    from ganrun import spinner

    with spinner("loading PyTorch"):
        from ganrun_samples.making import Maker

        return Maker(run, device)


def _tell(target: Target, pictures: int) -> None:
    """What was written, and where."""
    click.echo(f"wrote {pictures:,} pictures to {target.path}" if target.is_folder else f"wrote {target.path}")


COMMANDS = {"sample": sample, "interpolate": interpolate, "traverse": traverse, "reconstruct": reconstruct}
