"""That translation and restoration learn: shipped recipes on data that needs no download, beside what is simpler.

python tests/benchmarks/images_from_images.py OUTPUT [--only pix2pix,srresnet] [--seeds 0,1,2] [--learn FOLDER]
    [--photographs FOLDER]
python tests/benchmarks/images_from_images.py OUTPUT --report      the tables of the runs in OUTPUT

Everything is done by the command line, as a user does it. Each run is a shipped recipe; what differs from it is written
below. A run that OUTPUT holds already is not repeated. Translations of emoji are compared with their sources as they
are, and with the mean colour of the drawings to learn from; restorations with their sources, enlarged by bicubic
interpolation where they are smaller: on the recipe's test crops, and, with `--photographs`, on tiles of photographs in
a folder, none of which the networks or their settings have seen. With `--learn`, one network learns from a folder of
other photographs, instead of the two that the recipe has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

QUIET = ("mlflow=false", "progress=false", "samples.every_steps=1_000_000", "train.evaluate_every_steps=1_000_000")
BASELINE = ("metric.0.baseline=true",)
OVERLAPPING = 48
"""Pixels between tiles to learn from."""


class Task(NamedTuple):
    """A shipped recipe, its steps here, and the size of its images."""

    recipe: str
    steps: int
    size: int
    overrides: tuple[str, ...] = BASELINE
    on_photographs: bool = True
    """Whether it is also scored on the folder of photographs."""
    learns: bool = False
    """Whether it learns from the other folder."""


TASKS = {
    "pix2pix": Task("pix2pix_emoji.toml", 4_000, 32, on_photographs=False),
    "cyclegan": Task("cyclegan_emoji.toml", 8_000, 32, (), on_photographs=False),
    "srresnet": Task("srresnet_photographs.toml", 2_500, 64),
    "srresnet-folder": Task("srresnet_photographs.toml", 2_500, 64, (), learns=True),
    "denoise": Task("denoise_photographs.toml", 1_500, 40),
    "deblur": Task("deblur_photographs.toml", 2_500, 32),
}


def main() -> None:
    options = _options()
    names = [name for name in options.only.split(",") if options.learn or not TASKS[name].learns]
    if not options.report:
        for seed in options.seeds.split(","):
            for name in names:
                _train(options.output, name, seed, options.learn)
                if options.photographs and TASKS[name].on_photographs:
                    _score_photographs(options.output, name, seed, options.photographs)
        if {"pix2pix", "cyclegan"} & set(names):
            _score_simpler(options.output)
    for name in names:
        _report(options.output, name)
    _report_simpler(options.output)


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────────────


def _run_folder(output: Path, name: str, seed: str) -> Path:
    return output / "runs" / f"{name}-{seed}"


def _train(output: Path, name: str, seed: str, learn: Path | None) -> None:
    """Train, unless that is done; an interrupted run is resumed."""
    task, folder = TASKS[name], _run_folder(output, name, seed)
    if _is_finished(folder / "summary.json"):
        return
    own = [_data_of(output, learn, task.size, OVERLAPPING)] if task.learns and learn else []
    changed = [*QUIET, *task.overrides, *own, f"train.steps={task.steps}", f"train.seed={seed}", "train.device=cpu"]
    _ganrun(task.recipe, "--output", folder, "--resume" if folder.is_dir() else "", *_settings(changed))


def _is_finished(summary: Path) -> bool:
    return summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "finished"


def _score_photographs(output: Path, name: str, seed: str, photographs: Path) -> None:
    """Score a run on tiles of other photographs, unless that is done."""
    task, folder = TASKS[name], _run_folder(output, name, seed)
    if "psnr@degraded" in _scores(folder):
        return
    data = _data_of(output, photographs, task.size, task.size)
    count = len(list(_tiles(output, photographs, task.size).iterdir()))
    _ganrun("eval", folder, *_settings([data, *BASELINE, f"metric.0.samples={count}"]))


def _data_of(output: Path, photographs: Path, size: int, step: int) -> str:
    """The override that has tiles of photographs degraded."""
    tiles = _tiles(output, photographs, size)
    _cut(photographs, tiles, size, step)
    return f'data.of={{use = "image-folder", root = "{tiles.resolve()}", size = {size}, labelled = false}}'


def _tiles(output: Path, photographs: Path, size: int) -> Path:
    return output / "tiles" / f"{photographs.name}-{size}"


def _cut(photographs: Path, tiles: Path, size: int, step: int) -> None:
    """Cut photographs in colour into tiles, `step` pixels apart, unless that is done."""
    if tiles.is_dir():
        return
    tiles.mkdir(parents=True)
    for path in sorted(photographs.iterdir()):
        picture = Image.open(path).convert("RGB")
        for top in range(0, picture.height - size + 1, step):
            for left in range(0, picture.width - size + 1, step):
                tile = picture.crop((left, top, left + size, top + size))
                tile.save(tiles / f"{path.stem}-{top:04}-{left:04}.png")


def _score_simpler(output: Path) -> None:
    """FID and L1 of sources as they are, and of the mean colour, over the test drawings."""
    from ganrun_datasets.emoji.data import Emoji

    path = output / "simpler.json"
    if path.is_file():
        return
    data = Emoji(Emoji.Settings(size=32, vendor="google", paired=True))
    data.prepare()
    test = data.split("test")
    mean = data.split("train").images.mean((0, 2, 3)).round().astype(np.uint8)
    simpler = {
        "the source as it is": test.beside["source"],
        "the mean colour": np.broadcast_to(mean[None, :, None, None], test.images.shape),
    }
    found = {}
    for name, pictures in simpler.items():
        folder = output / "pictures" / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        for place, picture in enumerate(pictures):
            Image.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{place:05}.png")
        scored = ["size=32", 'vendor="google"']
        measured = ["features='classifier'", f"samples={len(pictures)}", 'split="test"']
        said = _ganrun(
            *("eval", folder, "--against", "emoji", "--metric", "fid"),
            *_settings([f"data.{each}" for each in scored] + [f"metric.0.{each}" for each in measured]),
        )
        l1 = np.abs(pictures.astype(float) - test.images).mean() / 255
        fid = float(next(line for line in said.splitlines() if line.startswith("fid_classifier")).split()[1])
        found[name] = {"l1": l1, "fid_classifier": fid}
    path.write_text(json.dumps(found))


def _settings(changed: Sequence[str]) -> Iterator[str]:
    for each in changed:
        yield from ("--set", each)


def _ganrun(*arguments: str | Path) -> str:
    """What ganrun prints; a failure ends the benchmark."""
    command = [sys.executable, "-m", "ganrun", *(str(argument) for argument in arguments if argument != "")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}")
    return done.stdout


# ── What came of it ───────────────────────────────────────────────────────────────────────────────────────


def _scores(folder: Path) -> dict[str, float]:
    """The latest scores of a run by name, without those whose names say more than the metric."""
    found: dict[str, Any] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        found |= {key.removeprefix("eval/"): value for key, value in record.items() if key.startswith("eval/")}
    return found


def _report(output: Path, name: str) -> None:
    folders = sorted((output / "runs").glob(f"{name}-[0-9]*"))
    results = [_scores(folder) for folder in folders]
    if not results:
        return
    print(f"\n{name}, {TASKS[name].steps:,} steps, n = {len(results)}\n\n| score | mean ± standard deviation | each |")
    print("| --- | --- | --- |")
    for score in results[0]:
        values = [result[score] for result in results if score in result]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        print(
            f"| `{score}` | {statistics.mean(values):.4f}{spread} | {', '.join(f'{value:.4f}' for value in values)} |"
        )


def _report_simpler(output: Path) -> None:
    path = output / "simpler.json"
    for name, scores in json.loads(path.read_text()).items() if path.is_file() else ():
        print(f"{name}: {', '.join(f'{key} {value:.4f}' for key, value in scores.items())}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", default=",".join(TASKS), help="tasks, with commas between them")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--learn", type=Path, help="a folder of photographs to learn from; without it, the recipe's two"
    )
    parser.add_argument(
        "--photographs", type=Path, help="a folder of other photographs, on which restorations are scored"
    )
    parser.add_argument("--report", action="store_true", help="train nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
