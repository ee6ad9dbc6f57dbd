"""Agreement between categorical codes and the data's classes, whether the model learns from labels or without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
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
    real_images,
)
from ganrun_fidelity.floors import ScoreProtocol
from ganrun_fidelity.neighbours import share_error
from ganrun_fidelity.real_images import count_of

ADVICE = 'say features = "classifier", which learns them from the labels'


class CodeAccuracy(FeatureMetric):
    """How often a categorical code and the class agree, on samples and on held-out images; higher is better.

    `sample_accuracy_<factor>`: the share of samples that a small classifier of the data puts into the class of their
    code. `code_accuracy_<factor>`, for models that encode images: the share of real images whose most probable code is
    that of their class. The values of the factor `class` are the data's classes. The values of any other factor, which
    is learned without labels, are first matched with classes, one to one, such that most pictures agree: InfoGAN,
    section 7.2 (arXiv:1606.03657).
    """

    reads = ("logits",)

    class Settings(Settings):
        features: Part = "classifier"
        """The classifier of the samples: an extractor whose logits are those of the data's own classes."""

        samples: int = Field(10_000, ge=1)
        """Generated samples to classify."""

    settings: Settings

    def __init__(self, settings: Settings, spec: ModelSpec, extractor: Extractor) -> None:
        super().__init__(settings, spec, extractor)
        if not any(factor.kind == "categorical" for factor in spec.factors):
            raise IncompatibleError("this loss has no categorical code; leave the metric out")

    def prepare(self, data: Data, device: torch.device) -> None:
        """Choose the held-out images, and check that the extractor's classes are as many as the data's.

        Raises:
            PreflightError: if they are not.
        """
        self._split = "test" if count_of(data, "test") and data.split("test").labels is not None else "train"
        self._held_out = count_of(data, self._split)
        self._digest = data.fingerprint(self._split)
        classes = self.extractor(real_images(data, 1).to(device))["logits"].shape[1]
        if classes != self.spec.classes:
            raise PreflightError(f"its extractor has {classes} classes, the data has {self.spec.classes}; {ADVICE}")

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for samples' latents and classes; and for those of held-out images if the model encodes images."""
        self._accuracies = [self._of_samples(evaluation)]
        if "encodings" in self.spec.readings:
            self._accuracies.append(self._of_held_out(evaluation))

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """The scores of each categorical factor."""
        return [score for accuracy in self._accuracies for score in accuracy.scores()]

    def _of_samples(self, evaluation: Evaluation) -> _Accuracy:
        count = self.settings.samples
        pairs = evaluation.collect(self._agreements(), "latents", "logits", count=count, extractor=self.extractor)
        return _Accuracy("sample_accuracy", pairs, count, {**self.extractor.protocol, "generated": count})

    def _of_held_out(self, evaluation: Evaluation) -> _Accuracy:
        pairs = evaluation.collect_real(self._agreements(), "encodings", "labels", split=self._split)
        protocol: ScoreProtocol = {"real": self._held_out, "split": self._split, "real_digest": self._digest}
        return _Accuracy("code_accuracy", pairs, self._held_out, protocol)

    def _agreements(self) -> Agreements:
        return Agreements(categorical_columns(self.spec), self.spec.classes)


@dataclass(frozen=True)
class _Accuracy:
    """A score for each factor, from pairs of a code and a class."""

    name: str
    pairs: Agreements
    count: int
    protocol: ScoreProtocol

    def scores(self) -> Iterator[Score]:
        for factor, table in self.pairs.tables.items():
            agreeing = np.trace(table) if factor.name == "class" else _matched(table)
            share = float(agreeing / self.count)
            yield Score(f"{self.name}_{factor.name}", share, True, self.protocol, share_error(share, self.count))


def _matched(table: npt.NDArray[np.int64]) -> np.int64:
    """The number of agreeing pairs for the best one-to-one matching of values with classes."""
    from scipy.optimize import linear_sum_assignment

    matched: np.int64 = table[linear_sum_assignment(-table)].sum()
    return matched


class Agreements:
    """Counts how often each value of each categorical factor occurs with each class.

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


def categorical_columns(spec: ModelSpec) -> dict[Factor, slice]:
    """The categorical factors of a latent vector, with their columns."""
    return {factor: spec.place(factor) for factor in spec.factors if factor.kind == "categorical"}
