"""Whether samples are as good in bf16 as in f32: the same recipes in both, over several seeds, scored in f32.

python tests/benchmarks/bf16_quality.py OUTPUT [--only dcgan] [--seeds 0,1,2]
python tests/benchmarks/bf16_quality.py OUTPUT --report      what the runs in OUTPUT say

Both families train on Fashion-MNIST at 32×32, and the built-in classifier scores 10,000 samples. WGAN-GP
differentiates twice through its critic. A run that OUTPUT holds already is not repeated; the runs' directories stay,
with their samples. Times are those of the processor, scoring included. All twelve runs take three quarters of an hour
on a core that computes in bf16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from families import FAMILIES

from ganrun.base.devices import device_text
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import find_recipe
from ganrun.training.builder import build_run
from ganrun.training.runner import execute

PRECISIONS = ("f32", "bf16")
RECIPES = {
    "dcgan": (
        FAMILIES["gan, dcgan"].recipe,
        (
            *FAMILIES["gan, dcgan"].overrides,
            "ema.decay=0.998",
            "train.steps=2600",
            "train.evaluate_every_steps=2600",
            "samples={every_steps = 500}",
        ),
    ),
    "wgan-gp": (
        FAMILIES["wgan-gp"].recipe,
        (
            *FAMILIES["wgan-gp"].overrides,
            "train.steps=500",
            "train.evaluate_every_steps=500",
            "samples={every_steps = 100}",
        ),
    ),
}
"""A shipped recipe, and what is changed in it."""


def main() -> None:
    options = _options()
    if not options.report:
        for seed in map(int, options.seeds.split(",")):
            for family in options.only.split(","):
                for precision in PRECISIONS:
                    _train(options.output, family, precision, seed)
    _report(options.output)


def _train(output: Path, family: str, precision: str, seed: int) -> None:
    """Train, unless that is done; the result is a line of results.jsonl."""
    key = {"family": family, "precision": precision, "seed": seed}
    if any(key.items() <= result.items() for result in _results(output)):
        return
    folder = output / f"{family}-{precision}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
    recipe, overrides = RECIPES[family]
    chosen = [*overrides, f"train.precision={precision}", f"train.seed={seed}", "train.device=cpu"]
    run = build_run(
        load_recipe(find_recipe(Path(recipe)), load_registry(), [*chosen, "mlflow=false", "progress=false"]), folder
    )
    started = time.process_time()
    execute(run)
    scores = {score.name: score.value for score in run.scores.values()}
    result = {**key, "steps": run.step, "cpu_seconds": time.process_time() - started, **scores}
    with (output / "results.jsonl").open("a", encoding="utf-8") as file:
        print(json.dumps(result), file=file)
    print(json.dumps(result), flush=True)


# ── What came of it ───────────────────────────────────────────────────────────────────────────────────────


def _report(output: Path) -> None:
    print(f"{device_text(torch.device('cpu'))}, torch {torch.__version__}\n")
    print("| family | precision | steps | CPU seconds | n | `fid_classifier` | `inception_score_classifier` |")
    print("| --- " * 7 + "|")
    for family in RECIPES:
        for precision in PRECISIONS:
            if found := _found(output, family, precision):
                columns = ("fid_classifier", "inception_score_classifier")
                cells = [_spread([result[name] for result in found], 3) for name in columns]
                seconds = _spread([result["cpu_seconds"] for result in found], 0)
                steps = f"{found[0]['steps']:,}"
                print("|", " | ".join((family, precision, steps, seconds, str(len(found)), *cells)), "|")
    print()
    for family in RECIPES:
        f32, bf16 = ({each["seed"]: each for each in _found(output, family, precision)} for precision in PRECISIONS)
        if len(pairs := f32.keys() & bf16.keys()) > 1:
            for name in ("fid_classifier", "inception_score_classifier"):
                values = [[found[seed][name] for seed in sorted(pairs)] for found in (f32, bf16)]
                print(f"{family}, {name}: {_verdict(*values)}")


def _verdict(f32: Sequence[float], bf16: Sequence[float]) -> str:
    """Where bf16's mean lies among the seeds of f32, and the differences seed by seed: with the same seed, the weights
    at first, the order of the data and the latents are the same."""
    mean = statistics.mean(bf16)
    place = "within" if min(f32) <= mean <= max(f32) else "outside"
    differences = [second - first for first, second in zip(f32, bf16, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    by_seed = f"{', '.join(f'{each:+.3f}' for each in differences)}, mean {statistics.mean(differences):+.3f}"
    return (
        f"bf16's mean {mean:.3f} is {place} f32's seeds, {min(f32):.3f} to {max(f32):.3f}; "
        f"differences by seed {by_seed}, its standard error {error:.3f}"
    )


def _found(output: Path, family: str, precision: str) -> list[dict]:
    key = {"family": family, "precision": precision}
    return [result for result in _results(output) if key.items() <= result.items()]


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _results(output: Path) -> list[dict]:
    path = output / "results.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", default=",".join(RECIPES), help="families, with commas between them")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--report", action="store_true", help="train nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
