"""The common base of losses that make images from images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ganrun import (
    Batch,
    DataSpec,
    Factor,
    ImageToImageLoss,
    IncompatibleError,
    Model,
    ModelSpec,
    Nets,
    Phase,
    Settings,
    Terms,
    View,
)
from ganrun.testing import assert_conforms

MASKED = DataSpec((3, 8, 8), fields={"source": (3, 8, 8), "mask": (1, 8, 8)})
ENLARGED = DataSpec((3, 8, 8), fields={"source": (1, 4, 4)})


class Distance(ImageToImageLoss):
    """The mean absolute error."""

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("generator", self.objective, trains=("generator",)),)

    def objective(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"l1": (self.made(nets, batch) - batch.images).abs().mean()})


class Seen(nn.Module):
    """The first three channels, where the last is -1, and 0 elsewhere."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :3] * (images[:, 3:] < 0)


@pytest.mark.parametrize("spec", [MASKED, ENLARGED], ids=["masked", "enlarged"])
def test_it_keeps_the_contract_of_losses(spec: DataSpec) -> None:
    assert_conforms("loss", Distance, spec=spec)


def test_samples_are_made_of_what_latents_hold_and_training_sees_the_same() -> None:
    loss, nets = Distance(Settings(), MASKED), Nets({"generator": View(Seen())})
    source, mask = torch.rand(2, 3, 8, 8) * 2 - 1, torch.where(torch.rand(2, 1, 8, 8) < 0.5, -1.0, 1.0)
    parts = {"source": source, "mask": mask}
    latents = torch.cat([parts[factor.name].flatten(1) for factor in loss.factors()], 1)
    assert latents.shape == (2, loss.latent_size)
    made = loss.made(nets, Batch(latents, source, None, parts))
    assert torch.equal(made, source * (mask < 0))
    assert torch.equal(loss.generate(nets, latents, Settings()), made)


def test_samples_are_cut_off_where_a_generator_is_not_bounded() -> None:
    loss, nets = Distance(Settings(), ENLARGED), Nets({"generator": View(nn.Identity())})
    latents = torch.linspace(-3, 3, loss.latent_size)[None]
    assert torch.equal(loss.generate(nets, latents, Settings()).flatten(1), latents.clamp(-1, 1))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (DataSpec((3, 8, 8)), 'field "source" of the data.*; it has none'),
        (DataSpec((3, 8, 8), fields={"depth": (1, 8, 8)}), 'field "source" of the data.*; its fields are depth'),
        (DataSpec((2,), fields={"source": (3, 8, 8)}), "works on images"),
        (DataSpec((3, 8, 8), fields={"source": (3, 8, 8), "mask": (1, 4, 4)}), r'"mask" is \(1, 4, 4\), and the sou'),
    ],
)
def test_data_that_holds_no_source_is_refused(spec: DataSpec, message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        Distance(Settings(), spec)


# ── A user's own pictures ─────────────────────────────────────────────────────────────────────────────────


def model_of(spec: DataSpec, network: nn.Module) -> Model:
    loss = Distance(Settings(), spec)
    facts = ModelSpec.from_facts(spec.facts())
    about = replace(facts, latent_size=loss.latent_size, factors=tuple(loss.factors()))
    return Model(about, loss, {"generator": network}, torch.device("cpu"), seed=0)


class Enlarger(nn.Module):
    """Three channels of a grey picture at twice the size."""

    def forward(self, images: Tensor) -> Tensor:
        return interpolate(images, scale_factor=2.0).expand(-1, 3, -1, -1)


def test_pictures_of_any_size_are_translated_and_those_of_the_models_own_exactly_so() -> None:
    masked, enlarging = model_of(MASKED, Seen()), model_of(ENLARGED, Enlarger())
    pictures, masks = torch.rand(2, 3, 21, 13) * 2 - 1, torch.where(torch.rand(2, 1, 21, 13) < 0.5, -1.0, 1.0)
    torch.testing.assert_close(masked.translate(pictures, masks), pictures * (masks < 0))
    grey = torch.rand(1, 1, 3, 9) * 2 - 1
    torch.testing.assert_close(enlarging.translate(grey), Enlarger()(grey))
    own, mask = pictures[:, :, :8, :8], masks[:, :, :8, :8]
    assert torch.equal(masked.translate(own, mask), masked.decode(masked.latents_of(source=own, mask=mask)))


@pytest.mark.parametrize(
    ("spec", "shapes", "message"),
    [
        (MASKED, [(1, 3, 9, 9)], "fills in what is missing, so it takes masks"),
        (MASKED, [(1, 3, 9, 9), (1, 1, 9, 8)], r"masks of shape \(1, 1, 9, 8\) do not fit"),
        (ENLARGED, [(1, 3, 9, 9)], "takes pictures of 1 channels, and these have 3"),
        (MASKED, [(1, 3, 9, 9), (1, 1, 9, 9)], "these have other values"),
        (ENLARGED, [(1, 1, 9, 9), (1, 1, 9, 9)], "takes no masks"),
        (ENLARGED, [(1, 9, 9)], r"\(count, channels, height, width\) in \[-1, 1\], and these are \(1, 9, 9\)"),
        (ENLARGED, [(0, 1, 9, 9)], r"these are \(0, 1, 9, 9\)"),
        (DataSpec((3, 8, 8), fields={"source": (3, 6, 8)}), [(1, 3, 9, 9)], "not an integer factor"),
    ],
)
def test_pictures_that_a_model_does_not_take_are_refused(
    spec: DataSpec, shapes: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(IncompatibleError, match=message):
        model_of(spec, Seen()).translate(*map(torch.zeros, shapes))


def test_large_images_are_made_and_read_a_few_at_a_time() -> None:
    seen: list[int] = []

    class Noticing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return -images

    model = model_of(DataSpec((1, 256, 512), fields={"source": (1, 256, 512)}), Noticing())
    sources = torch.rand(19, 1, 256, 512) * 2 - 1
    model.loss.readings = lambda: {"negatives": lambda nets, batch: nets.generator(batch["source"])}
    made, read = (
        model.decode(model.latents_of(source=sources)),
        model.read("negatives", sources, None, {"source": sources}),
    )
    assert torch.equal(made, -sources) and torch.equal(read, -sources)
    assert seen == [8, 8, 3, 8, 8, 3]


def test_a_model_of_latents_translates_nothing() -> None:
    model = model_of(MASKED, Seen())
    model.spec = replace(model.spec, factors=(*model.spec.factors, Factor("noise", 4, "noise")))
    with pytest.raises(IncompatibleError, match="from latents, not from pictures"):
        model.translate(torch.zeros(1, 3, 8, 8))
