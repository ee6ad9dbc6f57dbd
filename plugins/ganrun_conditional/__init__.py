"""Class-conditional GANs: the class is an input of both networks (cgan, conditional-hinge and conditional-wgan-gp), or
the discriminator predicts it (acgan). Without labels, clusters of the training images are the classes (clustered-gan).

All work with any network that takes labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Loss


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `cgan`, `acgan`, `clustered-gan`, `conditional-hinge` and `conditional-wgan-gp`."""
    from ganrun_conditional.clusters import ClusteredGan
    from ganrun_conditional.critics import ConditionalHingeGan, ConditionalPenalisedWassersteinGan
    from ganrun_conditional.losses import AuxiliaryClassifierGan, ConditionalGan

    return {
        "cgan": ConditionalGan,
        "acgan": AuxiliaryClassifierGan,
        "clustered-gan": ClusteredGan,
        "conditional-hinge": ConditionalHingeGan,
        "conditional-wgan-gp": ConditionalPenalisedWassersteinGan,
    }
