"""Silent bugs of well-known model collections, each tested in every component that could have it.

One α or one norm for a whole batch, and penalties by closed form: test_wgan_gp. Samples that carry the generator's
graph into the discriminator's update: tests/core/test_phases.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from ganrun import Batch, DataSpec, Nets
from ganrun.contracts.settings import parse_settings
from ganrun.discovery.registry import load_registry
from ganrun.inference.evaluation import measured
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import shipped_recipes
from ganrun.testing import evaluation_on, train
from ganrun.training.components import build_data, build_loss, network_spec

CPU = torch.device("cpu")
RECIPES = sorted(shipped_recipes().glob("*.toml"))
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm)


def drawn(path) -> list[str]:
    """Overrides by which a recipe's shapes are known without its data."""
    if load_recipe(path, load_registry()).data.use == "degraded":
        return []
    if path.stem.startswith(("cyclegan_", "pix2pix_")):
        return ["data.use=degraded", 'data.of={ use = "synthetic", size = 64 }', "data.blur=1.0"]
    return ["data.use=synthetic"]


def networks(path) -> dict[str, nn.Module]:
    """The networks of a recipe that it trains, by slot, as built for drawn shapes, so that no data is needed."""
    recipe = load_recipe(path, load_registry(), ["metric=[]", *drawn(path)])
    _, loss = build_loss(recipe, build_data(recipe))
    trained = {slot: config for slot, config in recipe.networks.items() if not loss.slots[slot].frozen}
    with torch.device("meta"):  # nobody looks at the weights
        return {slot: config.build(network_spec(loss, slot)) for slot, config in trained.items()}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_norm_has_a_momentum_in_the_place_of_its_epsilon(path):
    """`BatchNorm2d(channels, 0.8)` sets ε = 0.8, which flattens every activation."""
    for name, network in networks(path).items():
        for layer in network.modules():
            if isinstance(layer, NORMS):
                assert layer.eps <= 1e-4, f"{name} has {layer}"


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem.startswith("wgan")], ids=lambda path: path.stem)
def test_no_critic_under_a_penalty_has_batch_norm_or_a_sigmoid(path):
    mixing = (nn.BatchNorm1d, nn.BatchNorm2d, nn.Sigmoid, nn.Tanh)
    layers = [layer for layer in networks(path)["discriminator"].modules() if isinstance(layer, mixing)]
    assert layers == []


@pytest.mark.parametrize(("use", "settings"), [("acgan", {"noise_size": 2}), ("infogan", {"noise_size": 2})])
def test_classes_are_judged_by_logits_and_not_by_a_softmax_of_a_softmax(use, settings):
    """Cross-entropy of softmax outputs never falls below ln(1 + (K − 1)/e); of logits, it goes to 0."""
    component = load_registry().find("loss", use).cls
    loss = component(parse_settings(component.Settings, settings), DataSpec((1,), classes=10))
    latents = loss.latents(64, CPU)
    classes = latents[:, 2:12]

    def sure(images, labels=None):
        (outputs,) = loss.ports("discriminator").outputs
        return torch.cat([images.new_zeros(64, 1), 1e3 * classes, torch.zeros(64, outputs - 11)], dim=1)

    terms = loss.generator(Nets({"generator": lambda z, labels=None: z[:, :1], "discriminator": sure}), Batch(latents))
    name, best = {"acgan": ("class", 0.0), "infogan": ("categorical", -np.log(10))}[use]
    assert terms.minimise[name].item() == pytest.approx(best, abs=1e-5)


def test_least_squares_are_of_the_raw_output():
    """Under a sigmoid the generator's loss at an output of 1 would be ½ (σ(1) − 1)² = 0.036."""
    component = load_registry().find("loss", "lsgan").cls
    loss = component(component.Settings(), DataSpec((1,)))
    ones = Nets({"generator": lambda z: z[:, :1], "discriminator": torch.ones_like})
    assert loss.generator(ones, Batch(torch.randn(4, loss.latent_size))).minimise["fake"].item() == 0.0
    images = Batch(torch.randn(4, loss.latent_size), torch.randn(4, 1))
    assert loss.discriminator(ones, images).minimise["fake"].item() == 0.5


def wasserstein(tmp_path, **optimizer):
    tables = {
        "train": {
            "steps": 4,
            "batch_size": 8,
            "device": "cpu",
            "log_every_steps": 1,
            "repeat": {"discriminator": 3},
        },
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "wgan-gp", "latent_size": 4},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        "optimizer": {"use": "adam", "lr": 0.01, **optimizer},
        "mlflow": False,
        "progress": False,
    }
    return train(tables, tmp_path / "run")


def test_the_decay_counts_steps_and_not_critic_updates(tmp_path):
    """A schedule that also counts critic updates ends after a fraction of the run."""
    run = wasserstein(tmp_path, schedule="linear")
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    for slot in ("generator", "discriminator"):
        rates = [line[f"lr/{slot}"] for line in lines if f"lr/{slot}" in line]
        assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_the_penalty_is_part_of_the_one_update_and_not_an_update_of_its_own(tmp_path):
    """Adam of two gradients in turn is not Adam of their sum."""
    run = wasserstein(tmp_path)
    taken = {
        name: {int(state["step"]) for state in slot.optimizer.state.values()} for name, slot in run.state.slots.items()
    }
    assert taken == {"generator": {4}, "discriminator": {12}}


def test_pictures_are_scored_as_they_are_and_not_stretched_to_their_own_extremes():
    """Half the contrast must score differently; after min-max scaling it would not."""
    registry = load_registry()
    digits = registry.find("data", "digits").cls
    data = digits(digits.Settings(size=8))
    data.prepare()
    images = torch.from_numpy(data.split("train").images).float() / 127.5 - 1
    extractor = registry.find("extractor", "classifier").cls(None, data.spec())
    component = registry.find("metric", "fid").cls
    metric = component(parse_settings(component.Settings, {"samples": 1000}), data.spec(), extractor)
    for part in (extractor, metric):
        part.prepare(data, CPU)

    def score(contrast: float) -> float:
        evaluation = evaluation_on(
            data, lambda count: (torch.zeros(count, 1), contrast * images[torch.randperm(len(images))[:count]])
        )
        return measured([metric], evaluation)[0].value

    assert score(0.5) > 20 * score(1.0)
