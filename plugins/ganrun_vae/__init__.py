"""The variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114): a loss for any pair of networks.

Any generator can be its decoder and any discriminator its encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Loss


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The loss `vae`."""
    from ganrun_vae.losses import VariationalAutoencoder

    return {"vae": VariationalAutoencoder}
