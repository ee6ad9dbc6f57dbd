"""Slots that keep, or start from, trained weights: perceptual networks, transfer, training in two stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ganrun import (
    Batch,
    Loss,
    Nets,
    Network,
    NetworkSpec,
    Phase,
    Ports,
    PreflightError,
    RequestError,
    Run,
    Settings,
    Slot,
    Terms,
    Tracker,
    find_saved_model,
    hookimpl,
)
from ganrun.rundir.checkpoints import digest_of
from ganrun.testing import build, registry_with, train
from ganrun_vanilla.losses import NonSaturatingGan

MLP = {"use": "mlp", "hidden": [8]}
Journey = Callable[..., Run]


# ── A perceptual network, whose weights are in a file ─────────────────────────────────────────────────────


class Perceptual(Network):
    """Two convolutions with batch norm and dropout, as a classifier's trunk has them."""

    class Settings(Settings):
        weights: str
        """The file."""

    def __init__(self, settings: Any, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        width = spec.out_features
        self.layers = nn.Sequential(
            nn.Conv2d(spec.inputs[0], 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, width, 3)
        )

    def prepare(self, device: torch.device) -> None:
        """Read the file."""
        try:
            weights = load_file(self.settings.weights, str(device))
        except FileNotFoundError:
            raise PreflightError(f"there is no file {self.settings.weights}; train a classifier first") from None
        self.load_state_dict(weights)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class FeatureMatching(NonSaturatingGan):
    """A GAN whose samples also have the real images' mean features."""

    slots = {**NonSaturatingGan.slots, "features": Slot("network", frozen=True)}

    def ports(self, slot: str) -> Ports:
        return Ports(self.spec.sample_shape, (5, ...)) if slot == "features" else super().ports(slot)

    def phases(self) -> Sequence[Phase]:
        critic, _ = super().phases()
        return critic, Phase("generator", self.matching, trains=("generator",))

    def matching(self, nets: Nets, batch: Batch) -> Terms:
        samples = nets.generator(batch.latents)
        real, fake = nets.features(batch.images), nets.features(samples)
        distance = (real.mean(0) - fake.mean(0)).square().mean()
        return Terms({"fake": self.generator_loss(nets.discriminator(samples)), "features": distance})


class Encoding(Loss):
    """f-AnoGAN's second stage: an encoder for a generator that is trained already (arXiv:1902.06222)."""

    latent_size = 4
    slots = {"generator": Slot("generator", frozen=True), "encoder": Slot("discriminator")}

    def ports(self, slot: str) -> Ports:
        ports = super().ports(slot)
        return ports._replace(outputs=(4,)) if slot == "encoder" else ports

    def phases(self) -> Sequence[Phase]:
        return (Phase("encoder", self.izi, trains=("encoder",)),)

    def izi(self, nets: Nets, batch: Batch) -> Terms:
        again = nets.generator(nets.encoder(batch.images))
        return Terms({"residual": (batch.images - again).square().mean()})


class Wrong(FeatureMatching):
    """Trains what is frozen."""

    def phases(self) -> Sequence[Phase]:
        first, second = super().phases()
        return first, Phase("generator", second.objective, trains=("generator", "features"))


class Plugin:
    @hookimpl
    def ganrun_networks(self) -> dict[str, type[Network]]:
        return {"perceptual": Perceptual}

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"perceptual-matching": FeatureMatching, "encoding": Encoding, "wrong": Wrong}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    settings, spec = Perceptual.Settings(weights=""), NetworkSpec((1, 8, 8), (5, ...))
    network = Perceptual(settings, spec)
    network(torch.randn(20, 1, 8, 8))  # running statistics
    save_file(network.state_dict(), tmp_path / "features.safetensors")
    return tmp_path / "features.safetensors"


def perceptual(weights: Path, loss: str = "perceptual-matching") -> dict[str, Any]:
    return {
        "loss": {"use": loss, "latent_size": 4},
        "generator": MLP,
        "discriminator": MLP,
        "features": {"use": "perceptual", "weights": str(weights)},
    }


def test_a_perceptual_network_stays_as_its_file_has_it(journey: Journey, weights: Path) -> None:
    run = journey(perceptual(weights), Plugin())
    frozen = next(name for name, slot in run.model.loss.slots.items() if slot.frozen)
    assert run.environment["starts"][frozen] == {"sha256": digest_of(run.state.slots[frozen].module.state_dict())}
    slot = run.state.slots["features"]
    assert (slot.optimizer, slot.average, slot.parameters) == (None, None, [])
    for name, tensor in load_file(weights).items():
        assert torch.equal(slot.module.state_dict()[name], tensor), f"{name} has changed, in evaluation mode too"
    assert not slot.module.training and not any(each.requires_grad for each in slot.module.parameters())
    assert run.recipe.optimizers.keys() == {"generator", "discriminator"}
    assert not [name for name in _records(run)[0] if "features" in name and "loss/" not in name]


def test_its_file_is_needed_where_it_trains_and_not_where_it_is_used(tmp_path: Path, weights: Path) -> None:
    tables = {**_quiet(), **perceptual(weights)}
    train(tables, tmp_path / "run", Plugin())
    kept = load_file(weights)
    weights.unlink()
    model = find_saved_model(tmp_path / "run", registry_with(Plugin())).model("cpu")
    assert all(torch.equal(kept[name], each) for name, each in model.networks["features"].state_dict().items())
    with pytest.raises(PreflightError, match=r"toml:\d+: \[features\] perceptual .*there is no file .*; train a class"):
        build(tables, tmp_path / "other", Plugin())
    assert not (tmp_path / "other").exists()


def test_what_is_frozen_is_trained_by_nobody(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(RequestError, match=r'the phase "generator" trains "features", whose slot says frozen=True'):
        build({**_quiet(), **perceptual(weights, "wrong")}, tmp_path / "run", Plugin())
    rates = {**_quiet(), **perceptual(weights), "optimizer": {"lr": 1e-3, "features": {"lr": 1e-4}}}
    with pytest.raises(RequestError, match="has a frozen features, which no optimizer trains; leave this table out"):
        build(rates, tmp_path / "run", Plugin())


# ── From another run ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def source(tmp_path: Path) -> Path:
    train({**_quiet(), **GAN, "ema": {"decay": 0.5}}, tmp_path / "source")
    return tmp_path / "source"


GAN: dict[str, Any] = {"loss": {"use": "gan", "latent_size": 4}, "generator": MLP, "discriminator": MLP}


def test_a_gan_starts_from_another(journey: Journey, source: Path) -> None:
    run = journey({**GAN, "train": {"seed": 8}, "generator": {**MLP, "from": str(source)}})
    facts = json.loads((run.directory / "environment.json").read_text())["starts"]
    averaged = load_file(source / "checkpoints/step_00000003/generator.averaged.safetensors")
    expected = {"from": str(source), "path": str(source), "step": 3, "sha256": digest_of(averaged)}
    assert facts == {"generator": expected}


def test_it_starts_from_the_averaged_weights_and_so_does_its_average(tmp_path: Path, source: Path) -> None:
    checkpoint = source / "checkpoints/step_00000003"
    tables = {**_quiet(), **GAN, "ema": {"decay": 0.9}}
    tables["generator"] = {**MLP, "from": str(checkpoint)}
    state = build(tables, tmp_path / "run").state.slots
    averaged = load_file(checkpoint / "generator.averaged.safetensors")
    average = state["generator"].average
    assert average is not None
    for name, tensor in averaged.items():
        assert torch.equal(state["generator"].module.state_dict()[name], tensor)
        assert torch.equal(average.module.state_dict()[name], tensor)
    fresh = build({**_quiet(), **GAN}, tmp_path / "fresh").state.slots["discriminator"].module.state_dict()
    assert all(torch.equal(fresh[name], each) for name, each in state["discriminator"].module.state_dict().items())


def test_an_encoder_is_trained_for_the_generator_of_an_earlier_run(journey: Journey, source: Path) -> None:
    tables = {
        "loss": {"use": "encoding"},
        "generator": {**MLP, "from": str(source)},
        "encoder": MLP,
    }
    run = journey(tables, Plugin())
    averaged = load_file(source / "checkpoints/step_00000003/generator.averaged.safetensors")
    for name, tensor in averaged.items():
        assert torch.equal(run.state.slots["generator"].module.state_dict()[name], tensor)


def test_the_source_is_needed_only_at_the_start(tmp_path: Path, source: Path) -> None:
    tables = {**_quiet(), **GAN, "generator": {**MLP, "from": str(source)}}
    whole = train(tables, tmp_path / "whole")
    facts = json.loads((tmp_path / "whole/environment.json").read_text())["starts"]
    short = {**tables, "train": {**tables["train"], "steps": 1}}
    train(short, tmp_path / "broken")
    source.rename(tmp_path / "elsewhere")
    resumed = train(tables, tmp_path / "broken", resume=True)
    for slot, tensors in whole.state.weights().items():
        assert all(torch.equal(each, resumed.state.weights()[slot][name]) for name, each in tensors.items())
    assert json.loads((tmp_path / "broken/environment.json").read_text())["starts"] == facts
    with pytest.raises(RequestError, match=r"\[generator\] from = .*there is no .*source"):
        build(tables, tmp_path / "other")


def test_a_run_without_a_checkpoint_starts_from_its_source_again(tmp_path: Path, source: Path) -> None:
    tables = {**_quiet(), **GAN, "generator": {**MLP, "from": str(source)}}
    whole = train({**tables, "checkpoints": False}, tmp_path / "run")
    again = train({**tables, "checkpoints": False}, tmp_path / "run", resume=True)
    for slot, tensors in whole.state.weights().items():
        assert all(torch.equal(each, again.state.weights()[slot][name]) for name, each in tensors.items())


class Notebook(Tracker):
    """Knows one run by its id."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def find(self, run_id: str) -> Path | None:
        return self.run if run_id == "run-17" else None

    def runs_of(self, experiment: str) -> None:
        return None

    def experiments(self) -> Sequence[str]:
        return ()


def test_a_tracker_says_where_a_run_is(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracking:
        @hookimpl
        def ganrun_trackers(self) -> dict[str, Tracker]:
            return {"notebook": Notebook(source)}

    monkeypatch.setattr("ganrun.training.starting.load_registry", lambda: registry_with(Tracking()))
    run = build({**_quiet(), **GAN, "generator": {**MLP, "from": "run-17"}}, tmp_path / "run")
    assert run.environment["starts"]["generator"]["path"] == str(source)
    assert run.environment["starts"]["generator"]["from"] == "run-17"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": {**MLP, "from": "absent"}}, r'run.toml:\d+: \[generator\] from = "absent": there is no absent'),
        (
            {"generator": {"use": "mlp", "hidden": [9], "from": "source"}},
            r"its generator is another network: .*weight is \(8, 4\) there and \(9, 4\) here",
        ),
        ({"loss": {"use": "encoding"}, "encoder": {**MLP, "from": "source"}}, 'holds no weights of a "encoder"; there'),
        ({"generator": {**MLP, "from": "folder"}}, "is not a run directory, a checkpoint or an exported"),
        ({"generator": {**MLP, "from": "run"}}, "that is the run itself; name another one"),
    ],
)
def test_what_it_cannot_start_from_is_refused_before_anything_is_written(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    tables = {**_quiet(), **GAN, **change}
    if "encoder" in tables:
        del tables["discriminator"]
    with pytest.raises(RequestError, match=message):
        build(tables, tmp_path / "run", Plugin())
    assert not list((tmp_path / "run").iterdir())


def _quiet() -> dict[str, Any]:
    return {
        "train": {"steps": 3, "batch_size": 4, "device": "cpu", "seed": 3, "log_every_steps": 1},
        "data": {"use": "digits", "size": 8},
        "checkpoints": {"every_steps": 1, "keep": 5},
        **dict.fromkeys(("mlflow", "progress", "samples"), False),
    }


def _records(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
