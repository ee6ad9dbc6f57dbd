"""Built-in autoencoders go through the life cycle of every family: trained, resumed, loaded, scored, exported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.families import FAMILIES

from ganrun import Model, Run


def test_samples_of_codes_and_reconstructions_agree(journey: Callable[..., Run]) -> None:
    model = journey(FAMILIES["vq-vae"].tables).model
    codes = model.encode(check_reconstructs(model))
    assert codes.unflatten(1, (-1, 6)).sum(2).eq(1).all()


@pytest.mark.parametrize("mode", ["f32"], indirect=True)
@pytest.mark.parametrize(("name", "exports"), [("autoencoder", True), ("vae-gan", False)])
def test_a_reconstruction_is_the_sample_of_its_encoding(journey: Callable[..., Run], name: str, exports: bool) -> None:
    check_reconstructs(journey(FAMILIES[name].tables, exports=exports).model)


def check_reconstructs(model: Model) -> torch.Tensor:
    """Samples, which are encoded and decoded to their reconstructions."""
    images = model.sample(6)
    torch.testing.assert_close(model.decode(model.encode(images)), model.reconstruct(images), rtol=1e-4, atol=1e-4)
    return images
