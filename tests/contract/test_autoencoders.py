"""The built-in autoencoders make the journey of every family: trained, resumed, loaded, scored, exported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.families import FAMILIES

from ganrun import Run


@pytest.mark.parametrize("name", ["autoencoder", "aae", "vae-gan", "vq-vae"])
def test_a_reconstruction_is_the_sample_of_its_encoding(journey: Callable[..., Run], name: str) -> None:
    model = journey(FAMILIES[name].tables).model
    images = model.sample(6)
    torch.testing.assert_close(model.decode(model.encode(images)), model.reconstruct(images), rtol=1e-4, atol=1e-4)
