"""Class-conditional GANs: the class is an input of both networks (cgan), or the discriminator predicts it (acgan).

Both work with any network that takes labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Loss


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `cgan` and `acgan`."""
    from ganrun_conditional.losses import AuxiliaryClassifierGan, ConditionalGan

    return {"cgan": ConditionalGan, "acgan": AuxiliaryClassifierGan}
