"""Class-conditional GANs: the class as an input of both networks (cgan), or as something to recognise (acgan).

Any network that takes labels will do, so it brings none of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Loss


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    from ganrun_conditional.losses import AuxiliaryClassifierGan, ConditionalGan

    return {"cgan": ConditionalGan, "acgan": AuxiliaryClassifierGan}
