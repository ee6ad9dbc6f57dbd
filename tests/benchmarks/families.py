"""That the families learn: on Fashion-MNIST, emoji, the digits and Gaussians, over several seeds, within a budget.

python tests/benchmarks/families.py OUTPUT [--only digits] [--seeds 0,1,2]
python tests/benchmarks/families.py OUTPUT --report      what the runs in OUTPUT say: tables, and OUTPUT/*.png

Each run is a shipped recipe, cut to a number of steps that a CPU core makes in a few minutes. What differs from the
recipe is written below, and nothing else does. A run that OUTPUT holds already is not repeated. Time is told in seconds
of processor time, scoring included, so that other work on the machine counts little. `ganrun data path emoji` says
which files emoji needs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont

from ganrun.base.devices import device_text
from ganrun.contracts.data import to_uint8
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import find_recipe
from ganrun.training.builder import build_run
from ganrun.training.run import Run
from ganrun.training.runner import execute

NARROW = ("generator.feature_maps=24", "discriminator.feature_maps=24")
SHORT = ("ema={decay = 0.995}", "train.batch_size=64")
FASTER_GENERATOR = (*NARROW, *SHORT, "optimizer.lr=4e-4", "optimizer.discriminator.lr=2e-4")
CONV = ("generator.use=conv", "generator.stages=2", "discriminator.use=conv", "discriminator.stages=2", *NARROW)
DENSE = ("generator.use=mlp", "discriminator.use=mlp", "data.size=28")
SMALL_BATCHES = ("ema={decay = 0.99}", "train.batch_size=32")
TWO_SIZES = ("generator.widths=[16, 16, 16, 16]", "discriminator.widths=[16, 16]")
FOUR_SIZES = ("generator.widths=[32, 32, 16, 16]", "discriminator.widths=[32, 32, 16, 16]")
GROUPED = ("generator.widths=[32, 32, 16, 8]", "discriminator.widths=[32, 32, 16, 8]")
GROUPED = (*GROUPED, "generator.cardinality=4", "discriminator.cardinality=4")
STYLES = ("generator.width=256", "generator.widest=32", "discriminator.width=256", "discriminator.widest=32")
TWO_RATES = ("optimizer.lr=4e-4", "optimizer.schedule=constant", "optimizer.discriminator.lr=8e-4")
RESIDUAL = (*TWO_SIZES, *TWO_RATES, *SMALL_BATCHES, "train.repeat={discriminator = 1}")


class Family(NamedTuple):
    """A shipped recipe, what is changed in it, and the steps for each data set."""

    recipe: str
    overrides: tuple[str, ...]
    steps: dict[str, int]
    metrics: tuple[str, ...] = ("fid", "inception-score")


def on_images(steps: int) -> dict[str, int]:
    """The same number of steps on grey photographs and on drawings in colour."""
    return {"fashion-mnist": steps, "emoji": steps}


BY_CLASS = ("fid", "inception-score", "code-accuracy")
ENCODED = ("fid", "reconstruction")

FAMILIES = {
    "gan, dense": Family("dcgan_fashion_mnist.toml", (*DENSE, *SHORT), {"fashion-mnist": 5000, "digits": 3000}),
    "gan, dcgan": Family("dcgan_fashion_mnist.toml", FASTER_GENERATOR, {**on_images(800), "digits": 500}),
    "gan, dcgan, diffaugment": Family(
        "dcgan_fashion_mnist.toml", (*FASTER_GENERATOR, "augmentation.use=diffaugment"), {"emoji": 800}
    ),
    # With batch norm the discriminator wins within 500 steps on the digits, and the samples become one.
    "lsgan": Family(
        "lsgan_fashion_mnist.toml",
        (*FASTER_GENERATOR, "discriminator.norm=spectral"),
        {"fashion-mnist": 800, "digits": 500},
    ),
    "wgan, clipped": Family(
        "wgan_clip_cifar10.toml", (*NARROW, *SHORT, "optimizer.schedule=constant", "optimizer.lr=5e-4"), on_images(800)
    ),
    "wgan-gp": Family(
        "wgan_gp_fashion_mnist.toml", (*NARROW, *SHORT, "optimizer.lr=5e-4"), {"fashion-mnist": 220, "digits": 150}
    ),
    "vae": Family(
        "vae_fashion_mnist.toml",
        ("generator.feature_maps=32", "encoder.feature_maps=32", "loss.warmup_steps=200", *SHORT),
        {"fashion-mnist": 1200, "digits": 800},
    ),
    "autoencoder": Family("autoencoder_fashion_mnist.toml", ("data.size=32", *SHORT), on_images(1600), ENCODED),
    "aae": Family("aae_fashion_mnist.toml", ("data.size=32", *SHORT), on_images(1000), ENCODED),
    "vae-gan": Family("vae_gan_fashion_mnist.toml", ("data.size=32", *SHORT), on_images(500), ENCODED),
    "vq-vae": Family("vq_vae_fashion_mnist.toml", ("data.size=32", *SHORT), on_images(800), ENCODED),
    "infogan": Family("infogan_fashion_mnist.toml", (*CONV, *SHORT), {"fashion-mnist": 1000, "digits": 700}, BY_CLASS),
    "cgan": Family("cgan_fashion_mnist.toml", FASTER_GENERATOR, {"fashion-mnist": 1000, "digits": 600}, BY_CLASS),
    "acgan": Family(
        "cgan_fashion_mnist.toml",
        ("loss.use=acgan", *FASTER_GENERATOR),
        {"fashion-mnist": 1000, "digits": 600},
        BY_CLASS,
    ),
    "cgan-pd": Family("cgan_pd_cifar10.toml", RESIDUAL, on_images(1000), BY_CLASS),
    "sagan": Family("sagan_fashion_mnist.toml", RESIDUAL, on_images(1000), BY_CLASS),
    "biggan": Family("biggan_fashion_mnist.toml", RESIDUAL, on_images(1000), BY_CLASS),
    "progressive": Family("progressive_fashion_mnist.toml", (*FOUR_SIZES, *SMALL_BATCHES), on_images(1200)),
    "stylegan2": Family("stylegan2_fashion_mnist.toml", (*STYLES, *SMALL_BATCHES), on_images(1500)),
    "stylegan2, ada": Family(
        "stylegan2_fashion_mnist.toml",
        (*STYLES, *SMALL_BATCHES, "augmentation={use = 'ada', images = 50_000}"),
        {"emoji": 1500},
    ),
    "r3gan": Family("r3gan_fashion_mnist.toml", (*GROUPED, *SMALL_BATCHES, "optimizer.lr=5e-4"), on_images(1000)),
    "minimax, ring of 8": Family("minimax_ring.toml", (), {"gaussians": 2500}),
    "gan, ring of 8": Family("gan_ring.toml", (), {"gaussians": 2500}),
    "hinge, ring of 8": Family("gan_ring.toml", ("loss.use=hinge",), {"gaussians": 2500}),
    "r3gan, ring of 8": Family("gan_ring.toml", ("loss.use=r3gan",), {"gaussians": 2500}),
    "wgan, clipped, ring of 8": Family(
        "wgan_gp_ring.toml", ("loss={use = 'wgan', latent_size = 2, clip = 0.1}",), {"gaussians": 2500}
    ),
    "wgan-gp, ring of 8": Family("wgan_gp_ring.toml", (), {"gaussians": 2500}),
    "wgan-gp, grid of 25": Family("wgan_gp_grid.toml", (), {"gaussians": 3000}),
}
DATA = ("fashion-mnist", "emoji", "digits", "gaussians")
SAMPLES = {"fashion-mnist": 10_000, "emoji": 5_000, "digits": 2_000, "gaussians": 2_500}
SHOWN = 16
"""Samples of each family in the picture."""
LEFT = 220
"""Pixels for the families' names in the picture."""


def main() -> None:
    options = _options()
    if not options.report:
        for name, data, seed in _wanted(options):
            _train(name, data, seed, options.output)
    _report(options.output)


def _wanted(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for data in options.only.split(","):
        for seed in map(int, options.seeds.split(",")):
            yield from ((name, data, seed) for name, family in FAMILIES.items() if data in family.steps)


# ── Training ──────────────────────────────────────────────────────────────────────────────────────────────


def _train(name: str, data: str, seed: int, output: Path) -> None:
    """Train, unless that is done; the result is a line of results.jsonl, and a file of samples."""
    key = {"family": name, "data": data, "seed": seed}
    if any(key.items() <= result.items() for result in _results(output)):
        return
    output.mkdir(parents=True, exist_ok=True)
    folder = output / "runs" / f"{data}-{name}-{seed}".replace(", ", "-").replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
    run = build_run(
        load_recipe(find_recipe(Path(FAMILIES[name].recipe)), load_registry(), _overrides(name, data, seed)), folder
    )
    started = time.process_time()
    execute(run)
    used = time.process_time() - started
    scores = {score.name: score.value for score in run.scores.values()}
    facts = {**key, "steps": run.step, "cpu_seconds": used, "threads": torch.get_num_threads(), **scores}
    if seed == 0 and data != "gaussians":
        _keep_samples(run, output / f"{data}-{name}.png")
    with (output / "results.jsonl").open("a", encoding="utf-8") as file:
        print(json.dumps(facts), file=file)
    print(json.dumps(facts), flush=True)


def _overrides(name: str, data: str, seed: int) -> list[str]:
    family = FAMILIES[name]
    measured = ", ".join(_metric(metric, SAMPLES[data]) for metric in family.metrics)
    scored = [] if data == "gaussians" else [f"metric=[{measured}]"]
    quiet = ["mlflow=false", "progress=false", "checkpoints=false", "target=false"]
    return [
        f"data.use={data}",
        *family.overrides,
        *scored,
        *quiet,
        "train.evaluate_every_steps=1000000",
        f"train.steps={family.steps[data]}",
        f"train.seed={seed}",
        "train.device=cpu",
    ]


def _metric(name: str, samples: int) -> str:
    if name == "reconstruction":
        return '{use = "reconstruction"}'
    features = "" if name == "code-accuracy" else ', features = "classifier"'
    return f'{{use = "{name}", samples = {samples}{features}}}'


def _keep_samples(run: Run, path: Path) -> None:
    """A strip of samples; a VAE's has a second row of test images, and a third of their reconstructions."""
    rows = [to_uint8(run.model.decode(run.model.fixed_latents(SHOWN))).cpu()]
    real = torch.from_numpy(run.data.split("test").images[:SHOWN])
    made = run.model.reconstruct(real.float() / 127.5 - 1)
    if made is not None:
        rows += [real, to_uint8(made).cpu()]
    strip = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    Image.fromarray(strip.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()).save(path)


# ── What came of it ───────────────────────────────────────────────────────────────────────────────────────


def _report(output: Path) -> None:
    print(f"{device_text(torch.device('cpu'))}, torch {torch.__version__}")
    by_data: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for result in _results(output):
        by_data[result["data"]][result["family"]].append(result)
    for data, families in by_data.items():
        _print_table(data, families)
        _draw(output, data, [name for name in FAMILIES if name in families])


def _print_table(data: str, families: dict[str, list[dict[str, float]]]) -> None:
    known = ("family", "data", "seed", "steps", "cpu_seconds", "threads")
    names = [name for results in families.values() for name in results[0] if name not in known]
    columns = list(dict.fromkeys(names))
    print(f"\n{data}\n\n| family | steps | CPU seconds | n | {' | '.join(f'`{name}`' for name in columns)} |")
    print("| --- " * (4 + len(columns)) + "|")
    for family in (name for name in FAMILIES if name in families):
        results = families[family]
        seconds = _spread([result["cpu_seconds"] for result in results], 0)
        cells = [_spread([result[name] for result in results if name in result], 3) for name in columns]
        print(f"| {family} | {results[0]['steps']:,} | {seconds} | {len(results)} | {' | '.join(cells)} |")


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _draw(output: Path, data: str, names: Sequence[str]) -> None:
    """The families' strips below each other, each with its name."""
    strips = {name: Image.open(path) for name in names if (path := output / f"{data}-{name}.png").is_file()}
    if not strips:
        return
    scaled = {
        name: strip.resize((SHOWN * 56, strip.height * SHOWN * 56 // strip.width), Image.Resampling.NEAREST)
        for name, strip in strips.items()
    }
    font = ImageFont.load_default(size=18)
    canvas = Image.new("RGB", (LEFT + SHOWN * 56, sum(strip.height + 8 for strip in scaled.values())), "white")
    top = 4
    for name, strip in scaled.items():
        canvas.paste(strip, (LEFT, top))
        ImageDraw.Draw(canvas).text((8, top + strip.height // 2), name, fill="black", font=font, anchor="lm")
        top += strip.height + 8
    canvas.save(output / f"{data}.png", optimize=True)


def _results(output: Path) -> list[dict]:
    path = output / "results.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", default=",".join(DATA), help="data sets, with commas between them")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--report", action="store_true", help="train nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
