"""How well a categorical code and the data's classes agree: asked-for classes, and classes found without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ganrun import (
    Data,
    Evaluation,
    Extractor,
    Factor,
    FeatureMetric,
    IncompatibleError,
    ModelSpec,
    Part,
    PreflightError,
    Score,
    Settings,
)
from ganrun_fidelity.neighbours import share_error
from ganrun_fidelity.real_images import count_of

ADVICE = 'say features = "classifier", which learns them from the labels'

How = Mapping[str, str | int | float | bool]


class CodeAccuracy(FeatureMetric):
    """How often a categorical code and the class agree, on samples and on held-out images; higher is better.

    `sample_accuracy_<factor>`: samples whose class, as a small classifier of the data sees it, is the one that their
    code stands for. `code_accuracy_<factor>`, where the model reads codes off images: real images whose class is the
    one that their likeliest code stands for. The factor `class` stands for the data's classes as they are. Any other
    was learned without labels, so each of its values first gets the class that makes most of them agree, no class
    twice: the matching of InfoGAN's section 7.2 (arXiv:1606.03657).
    """

    reads = ("logits",)

    class Settings(Settings):
        features: Part = "classifier"
        """Who tells the class of a sample: an extractor whose logits are the data's own classes."""

        samples: int = Field(10_000, ge=1)
        """Generated samples to classify."""

    settings: Settings

    def __init__(self, settings: Settings, spec: ModelSpec, extractor: Extractor) -> None:
        super().__init__(settings, spec, extractor)
        if not any(factor.kind == "categorical" for factor in spec.factors):
            raise IncompatibleError("this loss has no categorical code; leave the metric out")

    def prepare(self, data: Data, device: torch.device) -> None:
        """See which images were held out, and whether the extractor tells the data's classes.

        Raises:
            PreflightError: if it tells others.
        """
        self._split = "test" if count_of(data, "test") and data.split("test").labels is not None else "train"
        self._held_out = count_of(data, self._split)
        self._digest = data.fingerprint(self._split)
        first = torch.from_numpy(np.ascontiguousarray(data.split("train").images[:1])).to(device)
        told = self.extractor(first)["logits"].shape[1]
        if told != self.spec.classes:
            raise PreflightError(f"its features tell {told} classes, and this data has {self.spec.classes}; {ADVICE}")

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for samples' latents and classes; and for those of held-out images where the model reads them."""
        count, wanted = self.settings.samples, ("latents", "logits")
        self._shown = evaluation.collect(self._tables(), *wanted, count=count, extractor=self.extractor)
        self._read: Agreements | None = None
        if self.spec.encodes:
            self._read = evaluation.collect_real(self._tables(), "encodings", "labels", split=self._split)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """The scores of each categorical factor."""
        count = self.settings.samples
        seen: How = {**self.extractor.protocol, "generated": count}
        scores = list(self._scores("sample_accuracy", self._shown, count, seen))
        if self._read is not None:
            about: How = {"real": self._held_out, "split": self._split, "real_digest": self._digest}
            scores += self._scores("code_accuracy", self._read, self._held_out, about)
        return scores

    def _tables(self) -> Agreements:
        return Agreements(dict(categorical_columns(self.spec)), self.spec.classes)

    def _scores(self, name: str, found: Agreements, count: int, protocol: How) -> Iterator[Score]:
        for factor, table in found.tables.items():
            is_class = factor.name == "class"
            agreeing = np.trace(table) if is_class else table[linear_sum_assignment(-table)].sum()
            share = float(agreeing / count)
            yield Score(f"{name}_{factor.name}", share, True, protocol, share_error(share, count))


class Agreements:
    """How often each value of each code meets each class.

    Args:
        columns: The categorical factors of a latent vector, with their columns.
        classes: Number of classes.
    """

    def __init__(self, columns: Mapping[Factor, slice], classes: int) -> None:
        self._columns = columns
        self.tables = {factor: np.zeros((factor.size, classes), np.int64) for factor in columns}

    def add(self, *batch: Tensor) -> None:
        """Take latents `(batch, latent_size)`, and logits `(batch, classes)` or labels `(batch,)`."""
        latents, seen = (each.cpu() for each in batch)
        labels = seen.argmax(1) if seen.dim() == 2 else seen
        for factor, columns in self._columns.items():
            np.add.at(self.tables[factor], (latents[:, columns].argmax(1).numpy(), labels.numpy()), 1)


def categorical_columns(spec: ModelSpec) -> Iterator[tuple[Factor, slice]]:
    """The categorical factors of a latent vector, each with its columns."""
    start = 0
    for factor in spec.factors:
        if factor.kind == "categorical":
            yield factor, slice(start, start + factor.size)
        start += factor.size
