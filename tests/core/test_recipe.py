"""From text to a validated recipe, or to every fault of it at once, each with its place and what to do."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w
from hypothesis import given, settings, strategies as st
from pydantic import Field, model_validator

import ganrun
import ganrun_optimizers
from ganrun import (
    Augmentation,
    Data,
    Discriminator,
    Extractor,
    FeatureMetric,
    Generator,
    Loss,
    Metric,
    Observer,
    Part,
    Phase,
    Regularizer,
    Slot,
    hookimpl,
)
from ganrun.base.errors import RecipeError
from ganrun.contracts.settings import parse_settings
from ganrun.discovery.plugins import Plugins
from ganrun.discovery.registry import Registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.recipe import Recipe
from ganrun.testing import registry_with

# ── A plugin ──────────────────────────────────────────────────────────────────────────────────────────────


class Points(Data):
    """Points."""

    spec = prepare = split = None  # type: ignore[assignment]

    class Settings(ganrun.Settings):
        size: int = Field(8, ge=1)
        scale: float = 1.0
        root: str = "."
        kinds: tuple[str, ...] = ("a",)
        limit: int | Literal["all"] = "all"


class Dense(Generator):
    """Dense."""

    class Settings(ganrun.Settings):
        hidden: tuple[int, ...] = (8,)
        low: float = 0.0
        high: float = 1.0

        @model_validator(mode="after")
        def _ordered(self) -> Dense.Settings:
            if self.low > self.high:
                raise ValueError("low must not be above high")
            return self


class Critic(Discriminator):
    """Critic."""


class Wgan(Loss):
    """Wasserstein."""

    class Settings(ganrun.Settings):
        n_critic: int = Field(5, ge=1)
        penalty_weight: float = Field(10.0, ge=0)

    class Sampling(ganrun.Settings):
        psi: float = Field(1.0, ge=0, le=1)

    slots = {"generator": Slot("generator"), "critic": Slot("discriminator", augmented=True)}

    def phases(self) -> list[Phase]:
        return []


class Vae(Wgan):
    """Without a discriminator."""

    slots = {"generator": Slot("generator"), "critic": Slot("discriminator")}


class Flip(Augmentation):
    """Flips."""

    class Settings(ganrun.Settings):
        chance: float = Field(0.5, ge=0, le=1)

    forward = None  # type: ignore[assignment]


class R1(Regularizer):
    """R1."""

    penalty = None  # type: ignore[assignment]


class Count(Metric):
    """Count."""

    class Settings(ganrun.Settings):
        samples: int = Field(ge=1)

    measure = None  # type: ignore[assignment]


class Blobs(Extractor):
    """Blobs."""

    class Settings(ganrun.Settings):
        weights: str = "w"

    key = protocol = __call__ = None  # type: ignore[assignment]


class Distance(FeatureMetric):
    """Distance."""

    class Settings(ganrun.Settings):
        features: Part = "blobs"

    measure = None  # type: ignore[assignment]


class Bell(Observer):
    """Bell."""

    class Settings(ganrun.Settings):
        times: int = 1


class Diary(Bell):
    """Diary."""

    automatic = True


class WganGp:
    """The plugin."""

    __name__ = "ganrun-wgan-gp"

    @hookimpl
    def ganrun_data(self) -> Any:
        return {"points": Points}

    @hookimpl
    def ganrun_generators(self) -> Any:
        return {"dense": Dense, "generator": Dense}

    @hookimpl
    def ganrun_discriminators(self) -> Any:
        return {"critic": Critic}

    @hookimpl
    def ganrun_losses(self) -> Any:
        return {"wgan-gp": Wgan, "vae": Vae}

    @hookimpl
    def ganrun_augmentations(self) -> Any:
        return {"flip": Flip}

    @hookimpl
    def ganrun_regularizers(self) -> Any:
        return {"r1": R1}

    @hookimpl
    def ganrun_metrics(self) -> Any:
        return {"count": Count, "distance": Distance}

    @hookimpl
    def ganrun_extractors(self) -> Any:
        return {"blobs": Blobs, "other-blobs": Blobs}

    @hookimpl
    def ganrun_observers(self) -> Any:
        return {"bell": Bell, "diary": Diary}


def registry(*plugins: object) -> Registry:
    """These plugins alone, and the built-in optimisers."""
    every = registry_with(WganGp(), ganrun_optimizers, *plugins, installed=False).plugins
    return Registry(Plugins(every.manager, tuple(plugin for plugin in every.found if not plugin.blocked)))


REGISTRY = registry()

BASE = """\
name = "base"
[train]
steps = 3
[data]
use = "points"
[loss]
use = "wgan-gp"
[generator]
use = "dense"
[critic]
use = "critic"
"""


# ── One fault, one message ────────────────────────────────────────────────────────────────────────────────


def test_a_misspelled_key_is_reported_as_the_design_says(tmp_path: Path) -> None:
    assert faults(tmp_path, BASE.replace('use = "wgan-gp"', 'use = "wgan-gp"\nn_critc = 5')) == [
        'r.toml:8: [loss] has no key "n_critc"; did you mean "n_critic"?\n'
        "  wgan-gp (ganrun-wgan-gp 0) takes: n_critic, penalty_weight\n"
        "  see: ganrun show loss wgan-gp"
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # tables
        ("[train]\nsteps = 3", "", ["r.toml: the table [train] is missing"]),
        ('[data]\nuse = "points"', "", ["r.toml: the table [data] is missing"]),
        ('[critic]\nuse = "critic"', "", ["r.toml: the table [critic] is missing"]),
        (
            '[data]\nuse = "points"',
            "[data]\nsize = 8",
            ['r.toml:4: [data] needs use = "…", the name of a data set; see: ganrun list data'],
        ),
        (
            'use = "points"',
            "use = 5",
            ['r.toml:5: [data] needs use = "…", the name of a data set; see: ganrun list data'],
        ),
        ('name = "base"', "name = ' '", ['r.toml:1: name must be a non-empty string, not " "']),
        ('name = "base"', "data = 5", ["r.toml:4: is not valid TOML"]),
        ('name = "base"', "ema = 0.9", ["r.toml:1: [ema] must be a table, not 0.9"]),
        ('name = "base"', "bell = 1", ["r.toml:1: [bell] must be a table, not 1"]),
        ('name = "base"', "optimizer = 'adam'", ['r.toml:1: [optimizer] must be a table, not "adam"']),
        ('name = "base"', "metric = ['count']", ['r.toml:1: [[metric]] must be a table, not "count"']),
        ('name = "base"', "metric = {}", ["r.toml:1: metrics are written as [[metric]], with two brackets"]),
        ('name = "base"', "nam = 'x'", ['r.toml:1: a recipe has no key "nam"; did you mean "name"?']),
        (
            "[train]",
            "[trian]",
            ["r.toml: the table [train] is missing", 'r.toml:2: a recipe has no table "trian"; did you mean "train"?'],
        ),
        (
            "[critic]",
            "[critic]\nuse='critic'\n[encoder]",
            ['r.toml:12: the loss wgan-gp has no slot "encoder"; its slots are generator, critic'],
        ),
        # components
        ('"wgan-gp"', '"wgan-pg"', ['r.toml:7: no loss is called "wgan-pg"; did you mean "wgan-gp"?']),
        ('"points"', '"celeba"', ['r.toml:5: no data set is called "celeba"; see: ganrun list data']),
        (
            'use = "critic"',
            'use = "dense"',
            ['r.toml:11: no discriminator is called "dense"; see: ganrun list discriminator'],
        ),
        # types and bounds
        ("steps = 3", "steps = 3.0", ["r.toml:3: [train] steps = 3.0: input should be a valid integer"]),
        ("steps = 3", "steps = '3'", ['r.toml:3: [train] steps = "3": input should be a valid integer']),
        ("steps = 3", "steps = true", ["r.toml:3: [train] steps = true: input should be a valid integer"]),
        ("steps = 3", "steps = nan", ["r.toml:3: [train] steps = NaN: input should be a valid integer"]),
        ("steps = 3", "steps = 0", ["r.toml:3: [train] steps = 0: input should be greater than or equal to 1"]),
        ("steps = 3", "", ['r.toml:2: [train] needs the key "steps"\n  see: ganrun show train']),
        (
            "steps = 3",
            "steps = 3\nprecision = 'f16'",
            ["r.toml:4: [train] precision = \"f16\": input should be 'auto', 'f32', 'tf32' or 'bf16'"],
        ),
        (
            "steps = 3",
            "steps = 3\ndevice = 'cuda:x'",
            ['r.toml:4: [train] device = "cuda:x": say auto, cpu, cuda, cuda:1 or mps'],
        ),
        (
            "steps = 3",
            "steps = 3\nbatch_size = 6\naccumulate = 4",
            ["r.toml:5: accumulate = 4 does not divide batch_size = 6"],
        ),
        ('"points"', '"points"\nscale = inf', ["r.toml:6: [data] scale = Infinity: input should be a finite number"]),
        ('"points"', '"points"\nscale = nan', ["r.toml:6: [data] scale = NaN: input should be a finite number"]),
        ('"points"', '"points"\nscale = true', ["r.toml:6: [data] scale = true: input should be a valid number"]),
        ('"points"', '"points"\nroot = 5', ["r.toml:6: [data] root = 5: input should be a valid string"]),
        (
            '"points"',
            '"points"\nkinds = [\n"a",\n5,\n]',
            ["r.toml:8: [data] kinds.1 = 5: input should be a valid string"],
        ),
        ('"points"', '"points"\nkinds = "a"', ['r.toml:6: [data] kinds = "a": input should be a valid array']),
        (
            '"points"',
            '"points"\nlimit = 1.5',
            ["r.toml:6: [data] limit = 1.5: input should be a valid integer, or input should be 'all'"],
        ),
        ('"dense"', '"dense"\nlow = 2\n', ["r.toml:8: [generator]: low must not be above high"]),
        (
            '"dense"',
            f'"dense"\nlow = "{"x" * 99}"\n',
            ['r.toml:10: [generator] low = "' + "x" * 59 + "…: input should be a valid number"],
        ),
        # dotted keys, inline tables, arrays of tables
        ("[train]\nsteps = 3", "train.steps = 0", ["r.toml:2: [train] steps = 0: input should be"]),
        ("[train]\nsteps = 3", "train = { seed = 1, steps = 0 }", ["r.toml:2: [train] steps = 0: input should be"]),
        (
            'use = "critic"\n',
            'use = "critic"\n[[metric]]\nuse = "count"\nsamples = 1\n[[metric]]\nuse = "count"\nsamples = 0',
            ["r.toml:17: [[metric]] samples = 0: input should be"],
        ),
        (
            'use = "critic"\n',
            'use = "critic"\n[[metric]]\nuse = "count"\n',
            ['r.toml:12: [[metric]] needs the key "samples"\n  see: ganrun show metric count'],
        ),
        (
            'name = "base"',
            'metric = [\n  { use = "count", samples = 1 },\n  { use = "cuont" },\n]',
            ['r.toml:3: no metric is called "cuont"; did you mean "count"?'],
        ),
        # a metric's extractor, by name or as a table
        (
            'use = "critic"\n',
            'use = "critic"\n[[metric]]\nuse = "distance"\nfeatures = "blob"',
            ['r.toml:14: no extractor is called "blob"; did you mean "blobs"?'],
        ),
        (
            'use = "critic"\n',
            'use = "critic"\n[[metric]]\nuse = "distance"\n[metric.features]\nuse = "blobs"\nweight = "v"',
            ['r.toml:16: [metric.features] has no key "weight"; did you mean "weights"?\n  blobs (ganrun'],
        ),
        (
            'use = "critic"\n',
            'use = "critic"\n[[metric]]\nuse = "distance"\nfeatures = { weights = "v" }',
            ['r.toml:14: [metric.features] needs use = "…", the name of an extractor; see: ganrun list extractor'],
        ),
        (
            'use = "critic"\n',
            'use = "critic"\n[[metric]]\nuse = "distance"\nfeatures = 3',
            ["r.toml:14: [[metric]] features = 3: it names a component: one of blobs, other-blobs;"],
        ),
        (
            'use = "critic"\n',
            'use = "critic"\n[[metric]]\nuse = "count"\nsamples = 1\n[[metric]]\nuse = "count"\nsamples = 2',
            ["r.toml:15: [[metric]] is count again, and its scores would have the same names"],
        ),
        (
            'use = "critic"',
            'use = "critic"\n[[metric]]\nuse = "distance"\n[[metric]]\nuse = "distance"\nfeatures = "blobs"',
            ["r.toml:14: [[metric]] is distance on blobs again, and its scores would have the same names"],
        ),
    ],
)
def test_each_fault_has_its_line(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in BASE
    reported = faults(tmp_path, BASE.replace(old, new))
    assert len(reported) == len(expected)
    assert all(text.startswith(start) for text, start in zip(reported, expected, strict=True)), reported


STEPS = "steps = 3"
AT_END = 'critic]\nuse = "critic"\n'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (STEPS, "steps = 3\nrepeat = { critc = 5 }", ['r.toml:4: the loss wgan-gp has no slot "critc"; did you mean']),
        (STEPS, "steps = 3\nrepeat = { critic = 0 }", ["r.toml:4: [train] repeat.critic = 0: input should be greater"]),
        (STEPS, "steps = 3\nrepeat = 5", ["r.toml:4: [train] repeat = 5: input should be an object"]),
        ('use = "dense"', 'use = "dense"\nfrom = 5', ["r.toml:10: [generator] from = 5: name a run, a checkpoint or"]),
        ('use = "dense"', 'use = "dense"\nfrom = " "', ['r.toml:10: [generator] from = " ": name a run']),
        ('use = "points"', 'use = "points"\nfrom = "runs/x"', ['r.toml:6: [data] has no key "from"']),
        (AT_END, AT_END + "[stage]\nfrom = 1", ["r.toml:12: stages are written as [[stage]], with two brackets"]),
        (AT_END, AT_END + "[[stage]]\nfrom = 1", ["r.toml:12: [[stage]]: a stage must set batch_size, lr or reset"]),
        (AT_END, AT_END + "[[stage]]\nlr = 1", ['r.toml:12: [[stage]] needs the key "from"\n  see: ganrun show stage']),
        (AT_END, AT_END + "[[stage]]\nfrom = 0\nlr = 1", ["r.toml:13: [[stage]] from = 0: input should be greater"]),
        (AT_END, AT_END + "[[stage]]\nfrom = 1\nlr = 0", ["r.toml:14: [[stage]] lr = 0: input should be greater"]),
        (AT_END, AT_END + "[[stage]]\nfrom = 3\nlr = 1", ["r.toml:13: [[stage]] from = 3: it never begins, since"]),
        (
            AT_END,
            AT_END + "[[stage]]\nfrom = 2\nlr = 1\n[[stage]]\nfrom = 2\nlr = 2",
            ["r.toml:16: [[stage]] from = 2: the stage before it begins at 2, and stages follow each other"],
        ),
        (
            STEPS,
            "steps = 3\nbatch_size = 8\naccumulate = 4\n[[stage]]\nfrom = 1\nbatch_size = 6",
            ["r.toml:8: [[stage]] batch_size = 6: accumulate = 4 does not divide it"],
        ),
        (AT_END, AT_END + "[augmentation]\nuse = 'flop'", ['r.toml:13: no augmentation is called "flop"; did you']),
        (
            AT_END,
            AT_END + "[augmentation]\nuse = 'flip'\nchance = 2",
            ["r.toml:14: [augmentation] chance = 2: input should be less than or equal to 1"],
        ),
        (
            'use = "wgan-gp"',
            'use = "vae"\n[augmentation]\nuse = "flip"',
            ["r.toml:8: the loss vae has no network that sees both real and generated images, so"],
        ),
        (
            AT_END,
            AT_END + "[[regularizer]]\nuse = 'r1'\nslot = 'critic'\n[[regularizer]]\nuse = 'r1'\nslot = 'crtic'",
            ['r.toml:17: the loss wgan-gp has no slot "crtic"; did you mean "critic"?'],
        ),
        (AT_END, AT_END + "[[regularizer]]\nuse = 'r1'", ['r.toml:12: the loss wgan-gp has no slot "discriminator"']),
        (AT_END, AT_END + "[regularizer]\nuse = 'r1'", ["r.toml:12: regularizers are written as [[regularizer]]"]),
        (
            AT_END,
            AT_END + "[sampling]\npis = 0.5",
            [
                'r.toml:13: [sampling] has no key "pis"; did you mean "psi"?\n'
                "  sampling with wgan-gp (ganrun-wgan-gp 0) takes: psi\n  see: ganrun show loss wgan-gp"
            ],
        ),
        (AT_END, AT_END + "[sampling]\npsi = 2", ["r.toml:13: [sampling] psi = 2: input should be less than or"]),
    ],
)
def test_each_fault_of_repeats_stages_and_penalties_has_its_line(
    tmp_path: Path, old: str, new: str, expected: list[str]
) -> None:
    assert old in BASE
    reported = faults(tmp_path, BASE.replace(old, new))
    assert len(reported) == len(expected)
    assert all(text.startswith(start) for text, start in zip(reported, expected, strict=True)), reported


def test_what_stands_beside_the_loss_is_read(tmp_path: Path) -> None:
    text = BASE.replace("steps = 3", "steps = 30\nbatch_size = 8\nrepeat = { critic = 5 }")
    text += "[augmentation]\nuse = 'flip'\n[[regularizer]]\nuse = 'r1'\nslot = 'critic'\nweight = 2\n"
    text += "[[stage]]\nfrom = 10\nbatch_size = 4\n[[stage]]\nfrom = 20\nlr = 1e-5\n[sampling]\npsi = 0.5\n"
    recipe = load(tmp_path, text, "generator.from=runs/before", "sampling.psi=0.7")
    assert recipe.train.repeat == {"critic": 5}
    assert recipe.networks["generator"].start == "runs/before" and recipe.networks["critic"].start is None
    assert recipe.sampling.psi == 0.7  # type: ignore[attr-defined]
    assert recipe.augmentation and recipe.augmentation.settings.chance == 0.5  # type: ignore[attr-defined]
    (penalty,) = recipe.regularizers
    assert penalty.table() == {"use": "ganrun-wgan-gp:r1", "slot": "critic", "weight": 2.0, "every": 1}
    stages = [recipe.stage_at(step) for step in (0, 9, 10, 19, 20, 29)]
    assert stages == [(8, None), (8, None), (4, None), (4, None), (4, 1e-5), (4, 1e-5)]
    resolved = recipe.resolved()
    assert resolved["stage"] == [{"from": 10, "batch_size": 4}, {"from": 20, "lr": 1e-5}]
    assert resolved["generator"]["from"] == "runs/before" and resolved["sampling"] == {"psi": 0.7}
    assert load(tmp_path, tomli_w.dumps(resolved)).resolved() == resolved


def test_another_network_does_not_start_from_the_weights_of_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = BASE.replace('use = "dense"', 'use = "dense"\nfrom = "runs/before"')
    assert load(tmp_path, text, "generator.use=generator").networks["generator"].start is None
    assert caplog.messages == ["[generator] is now another network, which leaves out from"]


OPTIMIZER = [
    (
        "[optimizer]\nuse = 'adm'",
        ['r.toml:13: no optimizer is called "adm"; did you mean "adam"?'],
    ),
    (
        "[optimizer]\nuse = ['adam']",
        ['r.toml:13: [optimizer] needs use = "…", the name of an optimizer; see: ganrun list optimizer'],
    ),
    ("[optimizer]\nlr = 0", ["r.toml:13: [optimizer] lr = 0: input should be greater than 0"]),
    ("[optimizer]\nbetas = [0.5]", ["r.toml:13: [optimizer] betas: the list is too short"]),
    (
        "[optimizer]\nbetas = [0.5, 0.5, 0.5]",
        ["r.toml:13: [optimizer] betas = [0.5, 0.5, 0.5]: tuple should have at most 2"],
    ),
    (
        "[optimizer]\nlrr = 1",
        [
            'r.toml:13: [optimizer] has no key "lrr"; did you mean "lr"?\n  '
            "adam (ganrun_optimizers 0) takes: lr, schedule"
        ],
    ),
    (
        "[optimizer]\nlr = 0\nschedule = 'cosin'",
        ["r.toml:13: [optimizer] lr = 0:", 'r.toml:14: no schedule is called "cosin"; did you mean "cosine"?'],
    ),
    (
        "[optimizer]\nschedule = 'cosin'\n[optimizer.critic]\nlr = 1",
        ['r.toml:13: no schedule is called "cosin"; did you mean "cosine"?'],
    ),
    (
        "[optimizer.critic]\nschedule = { use = 'constant', x = 1 }",
        ['r.toml:13: [optimizer.critic.schedule] has no key "x"\n  constant (ganrun_optimizers 0) takes: no settings'],
    ),
    (
        "[optimizer]\nschedule = 3",
        ["r.toml:13: [optimizer] schedule = 3: it names a component: one of constant, cosine, linear;"],
    ),
    ("[optimizer]\nschedule = {}", ['r.toml:13: [optimizer.schedule] needs use = "…", the name of a schedule']),
    ("[optimizer.critc]\nlr = 1", ['r.toml:12: the loss wgan-gp has no slot "critc"; did you mean "critic"?']),
    ("[optimizer]\nlr = 0\n[optimizer.critic]\nuse = 'adam'", ["r.toml:13: [optimizer] lr = 0:"]),
    ("[optimizer]\nuse = 'adm'\n[optimizer.critic]\nlr = 1", ['r.toml:13: no optimizer is called "adm"']),
    (
        "[optimizer]\nlr = 0\n[optimizer.critic]\nlr = -1",
        ["r.toml:13: [optimizer] lr = 0:", "r.toml:15: [optimizer.critic] lr = -1:"],
    ),
    (
        "[optimizer]\nuse = 3\n[optimizer.critic]\nlr = 1",
        ['r.toml:13: [optimizer] needs use = "…", the name of an optimizer'],
    ),
    (
        "[optimizer]\nschedule = {}\n[optimizer.critic]\nlr = 1",
        ['r.toml:13: [optimizer.schedule] needs use = "…", the name of a schedule'],
    ),
    (
        "[optimizer.critic]\nuse = 'sgd'\nbetas = [0, 0.9]",
        ['r.toml:14: [optimizer.critic] has no key "betas"\n  sgd (ganrun_optimizers 0) takes: lr'],
    ),
]


@pytest.mark.parametrize(("text", "expected"), OPTIMIZER)
def test_an_optimizers_fault_is_reported_once_where_it_is_written(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    reported = faults(tmp_path, BASE + text)
    assert len(reported) == len(expected)
    assert all(line.startswith(start) for line, start in zip(reported, expected, strict=True)), reported


OWN_TABLES = "[optimizer.generator]\n{0}lr = 1\n[optimizer.critic]\n{0}lr = 1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OWN_TABLES.format(""), [f'r.toml:{line}: no optimizer is called "adam"' for line in (12, 14)]),
        (OWN_TABLES.format("use = 'own'\n"), [f'r.toml:{line}: no schedule is called "constant"' for line in (12, 15)]),
        ("[optimizer.critic]\nlr = 1", ['r.toml:12: no optimizer is called "adam"']),
    ],
)
def test_a_default_that_is_not_installed_is_a_fault_where_a_table_needs_it(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    class Own:
        @hookimpl
        def ganrun_optimizers(self) -> Any:
            return {"own": ganrun_optimizers.ganrun_optimizers()["sgd"]}

    reported = faults(tmp_path, BASE + text, registry=registry_with(WganGp(), Own(), installed=False))
    assert len(reported) == len(expected)
    assert all(line.startswith(start) for line, start in zip(reported, expected, strict=True)), reported


def test_all_faults_are_reported_at_once_even_where_the_loss_is_wrong(tmp_path: Path) -> None:
    text = """\
nam = "x"
[train]
steps = 0
[data]
use = "points"
sise = 3
[loss]
use = "wgan-gp"
n_critic = 0
[generator]
use = "dens"
[critic]
use = "critic"
[optimizer]
lr = "fast"
[[metric]]
use = "count"
samples = 1.0
[bell]
times = "three"
[bel]
"""
    lines = [3, 6, 9, 11, 15, 18, 20, 1, 21]
    assert [int(reported.split(":")[1]) for reported in faults(tmp_path, text)] == lines


def test_an_unknown_loss_does_not_hide_the_rest_nor_accuse_its_slots(tmp_path: Path) -> None:
    reported = faults(
        tmp_path, BASE.replace("wgan-gp", "wgan").replace("steps = 3", "steps = 0") + "[optimizer]\nlr = 0"
    )
    assert [int(each.split(":")[1]) for each in reported] == [3, 7, 13]


def test_an_override_is_blamed_by_what_was_typed(tmp_path: Path) -> None:
    overrides = [
        "train.steps=x",
        "loss.n_critc=1",
        "optimizer.critic.lr=0",
        'metric=[{use="cuont"}]',
        "data.use=celeba",
    ]
    reported = faults(tmp_path, BASE, *overrides)
    assert [line.partition(": ")[0] for line in reported] == [
        "--set train.steps=x",
        "--set data.use=celeba",
        "--set loss.n_critc=1",
        "--set optimizer.critic.lr=0",
        '--set metric=[{use="cuont"}]',
    ]


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("ganrun>=99", r'r.toml:3: the recipe requires ganrun>=99, but .* is installed; say: pip install "ganrun>=99"'),
        ("ganrun-absent>=0.3", r"r.toml:3: the recipe requires ganrun-absent>=0.3, which is not installed; say: pip"),
        ("no requirement", r'r.toml:3: "no requirement" is not a requirement such as "ganrun-stylegan>=0.3": [^\n]*$'),
    ],
)
def test_unmet_requirements_say_what_to_install(tmp_path: Path, requirement: str, expected: str) -> None:
    (reported,) = faults(tmp_path, f'requires = [\n  "pluggy",\n  "{requirement}",\n]\n{BASE}')
    assert re.match(expected, reported), reported


def test_requires_must_be_a_list_of_texts(tmp_path: Path) -> None:
    (reported,) = faults(tmp_path, f"requires = 'pluggy'\n{BASE}")
    assert reported.startswith("r.toml:1: requires must be a list of texts")


# ── What a sound recipe means ─────────────────────────────────────────────────────────────────────────────


def test_an_average_has_a_decay_or_a_half_life(tmp_path: Path) -> None:
    falling = "{ schedule = 'linear', start = 0.0, end = 5.0 }"
    recipe = load(tmp_path, BASE + f"[ema]\nhalf_life = {falling}")
    assert recipe.ema is not None and recipe.ema.text == "half-life linear 0 → 5 steps"
    assert recipe.resolved()["ema"] == {"half_life": {"schedule": "linear", "start": 0.0, "end": 5.0}}
    assert parse_settings(type(recipe.ema), recipe.resolved()["ema"]) == recipe.ema
    (both,) = faults(tmp_path, BASE + "[ema]\ndecay = 0.9\nhalf_life = 10")
    assert both.startswith("r.toml:12: [ema]") and "set decay or half_life, not both" in both
    (negative,) = faults(tmp_path, BASE + "[ema]\nhalf_life = -1")
    assert negative.startswith("r.toml:13: [ema] half_life = -1: input should be greater than or equal to 0")


def test_every_default_is_written_out(tmp_path: Path) -> None:
    resolved = load(tmp_path, BASE).resolved()
    assert resolved["train"]["batch_size"] == 64 and resolved["train"]["seed"] == 0
    assert resolved["ema"] == {"decay": 0.999}
    assert resolved["loss"] == {"use": "ganrun-wgan-gp:wgan-gp", "n_critic": 5, "penalty_weight": 10.0}
    assert set(resolved["optimizer"]) == {"generator", "critic"}
    assert resolved["diary"] == {"use": "ganrun-wgan-gp:diary", "times": 1} and "bell" not in resolved


def test_an_integer_may_stand_for_a_float(tmp_path: Path) -> None:
    recipe = load(tmp_path, BASE.replace('"points"', '"points"\nscale = 2'))
    assert recipe.resolved()["data"]["scale"] == 2.0


def test_a_slots_own_optimizer_overlays_the_shared_one(tmp_path: Path) -> None:
    text = BASE + "[optimizer]\nlr = 1e-3\nbetas = [0, 0.9]\n[optimizer.critic]\nlr = 4e-3\n"
    optimizers = load(tmp_path, text).resolved()["optimizer"]
    assert (optimizers["generator"]["lr"], optimizers["critic"]["lr"]) == (1e-3, 4e-3)
    assert optimizers["critic"]["betas"] == optimizers["generator"]["betas"] == [0.0, 0.9]


def test_a_slot_with_another_optimizer_takes_nothing_from_the_shared_one(tmp_path: Path) -> None:
    text = BASE + "[optimizer]\nlr = 1e-3\nbetas = [0, 0.9]\n[optimizer.critic]\nuse = 'rmsprop'\n"
    critic = load(tmp_path, text).resolved()["optimizer"]["critic"]
    assert critic["use"] == "ganrun_optimizers:rmsprop" and critic["lr"] == 2e-4 and "betas" not in critic


def test_an_optimizer_that_set_puts_in_anothers_place_takes_for_all_slots_what_it_can(tmp_path: Path) -> None:
    text = BASE + "[optimizer]\nweight_decay = 0.5\nbetas = [0, 0.9]\n[optimizer.critic]\nlr = 4e-3\n"
    optimizers = load(tmp_path, text, "optimizer.use=sgd").resolved()["optimizer"]
    names = {"use": "ganrun_optimizers:sgd", "schedule": "ganrun_optimizers:constant"}
    common = {**names, "warmup_steps": 0, "weight_decay": 0.5, "momentum": 0.0}
    assert optimizers == {"generator": {"lr": 2e-4, **common}, "critic": {"lr": 4e-3, **common}}


@pytest.mark.parametrize(
    ("head", "heard", "silenced"),
    [
        ("", {"diary"}, ()),
        ("bell = true", {"diary", "bell"}, ()),
        ("bell = { times = 2 }", {"diary", "bell"}, ()),
        ("diary = false", set(), ("diary",)),
    ],
)
def test_observers_take_part_by_table_or_by_themselves(
    tmp_path: Path, head: str, heard: set[str], silenced: tuple[str, ...]
) -> None:
    recipe = load(tmp_path, f"{head}\n{BASE}")
    assert (set(recipe.observers), recipe.silenced) == (heard, silenced)


def test_two_observers_of_one_name_matter_only_where_one_is_used(tmp_path: Path) -> None:
    class Other:
        @hookimpl
        def ganrun_observers(self) -> Any:
            return {"bell": Bell}

    both = registry(Other())
    assert "bell" not in load(tmp_path, BASE, registry=both).observers
    (reported,) = faults(tmp_path, BASE + "[bell]\n", registry=both)
    assert reported == (
        'r.toml:12: "bell" is offered by Other 0 and ganrun-wgan-gp 0; '
        'say use = "Other:bell" or use = "ganrun-wgan-gp:bell"'
    )
    recipe = load(tmp_path, BASE + '[bell]\nuse = "Other:bell"', registry=both)
    assert recipe.observers["bell"].registered.plugin.name == "Other"
    assert load(tmp_path, tomli_w.dumps(recipe.resolved()), registry=both).resolved() == recipe.resolved()
    (reported,) = faults(tmp_path, BASE + '[bell]\nuse = "diary"', registry=both)
    assert reported == 'r.toml:13: [bell] use = "diary": it can only say which plugin\'s "bell" is meant'


WORDS = st.text(string.printable, min_size=1).filter(str.strip)


def _names_of(metric: dict[str, Any]) -> object:
    """What decides the names of its scores: the metric, and whose features it reads."""
    features = metric.get("features", "blobs")
    return metric["use"], features if isinstance(features, str) else features["use"]


RECIPES = st.fixed_dictionaries(
    {
        "train": st.fixed_dictionaries(
            {"steps": st.integers(1, 2**62)},
            optional={
                "seed": st.integers(0, 2**62),
                "precision": st.sampled_from(["auto", "f32", "tf32", "bf16"]),
                "horizontal_flip": st.booleans(),
                "evaluate_every_steps": st.integers(1, 99),
            },
        ),
        "data": st.fixed_dictionaries(
            {"use": st.just("points")},
            optional={
                "scale": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
                "root": st.text(),
                "kinds": st.lists(st.text()),
                "limit": st.just("all") | st.integers(-(2**63), 2**63 - 1),
            },
        ),
        "loss": st.fixed_dictionaries({"use": st.sampled_from(["wgan-gp", "ganrun-wgan-gp:wgan-gp"])}),
        "generator": st.fixed_dictionaries({"use": st.sampled_from(["dense", "generator"])}),
        "critic": st.just({"use": "critic"}),
    },
    optional={
        "name": WORDS,
        "ema": st.just(False) | st.fixed_dictionaries({"decay": st.floats(0, 0.99)}),
        "diary": st.booleans() | st.fixed_dictionaries({"times": st.integers(-9, 9)}),
        "bell": st.booleans() | st.fixed_dictionaries({"times": st.integers(-9, 9)}),
        "metric": st.lists(
            st.fixed_dictionaries({"use": st.just("count"), "samples": st.integers(1, 9)})
            | st.fixed_dictionaries(
                {"use": st.just("distance")},
                optional={
                    "features": st.sampled_from(["blobs", "other-blobs"])
                    | st.fixed_dictionaries({"use": st.just("blobs")}, optional={"weights": st.text()})
                },
            ),
            max_size=3,
            unique_by=_names_of,
        ),
        "optimizer": st.fixed_dictionaries(
            {},
            optional={
                "use": st.sampled_from(["adam", "sgd"]),
                "lr": st.floats(1e-9, 1),
                "clip_norm": st.floats(0.1, 1),
                "critic": st.fixed_dictionaries({}, optional={"use": st.sampled_from(["adam", "rmsprop"])}),
            },
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(RECIPES)
def test_a_resolved_recipe_resolves_to_itself(tmp_path_factory: pytest.TempPathFactory, tables: dict[str, Any]) -> None:
    folder = tmp_path_factory.getbasetemp()
    first = load(folder, tomli_w.dumps(tables)).resolved()
    assert load(folder, tomli_w.dumps(first)).resolved() == first


# ── Helpers ───────────────────────────────────────────────────────────────────────────────────────────────


def load(folder: Path, text: str, *overrides: str, registry: Registry = REGISTRY) -> Recipe:
    path = folder / "r.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, registry, overrides)


def faults(folder: Path, text: str, *overrides: str, registry: Registry = REGISTRY) -> list[str]:
    """The problems, without the folder."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides, registry=registry)
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]
