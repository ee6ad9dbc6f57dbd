"""The checks before a run: each clause broken once, located in the recipe; and a loss's memory."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

import ganrun
from ganrun import (
    AdversarialLoss,
    ClassInLatents,
    Discriminator,
    Generator,
    Loss,
    Network,
    Phase,
    Ports,
    Slot,
    Terms,
    View,
    labels_of,
)
from ganrun.base.errors import RequestError
from ganrun.testing import build, registry_with, train
from ganrun.trained.loading import find_saved_model

# ── Networks with one fault ───────────────────────────────────────────────────────────────────────────────


class Sound(Generator):
    """Without fault; takes labels where there are some."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.first = nn.Linear(*spec.inputs, 12)
        self.table = nn.Embedding(spec.classes, 12) if spec.labelled else None
        self.last = nn.Linear(12, math.prod(spec.outputs))

    def forward(self, latents, labels=None):
        hidden = self.first(latents)
        return self.made(hidden if self.table is None else hidden + self.table(labels))

    def made(self, hidden):
        return self.last(hidden.relu()).tanh().unflatten(1, self.spec.outputs)


class Narrow(Sound):
    """A wrong shape."""

    def made(self, hidden):
        return super().made(hidden)[..., :7]


class Twofold(Sound):
    """A tuple."""

    def made(self, hidden):
        return super().made(hidden), hidden


class Greedy(Sound):
    """Changes its input in place."""

    def forward(self, latents, labels=None):
        return super().forward(latents.mul_(2))


class Double(Sound):
    """float64."""

    def made(self, hidden):
        return super().made(hidden).double()


class Poisoned(Sound):
    """NaN as it is initialised."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        nn.init.constant_(self.last.bias, math.nan)


class PoisonedInTraining(Sound):
    """NaN in training mode alone."""

    def made(self, hidden):
        return super().made(hidden / 0 - hidden / 0 if self.training else hidden)


class Detached(Sound):
    """Has no gradient."""

    def made(self, hidden):
        return super().made(hidden).detach()


class Constant(Sound):
    """Ignores its latents."""

    def forward(self, latents, labels=None):
        return super().forward(0 * latents)


class Overwriting(Sound):
    """Overwrites what the backward pass needs."""

    def made(self, hidden):
        outputs = super().made(hidden)
        return outputs.mul_(0.5) if self.training else outputs * 0.5


class FloatOnly(Sound):
    """Fails in bf16."""

    def made(self, hidden):
        whole = torch.zeros(hidden.shape)
        return super().made(whole.index_copy_(0, torch.arange(len(hidden)), hidden))


class Unlabelled(Sound):
    """Has no labels in its signature."""

    def forward(self, latents):
        return self.made(self.first(latents))


class Deaf(Sound):
    """Multiplies its labels by 0."""

    def forward(self, latents, labels):
        return self.made(self.first(latents) + 0 * self.table(labels))


class Normed(Sound):
    """Batch norm."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.norm = nn.BatchNorm1d(12)

    def made(self, hidden):
        return super().made(self.norm(hidden))


# ── Networks that look broken where they are initialised ──────────────────────────────────────────────────


class ConditionalNorm(Sound):
    """Conditional batch norm as published: at first, scale 1 and shift 0 for every class."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.norm = nn.BatchNorm1d(12, affine=False)
        self.scale, self.shift = nn.Embedding(spec.classes, 12), nn.Embedding(spec.classes, 12)
        self.table = None
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, latents, labels):
        return self.made(self.scale(labels) * self.norm(self.first(latents)) + self.shift(labels))


class Gated(Sound):
    """A gate that starts at 0, so that every output is the same at first."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.gate = nn.Parameter(torch.zeros(()))

    def made(self, hidden):
        return super().made(self.gate * hidden)


class Viewing(Discriminator):
    """Calls view after a convolution, which fails on channels-last images."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.convolution = nn.Conv2d(spec.inputs[0], 4, 3, padding=1)
        self.last = nn.Linear(4 * math.prod(spec.inputs[1:]), spec.out_features)

    def forward(self, images, labels=None):
        return self.last(self.convolution(images).relu().view(len(images), -1))


# ── Networks of other kinds ───────────────────────────────────────────────────────────────────────────────


class Translation(Loss):
    """Images to images."""

    slots = {"generator": Slot("generator"), "translator": Slot("network")}
    latent_size = 6

    def ports(self, slot):
        if slot == "generator":
            return super().ports(slot)
        return Ports(self.spec.sample_shape, self.spec.sample_shape, {"time": ()})

    def phases(self):
        return (Phase("both", self.objective, trains=("generator", "translator")),)

    def objective(self, nets, batch):
        time = torch.rand(batch.size, device=batch.latents.device)
        translated = nets.translator(nets.generator(batch.latents), time=time)
        return Terms({"distance": (translated - batch.images).square().mean()})


class TimedTranslator(Network):
    """One convolution, shifted by the time."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.layer = nn.Conv2d(spec.inputs[0], spec.outputs[0], 3, padding=1)

    def forward(self, images, time):
        return self.layer(images) + time[:, None, None, None]


class Returning(TimedTranslator):
    """Returns its input."""

    def forward(self, images, time):
        return images


class Timeless(TimedTranslator):
    """Ignores the time."""

    def forward(self, images, time):
        return self.layer(images)


# ── Losses ────────────────────────────────────────────────────────────────────────────────────────────────


class Adversarial(AdversarialLoss):
    """The plainest."""

    latent_size = 6

    def discriminator(self, nets, batch):
        fake = nets.discriminator(nets.generator(batch.latents))
        return Terms({"real": -nets.discriminator(batch.images).tanh().mean(), "fake": fake.tanh().mean()})

    def generator(self, nets, batch):
        return Terms({"fake": -nets.discriminator(nets.generator(batch.latents)).mean()})


class Methodical(Adversarial):
    """Calls a method of its generator."""

    slots = {**AdversarialLoss.slots, "generator": Slot("generator", methods=("made", "mapped"))}


class ConditionalWassersteinGp(ClassInLatents, AdversarialLoss):
    """Labels and a penalty on each sample's own gradient, together."""

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, per_sample=True)}

    def ports(self, slot):
        return super().ports(slot)._replace(conditions={"labels": ()})

    def discriminator(self, nets, batch):
        noise, classes = self.noise_and_classes(batch.latents)
        fake, labels = nets.generator(noise, labels=classes), labels_of(batch)
        share = torch.rand(batch.size, 1, 1, 1, device=fake.device)
        between = (share * batch.images + (1 - share) * fake).requires_grad_()
        values = nets.discriminator(between, labels=labels)
        (slope,) = torch.autograd.grad(values.sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        gap = nets.discriminator(fake, labels=classes).mean() - nets.discriminator(batch.images, labels=labels).mean()
        return Terms({"gap": gap, "penalty": 10 * penalty})

    def generator(self, nets, batch):
        noise, classes = self.noise_and_classes(batch.latents)
        return Terms({"fake": -nets.discriminator(nets.generator(noise, labels=classes), labels=classes).mean()})


class Remembering(Adversarial):
    """Weighs its terms by what it remembers of earlier batches, and by a direction drawn at the start."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.memory.register_buffer("mean", torch.zeros(()))
        self.memory.register_buffer("direction", torch.randn(5))

    def generator(self, nets, batch):
        values = nets.discriminator(nets.generator(batch.latents))
        self.memory.mean.lerp_(values.detach().mean(), 0.5)
        return Terms({"fake": -((1 + self.memory.mean) * self.memory.direction.mean() * values).mean()})


class TrainedMemory(Adversarial):
    """Keeps a parameter where buffers belong."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.memory.scale = nn.Parameter(torch.ones(()))


class ForgetfulMemory(Adversarial):
    """Keeps a buffer that no checkpoint would have."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.memory.register_buffer("mean", torch.zeros(()), persistent=False)


class Weightless(Generator):
    """Has nothing to train."""

    def forward(self, latents):
        size = self.spec.out_features
        return latents.repeat(1, size)[:, :size].tanh().unflatten(1, self.spec.outputs)


COMPONENTS = {
    "ganrun_generators": (
        Sound,
        Narrow,
        Twofold,
        Greedy,
        Double,
        Poisoned,
        PoisonedInTraining,
        Constant,
        Detached,
        Overwriting,
        FloatOnly,
        Unlabelled,
        Deaf,
        Normed,
        ConditionalNorm,
        Gated,
        Weightless,
    ),
    "ganrun_discriminators": (Viewing,),
    "ganrun_networks": (TimedTranslator, Returning, Timeless),
    "ganrun_losses": (
        Adversarial,
        Methodical,
        Translation,
        ConditionalWassersteinGp,
        Remembering,
        TrainedMemory,
        ForgetfulMemory,
    ),
}


class Plugin:
    """All of the above, each by the name of its class."""

    ganrun_generators = ganrun.hookimpl(lambda self: offered("ganrun_generators"))
    ganrun_discriminators = ganrun.hookimpl(lambda self: offered("ganrun_discriminators"))
    ganrun_networks = ganrun.hookimpl(lambda self: offered("ganrun_networks"))
    ganrun_losses = ganrun.hookimpl(lambda self: offered("ganrun_losses"))


def offered(hook: str) -> dict[str, type]:
    return {name_of(component): component for component in COMPONENTS[hook]}


def name_of(component: type) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", component.__name__).lower()


def recipe(loss: type | str = Adversarial, generator: type = Sound, **train_settings: object) -> dict:
    return {
        "train": {"steps": 2, "batch_size": 8, "device": "cpu", "log_every_steps": 1, **train_settings},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": loss if isinstance(loss, str) else name_of(loss)},
        "generator": {"use": name_of(generator)},
        "discriminator": {"use": "mlp", "hidden": [8]},
        **dict.fromkeys(("mlflow", "samples", "progress"), False),
    }


def translation(translator: type) -> dict:
    tables = recipe(Translation)
    del tables["discriminator"]
    return tables | {"translator": {"use": name_of(translator)}}


def line_of(path, table: str) -> int:
    return path.read_text(encoding="utf-8").splitlines().index(f"[{table}]") + 1


def refusal(tables: dict, folder, table: str) -> str:
    """The message with which a recipe is refused, which must name its line, and leave no run directory."""
    with pytest.raises(RequestError) as caught:
        build(tables, folder / "run", Plugin())
    assert not (folder / "run").exists()
    located = f"run.toml:{line_of(folder / 'run.toml', table)}: [{table}] "
    message = str(caught.value)
    assert located in message, f"{located!r} is not in {message!r}"
    return message.partition(located)[2]


# ── Refused ───────────────────────────────────────────────────────────────────────────────────────────────

BROKEN = {
    "Narrow": (recipe(generator=Narrow), r"returned shape \(2, 1, 8, 7\) where \(2, 1, 8, 8\) was expected"),
    "Twofold": (recipe(generator=Twofold), "returned tuple where a tensor was expected"),
    "Greedy": (recipe(generator=Greedy), "changes its input in place"),
    "Double": (recipe(generator=Double), r"returns torch.float64 where torch.float32 was expected"),
    "Poisoned": (recipe(generator=Poisoned), "returns NaN or infinity when freshly initialised"),
    "PoisonedInTraining": (recipe(generator=PoisonedInTraining), "returns NaN or infinity in training mode$"),
    "Detached": (recipe(generator=Detached), "its output has no gradient with respect to its weights"),
    "Constant": (recipe(generator=Constant), "gives the same output for different inputs"),
    "Overwriting": (recipe(generator=Overwriting), "modified by an inplace operation"),
    "FloatOnly": (recipe(generator=FloatOnly, precision="bf16"), r"cannot take an input of shape .* in bfloat16: "),
    "Unlabelled": (recipe("cgan", Unlabelled), "ignores its labels; take a network that can be conditioned"),
    "Deaf": (recipe("cgan", Deaf), "ignores its labels; take a network that can be conditioned"),
    "Normed": (recipe(generator=Normed, accumulate=8), "batch norm, which cannot train on 1 sample at a time; take a"),
    "Weightless": (recipe(generator=Weightless), "has no weights to train"),
    "Methodical": (recipe(Methodical), 'lacks "mapped", which the loss calls'),
}


@pytest.mark.parametrize(("tables", "message"), BROKEN.values(), ids=BROKEN)
def test_a_generator_that_breaks_a_clause_is_refused_at_its_line(tmp_path, tables, message):
    assert re.search(message, refusal(tables, tmp_path, "generator"))


@pytest.mark.parametrize(
    ("translator", "message"),
    [(Returning, "returns its input itself, or a view of it"), (Timeless, "ignores its time")],
)
def test_so_is_a_network_of_any_other_kind(tmp_path, translator, message):
    assert message in refusal(translation(translator), tmp_path, "translator")


def test_a_parameter_in_a_memory_is_refused(tmp_path):
    message = refusal(recipe(TrainedMemory), tmp_path, "loss")
    assert 'holds the parameter "scale"; what is trained is a slot' in message


def test_a_buffer_of_a_memory_that_no_checkpoint_would_hold_is_refused(tmp_path):
    assert 'the buffer "mean" with persistent=False' in refusal(recipe(ForgetfulMemory), tmp_path, "loss")


# ── Accepted ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "tables",
    [
        recipe("cgan", ConditionalNorm),
        recipe("cgan", Gated),
        recipe(generator=Gated, precision="bf16"),
        recipe(generator=Normed, accumulate=4),
        recipe("cgan", Sound),
        translation(TimedTranslator),
    ],
    ids=["conditional norm", "gate with labels", "gate", "batch norm of two", "labels", "translator"],
)
def test_a_network_that_only_looks_broken_at_first_trains(tmp_path, tables):
    assert train(tables, tmp_path / "run", Plugin()).step == 2


def test_a_network_that_needs_contiguous_images_trains_and_loads_again(tmp_path):
    tables = recipe() | {"discriminator": {"use": "viewing"}, "checkpoints": {}}
    images = torch.randn(3, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    run = train(tables, tmp_path / "run", Plugin())
    with torch.no_grad():
        expected = run.state.slots["discriminator"].module.eval()(images.contiguous())
    loaded = find_saved_model(tmp_path / "run", registry_with(Plugin())).model("cpu").networks["discriminator"]
    with torch.no_grad():
        assert torch.equal(View(loaded)(images), expected), "the loaded network is laid out as it needs, too"
    assert train(tables | {"train": {**tables["train"], "steps": 3}}, tmp_path / "run", Plugin(), resume=True).step == 3


# ── Warned of ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_conditional_loss_with_a_penalty_per_sample_builds_trains_and_warns_of_batch_norm_alone(tmp_path, caplog):
    tables = recipe(ConditionalWassersteinGp)
    assert train(tables, tmp_path / "mlp", Plugin()).step == 2
    assert "depends on the other samples" not in caplog.text
    tables["discriminator"] = {"use": "conv", "stages": 2, "feature_maps": 4, "norm": "batch"}
    build(tables, tmp_path / "conv", Plugin())
    line = line_of(tmp_path / "conv.toml", "discriminator")
    assert f"conv.toml:{line}: an output of the discriminator conv" in caplog.text
    assert "and conditional-wasserstein-gp looks at each sample alone" in caplog.text


@pytest.mark.parametrize(("generator", "accumulate"), [(Normed, 2), (Normed, 1), (Sound, 2)])
def test_the_user_is_warned_of_batch_norm_where_a_batch_is_cut(tmp_path, caplog, generator, accumulate):
    build(recipe(generator=generator, accumulate=accumulate), tmp_path / "run", Plugin())
    warning = "by accumulate = 2, a batch of 8 is split into parts of 4, and the generator normed looks across a batch"
    assert (warning in caplog.text) == (generator is Normed and accumulate == 2)


def test_one_warning_names_all_networks_that_look_across_a_cut_batch(tmp_path, caplog):
    tables = recipe(generator=Normed, accumulate=2)
    tables["discriminator"] = {"use": "conv", "stages": 2, "feature_maps": 4, "norm": "batch"}
    build(tables, tmp_path / "run", Plugin())
    lines = (tmp_path / "run.toml").read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.startswith("accumulate"))
    assert caplog.text.count("is split into parts of") == 1
    assert (
        f"run.toml:{number}: " in caplog.text and "the generator normed and the discriminator conv look" in caplog.text
    )


# ── Memory ────────────────────────────────────────────────────────────────────────────────────────────────


def memory(run) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in run.model.loss.memory.state_dict().items()}


def test_what_a_loss_remembers_is_saved_resumed_and_loaded_with_the_model(tmp_path):
    whole = train(recipe(Remembering, steps=6), tmp_path / "whole", Plugin())
    halfway = memory(train(recipe(Remembering, steps=3), tmp_path / "parts", Plugin()))
    parts = train(recipe(Remembering, steps=6), tmp_path / "parts", Plugin(), resume=True)
    for name, weights in whole.state.weights().items():
        for key, value in weights.items():
            assert torch.equal(value, parts.state.weights()[name][key]), f"{name}: {key}"
    assert halfway["mean"] != 0 and halfway["mean"] != memory(parts)["mean"]
    (file,) = (tmp_path / "parts").glob("checkpoints/step_00000006/loss.safetensors")
    assert file.stat().st_size > 0


def test_a_loaded_model_remembers_what_the_run_did(tmp_path):
    run = train(recipe(Remembering), tmp_path / "run", Plugin())
    loaded = find_saved_model(tmp_path / "run", registry_with(Plugin())).model("cpu").loss.memory.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in memory(run).items())


def test_what_a_loss_draws_depends_on_the_seed_alone(tmp_path):
    def direction(name: str, **settings: object) -> torch.Tensor:
        torch.manual_seed(len(name))
        tables = recipe(Remembering, generator=settings.pop("generator", Sound), **settings)
        return memory(build(tables, tmp_path / name, Plugin()))["direction"]

    first = direction("first", seed=5)
    assert torch.equal(first, direction("others", seed=5, generator=Normed, batch_size=4))
    assert not torch.equal(first, direction("seed", seed=6))
