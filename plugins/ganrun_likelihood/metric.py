"""The metric `log-likelihood`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import Buffer, Data, Evaluation, IncompatibleError, Metric, ModelSpec, PreflightError, Score
from ganrun_likelihood.records import black_or_white, dequantized, is_black_and_white, log_step_volume
from ganrun_likelihood.weighing import Estimate, Weigher

BINARY, DENSITY = "binary_log_weights", "density_log_weights"
"""Readings that give log p(x, z) − log q(z|x) of each record, z ~ q: `(size,)`, in nats. p(x|z) is the probability of
black and white pixels, or the density of values in [-1, 1]."""

VERSION = 1
"""Part of every protocol: raise it with each change to what is computed."""


class Records(NamedTuple):
    """How records are converted for the likelihood."""

    pixels: str
    """For the protocol."""

    prepared: Callable[[Tensor], Tensor]
    offset: Callable[[Tensor], float] = lambda record: 0.0


def _in_unit_range(record: Tensor) -> Tensor:
    return ganrun.to_unit_range(record)


STATIC = Records("black and white, as the data has them", _in_unit_range)
DYNAMIC = Records("black and white, drawn by their grey values", black_or_white)
EIGHT_BITS = Records("8 bits, each with uniform noise as wide as a grey step", dequantized, log_step_volume)
POINTS = Records("no pixels: the density of points", _in_unit_range)


class LogLikelihood(Metric):
    """log p(x) of held-out records by importance sampling, in nats for each, averaged; higher is better.

    log 1/K Σ p(x, z) / q(z|x) over K samples z ~ q(z|x), in float64: Burda et al. 2016 (arXiv:1509.00519), section 2
    and equation 8. On average over samples it is a lower bound of log p(x), and tends to it as K grows. Also
    `effective_samples`, (Σ w)² / Σ w² averaged over records: near 1, both the estimate and its error are far too low.
    The loss says whether p(x) is the probability of black and white pixels, or a density. Grey pixels have no
    probability under the former. A density of pictures is taken of 8-bit values with uniform noise as wide as a grey
    step (Theis et al. 2016, arXiv:1511.01844, section 3.1), so that it bounds the log-probability of the 8-bit picture
    from below; `bits_per_dim` is its negative in bits for each pixel and channel.
    """

    class Settings(ganrun.Settings):
        importance_samples: int = Field(5000, ge=1)
        """Samples of latents for each record, K. Published values have 5,000, mostly."""

        real_samples: int | None = Field(None, ge=1)
        """Records, the same ones in every run; all records of the split unless given."""

        split: Literal["train", "test"] = "test"
        """The split of the records. A model may have memorised its training records."""

        binarize: bool = False
        """Whether each pixel of grey pictures is drawn as black or white, white with its grey value as the probability:
        once, and the same in every run. For models that were trained with dynamic binarisation."""

    settings: Settings

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        self._reading = _reading_in(spec)
        if settings.binarize and self._reading == DENSITY:
            raise IncompatibleError("binarize is for losses of black and white pixels, and this one is a density's")

    def prepare(self, data: Data, device: torch.device) -> None:
        """Count the records, and check whether the loss has a likelihood of them.

        Raises:
            PreflightError: if there are fewer than the recipe asks for, or the loss is for black and white pixels and
                they are grey.
        """
        split, wanted = self.settings.split, self.settings.real_samples
        available = len(data.split(split))
        if available < (wanted or 1):
            raise PreflightError(f'it asks for {wanted or "some"} records, but split "{split}" has {available}')
        self._count, self._digest = wanted or available, data.fingerprint(split)
        self._records = self._records_of(data)

    def _records_of(self, data: Data) -> Records:
        if self._reading == DENSITY:
            return EIGHT_BITS if len(self.spec.sample_shape) == 3 else POINTS
        is_binary = is_black_and_white(data.split(self.settings.split).images)
        if is_binary and self.settings.binarize:
            raise PreflightError("the pictures are black and white already; leave binarize out")
        if not is_binary and not self.settings.binarize:
            raise PreflightError(
                "grey pixels have no likelihood under this loss, which is for black and white ones: say binarize = true"
                " to draw each by its grey value, take data that is black and white, or a Gaussian likelihood"
            )
        return DYNAMIC if self.settings.binarize else STATIC

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for the estimate of every record."""
        if evaluation.model is None:
            raise IncompatibleError("pictures alone have no likelihood; it takes a model")
        records, chosen = self._records, self.settings
        key = f"log-likelihood/{VERSION}/{self._reading}/{chosen.importance_samples}/{records.pixels}"
        weigher = Weigher(
            evaluation.model, self._reading, chosen.importance_samples, records.prepared, records.offset, key
        )
        self._found = evaluation.collect_real(
            Buffer(), *Estimate._fields, count=self._count, split=chosen.split, extractor=weigher
        )

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """`log_likelihood`, `effective_samples` and, for densities of pictures, `bits_per_dim`."""
        return list(self._scores(Estimate(*self._found.tensors())))

    def _scores(self, found: Estimate) -> Iterator[Score]:
        value, error = float(found.log_likelihood.mean()), float(found.variance.mean() / self._count) ** 0.5
        protocol = self._protocol()
        yield Score("log_likelihood", value, True, protocol, error)
        yield Score("effective_samples", float(found.effective_samples.mean()), True, protocol)
        if self._records is EIGHT_BITS:
            bits = math.log(2) * math.prod(self.spec.sample_shape)
            yield Score("bits_per_dim", -value / bits, False, protocol, error / bits)

    def _protocol(self) -> dict[str, str | int | float | bool]:
        return {
            "importance_samples": self.settings.importance_samples,
            "pixels": self._records.pixels,
            "real": self._count,
            "split": self.settings.split,
            "real_digest": self._digest,
            "ganrun_likelihood": VERSION,
        }


def _reading_in(spec: ModelSpec) -> str:
    """The reading of the importance weights.

    Raises:
        IncompatibleError: if there is none.
    """
    for name in (BINARY, DENSITY):
        if name in spec.readings:
            return name
    raise IncompatibleError(
        f"this loss has no likelihood that is the same for every batch, as the reading {BINARY} or {DENSITY}; a VAE has"
        ' one with likelihood = "bernoulli" or "fixed-variance"; for other losses, leave the metric out'
    )
