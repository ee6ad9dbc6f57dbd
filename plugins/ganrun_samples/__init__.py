"""Sample grids: pictures of a run's progress, from latents that never change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Observer


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    from ganrun_samples.observer import Samples

    return {"samples": Samples}
