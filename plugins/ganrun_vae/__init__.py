"""Variational autoencoders: losses for any pair of networks.

Any generator can be their decoder and any discriminator their encoder. The VAE (Kingma and Welling 2013,
arXiv:1312.6114), and the importance-weighted one (Burda et al. 2016, arXiv:1509.00519).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Loss


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `vae` and `iwae`."""
    from ganrun_vae.importance import ImportanceWeightedAutoencoder
    from ganrun_vae.losses import VariationalAutoencoder

    return {"vae": VariationalAutoencoder, "iwae": ImportanceWeightedAutoencoder}
