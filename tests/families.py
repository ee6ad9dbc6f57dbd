"""Every family as a tiny recipe, for the tests of ranks and of reads from the device.

Networks, penalties, augmentations and schedules are those of the shipped recipes, as narrow as they can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from ganrun.recipe.reader import load_recipe
from ganrun.recipe.recipe import Recipe
from ganrun.testing import registry_with
from tests.contract import (
    test_growing,
    test_optimizer,
    test_path_length,
    test_translation,
    test_unrolled,
    test_vqvae,
)
from tests.plugins import test_restoration, test_superresolution

Tables = dict[str, Any]


class Family(NamedTuple):
    """A recipe beyond `BASE`, and the plugins that it needs beside the installed ones."""

    tables: Mapping[str, Any]
    plugins: tuple[object, ...] = ()

    def recipe(self, **train: Any) -> Tables:
        """All tables, with these settings in `[train]`."""
        return {**BASE, **self.tables, "train": {**BASE["train"], **self.tables.get("train", {}), **train}}

    def loaded(self, folder: Path, **train: Any) -> Recipe:
        """The recipe, written into a folder; registries are made once."""
        path = folder / "recipe.toml"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(self.recipe(**train)), encoding="utf-8")
        return load_recipe(path, registry_of(*self.plugins))


registry_of = cache(registry_with)

STEPS = 4

BASE: Tables = {
    "train": {"steps": STEPS, "batch_size": 8, "device": "cpu", "seed": 3},
    "data": {"use": "digits", "size": 8},
    **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
}


def networks(**settings: Any) -> Tables:
    """A generator and a discriminator with the same settings."""
    return {"generator": settings, "discriminator": settings}


def gan(use: str = "gan", **settings: Any) -> Tables:
    """A loss on whole latents."""
    return {"loss": {"use": use, "latent_size": 4, **settings}}


def by_class(use: str, **settings: Any) -> Tables:
    """A loss with classes."""
    return {"loss": {"use": use, "noise_size": 4, **settings}}


def penalised(*uses: str, every: int = 1) -> Tables:
    """A GAN with regularisers."""
    return {**gan(), **MLP, "regularizer": [{"use": use, "every": every} for use in uses]}


def augmented(use: str, **settings: Any) -> Tables:
    """A GAN behind an augmentation."""
    return {**gan(), **CONV, "augmentation": {"use": use, **settings}}


MLP = networks(use="mlp", hidden=[8])
CONV = networks(use="conv", feature_maps=4, stages=1)
DCGAN = {
    "generator": {"use": "dcgan", "feature_maps": 2},
    "discriminator": {"use": "dcgan", "feature_maps": 2, "norm": "batch"},
    "data": {"use": "digits", "size": 16},
}
NORMED = {**CONV, "discriminator": {"use": "conv", "feature_maps": 4, "stages": 1, "norm": "batch"}}
SPECTRAL = {**DCGAN, "discriminator": {**DCGAN["discriminator"], "norm": "spectral"}}
COMPARED = {**DCGAN, "discriminator": {**DCGAN["discriminator"], "minibatch": "discrimination"}}
DEVIATING = {**DCGAN, "discriminator": {**DCGAN["discriminator"], "minibatch": "deviation"}}
TECHNIQUES = [
    {"use": "feature-matching"},
    *({"use": "historical-averaging", "slot": slot} for slot in ("generator", "discriminator")),
]
PROJECTED = {**DCGAN, "discriminator": {**DCGAN["discriminator"], "labels": "projection"}}
LAYERED = {**DCGAN, "discriminator": {**DCGAN["discriminator"], "norm": "layer"}}
DROPPED = {**MLP, "discriminator": {"use": "conv", "feature_maps": 4, "stages": 1, "norm": "none", "dropout": 0.3}}
SNGAN = {"generator": {"use": "sngan", "widths": [4, 4]}, "discriminator": {"use": "sngan", "widths": [4]}}
SAGAN = {
    "generator": {"use": "sagan", "widths": [8, 8], "attention_size": 8},
    "discriminator": {"use": "sagan", "widths": [8], "flat_blocks": 1, "attention_size": 4},
}
BIGGAN = {**SAGAN, "generator": {"use": "biggan", "widths": [8, 8], "class_size": 4}}
STYLED = {"width": 64, "widest": 6}
STYLEGAN2 = {
    "generator": {"use": "stylegan2", "style_size": 7, "mapping_layers": 2, **STYLED},
    "discriminator": {"use": "stylegan2", "group": 2, **STYLED},
    "regularizer": [
        {"use": "r1", "weight": 0.5, "every": 2},
        {"use": "path-length", "slot": "generator", "space": "w", "every": 3},
    ],
}
GROWING = {"use": "progressive", "widths": [6, 4], "level_steps": [1, 3], "fade": 1.0}
PROGRESSIVE = {
    **gan("progressive"),
    "generator": GROWING,
    "discriminator": {**GROWING, "group_size": 2},
    "stage": [{"from": 1, "batch_size": 8, "reset_optimizers": True}, {"from": 3, "lr": 2e-3}],
}
DETAILS = {"use": "lapgan", "widths": [4], "kernel_size": 3}
LAPGAN = {
    "loss": {"use": "lapgan", "noise_size": 4},
    **{"generator_2": MLP["generator"], "generator_1": DETAILS, "generator_0": DETAILS},
    **{f"discriminator_{level}": MLP["discriminator"] for level in range(3)},
}
R3GAN = {
    **networks(use="r3gan", widths=[8, 8], blocks=1, cardinality=4, embedding_size=4),
    "optimizer": {
        "use": "adam",
        "betas": [0.0, {"schedule": "cosine", "start": 0.9, "end": 0.99, "steps": 2}],
        "schedule": {"use": "cosine", "end": 0.25, "until": 0.5},
    },
    "ema": {"half_life": {"schedule": "cosine", "start": 0.0, "end": 4.0, "steps": 2}},
}
GAMMA = {"gamma": {"schedule": "cosine", "start": 0.5, "end": 0.05, "steps": 2}}
ENCODED = {"generator": MLP["generator"], "encoder": MLP["generator"]}
TIME_UNET = {"velocity": {"use": "time-unet", "widths": [4, 8], "dropout": 0.1}}
QUARTERS = {"encoder": {"use": "quarters"}, "decoder": {"use": "quarters"}}
JUDGED = {**ENCODED, "discriminator": {"use": "vae-gan", "feature_maps": 2, "stages": 2, "hidden": 4}}
RESIDUAL = {"use": "vq-vae", "width": 4, "blocks": 1}
CODES = {"loss": {"use": "vq-vae", "codes": 6, "code_size": 4}, "encoder": RESIDUAL, "generator": RESIDUAL}
POINTS = {"data": {"use": "gaussians", "count": 64}}
TWICE = {"train": {"repeat": {"discriminator": 2}}}
"""Two updates of the discriminator, where its paper has five."""

FAMILIES = {
    "gan": Family({**gan(), **MLP}),
    "gan on points": Family({**gan(), **MLP, **POINTS}),
    "gan, mirrored": Family({**gan(), **MLP, "train": {"horizontal_flip": True, "jitter": 3}}),
    "gan, clipped gradients": Family({**gan(), **MLP, "optimizer": {"clip_norm": 0.1, "schedule": "linear"}}),
    "gan, bf16": Family({**gan(), **MLP, "train": {"precision": "bf16"}}),
    "gan, dropout": Family({**gan(), **DROPPED}),
    "minimax": Family({**gan("minimax"), **MLP, **POINTS}),
    "lsgan, dcgan": Family({**gan("lsgan"), **DCGAN}),
    "gan, averaged dcgan": Family({**gan(), **DCGAN, "ema": {"decay": 0.9}}),
    "gan, batch norm in both": Family({**gan(), **NORMED}),
    "gan, improved techniques": Family(
        {**gan(label_smoothing=0.1, latents="truncated"), **COMPARED, "regularizer": TECHNIQUES}
    ),
    "feature-matching": Family({**gan("feature-matching", latents="uniform"), **DEVIATING}),
    "wgan": Family({**gan("wgan", clip=0.1), **MLP, "optimizer": {"use": "rmsprop"}}),
    "wgan-gp": Family({**gan("wgan-gp"), **MLP, "optimizer": {"use": "adam", "schedule": "linear"}}),
    "wgan-gp, layer norm": Family({**gan("wgan-gp"), **LAYERED, **TWICE}),
    "wgan-gp, residual": Family({**gan("wgan-gp"), **networks(use="wgan-gp-resnet", widths=[4, 4]), **TWICE}),
    "hinge": Family({**gan("hinge"), **SPECTRAL, **TWICE}),
    "hinge, sngan": Family({**gan("hinge"), **SNGAN, **TWICE}),
    "cgan": Family({**by_class("cgan", draw_classes="as-data"), **PROJECTED, "ema": False}),
    "clustered-gan": Family({**by_class("clustered-gan", clusters=5), **PROJECTED, "regularizer": [{"use": "r1"}]}),
    "cgan, dense": Family({**by_class("cgan"), **MLP}),
    "acgan": Family({**by_class("acgan"), **MLP}),
    "projection": Family({**by_class("conditional-hinge"), **SNGAN, **TWICE}),
    "sagan": Family({**by_class("conditional-hinge"), **SAGAN, **TWICE}),
    "biggan": Family({**by_class("conditional-hinge"), **BIGGAN, **TWICE, "regularizer": [{"use": "orthogonal"}]}),
    "conditional-wgan-gp": Family({**by_class("conditional-wgan-gp"), **MLP}),
    "infogan": Family({"loss": {"use": "infogan", "noise_size": 4}, **MLP}),
    "infogan, as published": Family({"loss": {"use": "infogan"}, **networks(use="infogan-mnist")}),
    "lapgan": Family(LAPGAN),
    "vae": Family({**gan("vae", likelihood="bernoulli"), **ENCODED}),
    "vae, beta": Family({**gan("vae", beta=4.0, warmup_steps=2), **ENCODED}),
    "vae, convolutions": Family({**gan("vae"), "generator": CONV["generator"], "encoder": NORMED["discriminator"]}),
    "autoencoder": Family({**gan("autoencoder"), **ENCODED}),
    "aae": Family({**gan("aae"), **ENCODED, "discriminator": MLP["discriminator"]}),
    "vae-gan": Family({**gan("vae-gan"), **JUDGED}),
    "vq-vae": Family(CODES),
    "vae, black and white": Family({**gan("vae", likelihood="bernoulli", binarization="dynamic"), **ENCODED}),
    "iwae": Family({**gan("iwae", importance_samples=3, binarization="dynamic"), **ENCODED}),
    "stylegan2": Family({**gan("stylegan2", mixing=0.9), **STYLEGAN2}),
    "stylegan": Family(
        {**by_class("conditional-stylegan2"), **STYLEGAN2, "generator": {**STYLEGAN2["generator"], "use": "stylegan"}}
    ),
    "stylegan2, ada": Family(
        {**by_class("conditional-stylegan2", mixing=0.0), **STYLEGAN2, "augmentation": {"use": "ada", "images": 50}}
    ),
    "progressive": Family(PROGRESSIVE),
    "r3gan": Family({"loss": {"use": "r3gan", "latent_size": 4, **GAMMA}, **R3GAN}),
    "conditional-r3gan": Family({"loss": {"use": "conditional-r3gan", "noise_size": 4, **GAMMA}, **R3GAN}),
    "flow matching": Family({"loss": {"use": "flow-matching"}, **TIME_UNET}),
    "flow matching with classes": Family(
        {"loss": {"use": "class-conditional-flow-matching"}, "velocity": {"use": "time-mlp", "hidden": [8]}}
    ),
    "penalties on gradients": Family(penalised("r1", "r2", "gradient-penalty", "dragan")),
    "penalties on outputs": Family(penalised("consistency", "lecam")),
    "lazy penalties": Family(penalised("r1", "lecam", "path-length", every=2)),
    "penalties on the generator": Family(penalised("orthogonal", "path-length")),
    "diffaugment": Family(augmented("diffaugment")),
    "ada": Family(augmented("ada", images=50, noise=1.0, cutout=1.0)),
    "ada on a schedule": Family(augmented("ada", p={"schedule": "linear", "start": 0.0, "end": 0.5})),
    "vqvae": Family({"loss": {"use": "vqvae"}, "codebook": {"use": "codebook"}, **QUARTERS}, (test_vqvae.Plugin(),)),
    "cyclegan": Family(test_translation.UNPAIRED, (test_translation.Plugin(),)),
    "pix2pix": Family(test_translation.PAIRED, (test_translation.Plugin(),)),
    "restoration": Family(test_restoration.TABLES | {"train": {}}),
    "context-encoder": Family(test_restoration.FILLED | {"train": {}}),
    "srgan": Family(test_superresolution.TABLES | {"train": {}}, (test_superresolution.Plugin(),)),
    "unrolled": Family({"loss": {"use": "unrolled"}, **MLP}, (test_unrolled.Plugin(),)),
    "extragradient": Family({**gan("extragradient"), **MLP}, (test_optimizer.Plugin(),)),
    "lion": Family({**gan(), **MLP, "optimizer": {"use": "lion", "lr": 0.01}}, (test_optimizer.Plugin(),)),
    "growing": Family({**gan("wgan-gp"), **networks(use="growing"), **TWICE}, (test_growing.Plugin(),)),
    "path-lengths": Family(
        {"loss": {"use": "path-lengths"}, "generator": {"use": "style"}, "discriminator": MLP["discriminator"]},
        (test_path_length.Plugin(),),
    ),
}
"""By name. Each loss of the installed plugins is in one of them."""
