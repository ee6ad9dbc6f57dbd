"""The perceptual path length: how much pictures change along paths through the latents.

Karras et al. 2019 (arXiv:1812.04948), section 4.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from ganrun import (
    EvaluatedModel,
    Evaluation,
    Extractor,
    FeatureMetric,
    IncompatibleError,
    ModelSpec,
    Network,
    NonFiniteError,
    Part,
    Score,
    Settings,
    interpolated_latents,
    isolated_random,
    split_latents,
)
from ganrun_fidelity.floors import ScoreProtocol

DRAWS = 256
"""Latents that show which noise is uniform."""
PICTURES_AT_A_TIME = 16
"""Whose perceptual features are in memory: at 256×256 pixels, 33 MB each."""
SEED = 2019
ADVICE = 'say features = "lpips", or "classifier"'
NO_MODEL = "pictures have no latents, so there are no paths between them; name a run instead"
SHORTEST, LONGEST = 1, 99
"""Percentiles beyond which paths do not count, as in StyleGAN's code."""


class PerceptualPathLength(FeatureMetric):
    """Perceptual path length: how much samples change for a small step through the latents; lower is smoother.

        E[d(G(z(t)), G(z(t + ε))) / ε²]

    Karras et al. 2019 (arXiv:1812.04948), section 4.1. d is LPIPS by default, and with other features their squared
    Euclidean distance. z(t) leads from one draw of latents to another: normal noise along a great circle, uniform noise
    and continuous codes straight; classes and given records stay those of the start. The 1 % of paths with the largest
    distances and the 1 % with the smallest do not count. Whole pictures, as ppl2_wend of StyleGAN2; earlier values for
    faces are of a crop. torch-fidelity, by default, rounds samples to 8 bits, resizes them to 64×64 and interpolates
    linearly: its values are not comparable.
    """

    reads = ()
    named_by = ("space", "sampling")

    class Settings(Settings):
        features: Part = "lpips"
        """The extractor, which must take floats: lpips, as published; or classifier, without a download, whose values
        cannot be compared with published ones. Scores carry its name."""

        samples: int = Field(10_000, ge=2)
        """Number of paths. It does not change the expected value; published values use 50,000."""

        space: Literal["z", "w"] = "z"
        """z: paths lead through the latents; w: straight, through the styles of a generator that has a mapping and a
        synthesis network, as StyleGAN's."""

        sampling: Literal["full", "end"] = "full"
        """full: t is uniform on [0, 1); end: t = 0, the start of each path."""

        epsilon: float = Field(1e-4, gt=0, le=0.1)
        """ε, the step along a path, as a share of it."""

    settings: Settings

    def __init__(self, settings: Settings, spec: ModelSpec, extractor: Extractor) -> None:
        super().__init__(settings, spec, extractor)
        _ = spec.image_shape
        if not extractor.takes_floats:
            name = type(extractor).__name__
            raise IncompatibleError(f"{name} takes pictures of 8 bits, in which small steps are lost; {ADVICE}")
        if not spec.factors:
            raise IncompatibleError(NO_MODEL)
        if not any(factor.kind in ("noise", "continuous") for factor in spec.factors):
            raise IncompatibleError("there are no paths between these latents, which are all classes or records")
        self._requested = WeakKeyDictionary[Evaluation, Distances]()

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for the latents at both ends of each path."""
        if evaluation.model is None:
            raise IncompatibleError(NO_MODEL)
        path = _PATHS[self.settings.space](evaluation.model, self.spec)
        t = np.random.RandomState(SEED).uniform(size=(self.settings.samples, 1))
        shares = torch.from_numpy(t if self.settings.sampling == "full" else np.zeros_like(t))
        distances = Distances(path, self._distance, shares, self.settings.epsilon)
        evaluation.collect(distances, "latents", count=max(2 * len(shares), DRAWS))
        self._requested[evaluation] = distances

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """`ppl_<space>_<sampling>_<features>`"""
        own = self.settings
        value, error = trimmed_mean(self._requested.pop(evaluation).values())
        name = f"ppl_{own.space}_{own.sampling}_{self.extractor.suffix}"
        return [Score(name, value, False, {**self.extractor.protocol, **self._protocol()}, error)]

    def _protocol(self) -> ScoreProtocol:
        chosen = {name: getattr(self.settings, name) for name in ("space", "sampling", "epsilon")}
        return {
            "paths": self.settings.samples,
            **chosen,
            "distance": self._output,
            "percentiles": f"{SHORTEST} to {LONGEST}",
            "draws": SEED,
        }

    @property
    def _output(self) -> str:
        return "perceptual" if "perceptual" in self.extractor.outputs else "features"

    def _distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Of pairs of pictures in [-1, 1]: `(batch,)`."""
        pairs = zip(torch.split(first, PICTURES_AT_A_TIME), torch.split(second, PICTURES_AT_A_TIME), strict=True)
        found = [self.extractor(one)[self._output] - self.extractor(other)[self._output] for one, other in pairs]
        return torch.cat([difference.flatten(1).square().sum(1) for difference in found])


def trimmed_mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The mean of the values between two percentiles, both inclusive, and its standard error.

    The error is that of a trimmed mean, from the variance of the winsorised values: Tukey and McLaughlin 1963.
    """
    low, high = (np.percentile(values, SHORTEST, method="lower"), np.percentile(values, LONGEST, method="higher"))
    kept = values[(values >= low) & (values <= high)]
    spread = values.clip(low, high).std(ddof=1)
    return float(kept.mean()), float(spread * len(values) ** 0.5 / len(kept))


class Distances:
    """The distance between two near points on each path, divided by ε²; latents 2 i and 2 i + 1 are a path's ends.

    Args:
        path: Makes samples.
        distance: Of pairs of pictures in [-1, 1].
        shares: Where each path is measured, float64 `(paths, 1)`.
        epsilon: ε.
    """

    def __init__(
        self, path: Path, distance: Callable[[Tensor, Tensor], Tensor], shares: Tensor, epsilon: float
    ) -> None:
        self._path, self._distance = path, distance
        self._shares, self._epsilon = shares, epsilon
        self._found: list[Tensor] = []
        self._waiting: Tensor | None = None
        """Latents without a partner yet."""

    def add(self, *batch: Tensor) -> None:
        """Take latents `(batch, latent_size)`; those beyond the last path show how latents are distributed."""
        latents = batch[0].cpu()
        if self._waiting is None:
            self._path.see(latents)
        else:
            latents = torch.cat([self._waiting, latents])
        shares = self._shares[: len(latents) // 2]
        starts, ends = latents[: 2 * len(shares) : 2], latents[1 : 2 * len(shares) : 2]
        self._waiting, self._shares = latents[2 * len(shares) :], self._shares[len(shares) :]
        if len(shares):
            self._found.append(self._between(starts, ends, shares))

    def values(self) -> npt.NDArray[np.float64]:
        """Of each path `(paths,)`."""
        values: npt.NDArray[np.float64] = torch.cat(self._found).numpy()
        return values

    def _between(self, starts: Tensor, ends: Tensor, shares: Tensor) -> Tensor:
        first, second = self._path.samples(starts, ends, (shares, shares + self._epsilon))
        found = self._distance(first, second).cpu().double() / self._epsilon**2
        if not bool(found.isfinite().all()):
            raise NonFiniteError("samples on a path through the latents, or their features, are not finite")
        return found


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────────────────


class Path(ABC):
    """Samples on paths between latents."""

    def __init__(self, model: EvaluatedModel, spec: ModelSpec) -> None:
        self._model, self._spec = model, spec

    def see(self, latents: Tensor) -> None:
        """Learn how latents are distributed, from some `(count, latent_size)`."""
        self._draws = latents

    @abstractmethod
    def samples(self, starts: Tensor, ends: Tensor, shares: tuple[Tensor, ...]) -> list[Tensor]:
        """Samples in [-1, 1] at each of the shares `(batch, 1)` of the paths: `(batch, *sample_shape)`."""


class PathOfLatents(Path):
    """Through the latents."""

    def samples(self, starts: Tensor, ends: Tensor, shares: tuple[Tensor, ...]) -> list[Tensor]:
        """Samples of latents between two others."""
        between = (interpolated_latents(starts, ends, share, self._spec, self._draws) for share in shares)
        return [self._model.decode(latents.to(self._model.device)) for latents in between]


class PathOfStyles(Path):
    """Straight through the styles of a generator.

    Raises:
        IncompatibleError: if the generator has none, or samples are made of other styles than its own.
    """

    def __init__(self, model: EvaluatedModel, spec: ModelSpec) -> None:
        super().__init__(model, spec)
        network = model.networks.get("generator")
        if not all(callable(getattr(network, method, None)) for method in ("mapping", "synthesis")):
            raise IncompatibleError('the generator has no mapping and synthesis, so there is no w; say space = "z"')
        if model.sampling != type(model.sampling)():
            raise IncompatibleError('w are the styles without truncation; leave [sampling] out, or say space = "z"')
        takes_labels = isinstance(network, Network) and network.spec.labelled
        names = [factor.name for factor in spec.factors if factor.kind == "categorical" and takes_labels]
        self._label = "class" if "class" in names else next(iter(names), None)
        """The factor that the generator takes as labels: a loss that makes labels itself has another one."""

    def samples(self, starts: Tensor, ends: Tensor, shares: tuple[Tensor, ...]) -> list[Tensor]:
        """Samples of styles between two others, of the start's class."""
        first, last = self._styles(starts, starts).double(), self._styles(ends, starts).double()
        between = (torch.lerp(first, last, share[:, None]).float() for share in shares)
        return [self._called("synthesis", styles.to(self._model.device)).clamp(-1, 1) for styles in between]

    def _styles(self, latents: Tensor, classes: Tensor) -> Tensor:
        """The style of each layer, on the CPU: `(batch, layers, style_size)`; the class is that of other latents."""
        parts, device = split_latents(latents, self._spec.factors), self._model.device
        labels = split_latents(classes, self._spec.factors)
        noise = torch.cat([part for name, part in parts.items() if name != self._label], 1)
        conditions = {} if self._label is None else {"labels": labels[self._label].argmax(1).to(device)}
        return self._called("mapping", noise.to(device), **conditions).cpu()

    @torch.no_grad()
    def _called(self, method: str, inputs: Tensor, **conditions: Tensor) -> Tensor:
        """The output of a method of the generator, in evaluation mode; every call draws the same noise."""
        network, view = self._model.networks["generator"], getattr(self._model.nets.generator, method)
        was_training = network.training
        network.eval()
        try:
            with isolated_random(self._model.device, SEED):
                made: Tensor = view(inputs, **conditions)
            return made
        finally:
            network.train(was_training)


_PATHS: Mapping[str, type[Path]] = {"z": PathOfLatents, "w": PathOfStyles}
