"""Flow matching (Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003), and its networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Loss, Network


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `flow-matching` and `class-conditional-flow-matching`."""
    from ganrun_flow.losses import ClassConditionalFlowMatching, FlowMatching

    return {"flow-matching": FlowMatching, "class-conditional-flow-matching": ClassConditionalFlowMatching}


@hookimpl
def ganrun_networks() -> Mapping[str, type[Network]]:
    """The networks `time-unet`, of images, and `time-mlp`, of samples of any shape."""
    from ganrun_flow.networks import TimeMlp, TimeUNet

    return {"time-unet": TimeUNet, "time-mlp": TimeMlp}
