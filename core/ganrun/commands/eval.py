"""`ganrun eval`."""

from __future__ import annotations

from pathlib import Path

import click

from ganrun.base.faults import Faults
from ganrun.base.spinner import spinner
from ganrun.commands.options import no_plugin, set_option
from ganrun.commands.reporting import check_done
from ganrun.discovery.registry import load_registry


@click.command("eval", no_args_is_help=True)
@click.argument("path", type=click.Path(path_type=Path), metavar="RUN|CHECKPOINT|FOLDER|SAMPLES.npz")
@click.option(
    "--against",
    metavar="DATA|RECIPE.toml|STATISTICS.npz",
    help="Real images to compare with, or their published statistics. Default: the run's own data.",
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="What to measure. Default: the recipe's.")
@set_option("Override: --set metric.0.samples=5000, --set sampling.psi=0.5.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@no_plugin
def command(
    path: Path,
    against: str | None,
    metrics: tuple[str, ...],
    overrides: tuple[str, ...],
    device: str,
    blocked: tuple[str, ...],
) -> None:
    """Score a run, one of its checkpoints, a folder of images, or an .npz of samples. The scores of a run are added to
    its records.

    \b
    ganrun eval runs/wgan-… --metric kid --metric precision-recall
    ganrun eval pictures/ --against fashion-mnist --set data.size=32 --metric fid
    ganrun eval samples.npz --against cifar10 --metric fid
    ganrun eval samples.npz --against statistics.npz --set metric.0.samples=50000
    """
    with spinner("loading PyTorch") as show_stage:
        from ganrun.trained.scoring import Request, score

        request, faults = Request(path, against, metrics, overrides, device), Faults()
        scores = score(request, load_registry(blocked), lambda stage: show_stage(f"preparing {stage}"), faults)
    for each in scores:
        click.echo(each)
    check_done(faults)
