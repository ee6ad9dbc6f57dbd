"""Sample grids: pictures of a run's progress, from latents that never change."""

from __future__ import annotations

from collections.abc import Mapping

from ganrun import Observer, hookimpl


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    from ganrun_samples.observer import Samples

    return {"samples": Samples}
