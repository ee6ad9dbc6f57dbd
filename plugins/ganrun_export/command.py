"""`ganrun export`."""

from __future__ import annotations

from pathlib import Path

import click

from ganrun import one_line, spinner


@click.command(no_args_is_help=True)
@click.argument("run", metavar="RUN|CHECKPOINT")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A new folder. Default: exports/<run>-step-<steps>.",
)
@click.option("--onnx", is_flag=True, help="Also write the programs as ONNX; needs ganrun[onnx].")
@click.option(
    "--device", default="cpu", show_default=True, help="The device that the programs run on: cpu, cuda, cuda:1 or mps."
)
def export(run: str, output: Path | None, onnx: bool, device: str) -> None:
    """Export a trained model: a folder with weights, facts, programs and a model card.

    RUN is a run directory (its latest checkpoint is exported), a checkpoint, or a tracker's id of a run.

    \b
    ganrun export runs/wgan-…
    ganrun export runs/wgan-…/checkpoints/best --output models/faces --onnx
    """
    with spinner("loading PyTorch") as show_stage:
        from ganrun_export.exporting import Request, export_run

        folder = export_run(Request(run, output, onnx, device), show_stage)
    click.echo(one_line(f"exported to {folder}; the model card is {folder / 'README.md'}"))
    click.echo(f"  in Python: import ganrun; model = ganrun.load({str(folder)!r})")
