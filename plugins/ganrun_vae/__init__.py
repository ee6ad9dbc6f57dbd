"""The variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114): one loss, on anybody's networks.

Any generator serves as its decoder and any discriminator as its encoder, so it brings no networks of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Loss


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    from ganrun_vae.losses import VariationalAutoencoder

    return {"vae": VariationalAutoencoder}
