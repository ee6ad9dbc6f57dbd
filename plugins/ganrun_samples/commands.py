"""The commands that draw pictures of a trained model. They parse and print, and import nothing slow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ganrun_samples.making import Maker


def _options(
    name: str, count: int | None, meaning: str = "How many."
) -> Callable[[Callable[..., None]], click.Command]:
    """The argument and the options that all commands have."""

    def decorate(function: Callable[..., None]) -> click.Command:
        for option in (
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps."),
            click.option(
                "-o",
                "--output",
                type=click.Path(path_type=Path),
                metavar="FILE.png|FOLDER",
                help="One PNG, or a new folder of them. Default: a PNG in the run's own folder pictures/.",
            ),
            click.option("-n", "--count", type=click.IntRange(1), default=count, show_default=True, help=meaning),
            click.argument("run", metavar="RUN"),
        ):
            function = option(function)
        return click.command(name, no_args_is_help=True)(function)

    return decorate


_SET = click.option(
    "-s",
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change sampling, --set sampling.psi=0.5; or give the data's location, --set data.root=DIR.",
)
_SEED = click.option("--seed", type=click.IntRange(0), help="Draw other samples. Default: always the same.")
_LABEL = click.option(
    "--label", metavar="NAME", help="The class of all samples, or its number; for conditional models."
)
_LABELS = click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME",
    help="The class of the samples, or its number; for conditional models. Of several, each has a row of --count.",
)
_COLUMNS = click.option("--columns", type=click.IntRange(1), help="Images in a row. Default: about a square.")
_STEPS = click.option("--columns", type=click.IntRange(2, 512), default=10, show_default=True, help="Steps in a row.")


@_options("sample", 64)
@_SET
@_COLUMNS
@_LABELS
@_SEED
def sample(
    run: str,
    count: int,
    output: Path | None,
    device: str,
    seed: int | None,
    labels: tuple[str, ...],
    columns: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Draw samples of RUN: a run directory, a checkpoint, an exported folder, or an MLflow run id.

    Unless --seed is given, these are the samples that the run's scores are measured on, in the same order. So a folder
    of equally many samples has the run's own score.

    \b
    ganrun sample runs/wgan-… -n 64
    ganrun sample runs/wgan-…/checkpoints/best -n 5000 --output pictures/
    ganrun sample runs/acgan-… --label cat --label dog -n 8
    ganrun sample runs/style-… --set sampling.psi=0.5
    """
    maker = _maker(run, device, overrides)
    numbers = [maker.label(each) for each in labels]
    target = maker.target("sample", output, seed=seed, label="-".join(map(str, numbers)) or None)
    maker.sample(target, count, columns, seed, numbers)
    click.echo(target.report())


@_options("interpolate", 8, "Rows.")
@_SET
@_STEPS
@_LABEL
@_SEED
def interpolate(
    run: str,
    count: int,
    output: Path | None,
    device: str,
    seed: int | None,
    label: str | None,
    columns: int,
    overrides: tuple[str, ...],
) -> None:
    """Interpolate between samples of RUN: a row for each pair; in a folder, a picture for each step.

    Normal noise moves along a great circle (slerp), uniform noise linearly; classes and categorical codes are constant.

    \b
    ganrun interpolate runs/wgan-…
    ganrun interpolate runs/wgan-… -n 16 --columns 60 --output frames/
    """
    maker = _maker(run, device, overrides)
    number = maker.label(label)
    target = maker.target("interpolate", output, seed=seed, label=number)
    maker.interpolate(target, count, columns, seed, number)
    click.echo(target.report())


@_options("traverse", None, "Rows for each. Default: as many as make ten in all.")
@_SET
@_STEPS
@click.option(
    "--dimensions", metavar="0,3,7", help="Latents, counted from 0. Default: all codes, or the most active latents."
)
@_LABEL
@_SEED
def traverse(
    run: str,
    count: int | None,
    output: Path | None,
    device: str,
    seed: int | None,
    label: str | None,
    dimensions: str | None,
    columns: int,
    overrides: tuple[str, ...],
) -> None:
    """Vary one latent of RUN at a time, a row for each code or latent; in a folder, a picture for each step.

    Categorical codes take all their values, continuous ones go from -2 to 2, noise from -3 to 3. For a model without
    codes, the ten latents that change its samples most are varied.

    \b
    ganrun traverse runs/infogan-… -n 3
    ganrun traverse runs/vae-… --dimensions 0,3,7
    """
    maker = _maker(run, device, overrides)
    number = maker.label(label)
    target = maker.target("traverse", output, seed=seed, label=number)
    maker.traverse(target, count, columns, dimensions, seed, number)
    click.echo(target.report())


@_options("reconstruct", 32)
@_SET
@_COLUMNS
@click.option("--split", type=click.Choice(["test", "train"]), help="Default: test, if the data has it.")
def reconstruct(
    run: str,
    count: int,
    output: Path | None,
    device: str,
    columns: int | None,
    split: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Show real images, each above its reconstruction by RUN; in a folder, a picture for each.

    \b
    ganrun reconstruct runs/vae-… -n 16
    ganrun reconstruct exports/faces --set data.root=DIR
    """
    maker = _maker(run, device, overrides)
    target = maker.target("reconstruct", output, split=split)
    maker.reconstruct(target, count, columns, split)
    click.echo(target.report())


_DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
_OUTPUT_HELP = "Default: in the run's own folder pictures/."


@click.command("translate", no_args_is_help=True)
@click.argument("run", metavar="RUN")
@click.argument("pictures", nargs=-1, required=True, metavar="IN…", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.png|FOLDER", help=f"A new one. {_OUTPUT_HELP}"
)
@click.option("--whole", is_flag=True, help="Resize each picture to what RUN was trained on, and the result back.")
@click.option("--reverse", is_flag=True, help="Make sources from images instead, with a RUN that has learned both.")
@_SET
@_DEVICE
def translate(
    run: str,
    pictures: tuple[Path, ...],
    output: Path | None,
    whole: bool,
    reverse: bool,
    overrides: tuple[str, ...],
    device: str,
) -> None:
    """Make images of your own pictures with RUN, which was trained to make images from images.

    IN… are pictures and folders of them, of any size. Pictures larger than RUN's training images are made from
    overlapping tiles. That suits restoration, enlargement and textures; if a picture must be seen as a whole, use
    --whole. Pictures are turned upright, and transparency is laid on white.

    \b
    ganrun translate runs/pix2pix-… sketch.png --whole
    ganrun translate runs/srgan-… holiday/ --output larger/
    ganrun translate runs/cyclegan-… zebra.jpg --reverse
    """
    from ganrun_samples.own_pictures import OwnPictures

    own, maker = OwnPictures(pictures), _maker(run, device, overrides)
    alone = next(iter(own.files)) if len(own.files) == 1 else None
    subject, end = Path(alone or "").stem, ".png" if alone else ""
    target = maker.target("translate", output, subject=subject, end=end, whole=whole, reverse=reverse)
    maker.translate(target, own, whole=whole, reverse=reverse)
    click.echo(target.report())
    own.check()


@click.command("restore", no_args_is_help=True)
@click.argument("run", metavar="RUN")
@click.argument("picture", metavar="PICTURE", type=click.Path(path_type=Path))
@click.option(
    "--mask",
    required=True,
    type=click.Path(path_type=Path),
    help="A picture as large as PICTURE, white where pixels are missing and black elsewhere.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE.png", help=f"A new one. {_OUTPUT_HELP}")
@_SET
@_DEVICE
def restore(run: str, picture: Path, mask: Path, output: Path | None, overrides: tuple[str, ...], device: str) -> None:
    """Fill in the missing pixels of PICTURE with RUN, which was trained on images with masks.

    All other pixels are unchanged.

    \b
    ganrun restore runs/inpaint-… photograph.jpg --mask scratches.png --output whole.png
    """
    maker = _maker(run, device, overrides)
    target = maker.target("restore", output, subject=picture.stem, mask=mask.stem)
    maker.restore(target, picture, mask)
    click.echo(target.report())


def _maker(run: str, device: str, overrides: tuple[str, ...]) -> Maker:
    from ganrun import spinner

    with spinner("loading PyTorch"):
        from ganrun_samples.making import Maker

        return Maker(run, device, overrides)


COMMANDS = {
    "sample": sample,
    "interpolate": interpolate,
    "traverse": traverse,
    "reconstruct": reconstruct,
    "translate": translate,
    "restore": restore,
}
