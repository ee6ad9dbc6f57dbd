"""How well a categorical code and the data's classes agree: asked-for classes, and classes found without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ganrun import Data, DataError, Evaluation, Factor, Metric, MisfitError, Problem, Score, Settings
from ganrun_fidelity.classifier import ClassifierFeatures


class CodeAccuracy(Metric):
    """How often a categorical code and the class agree, on samples and on held-out images; higher is better.

    `sample_accuracy_<factor>`: samples whose class, as a small classifier of the data sees it, is the one that their
    code stands for. `code_accuracy_<factor>`, where the model reads codes off images: real images whose class is the
    one that their likeliest code stands for. The factor `class` stands for the data's classes as they are. Any other
    was learned without labels, so each of its values first gets the class that makes most of them agree, no class
    twice: the matching of InfoGAN's section 7.2 (arXiv:1606.03657).
    """

    class Settings(Settings):
        samples: int = Field(10_000, ge=1)
        """Generated samples to classify."""

    settings: Settings

    def __init__(self, settings: Settings, problem: Problem) -> None:
        super().__init__(settings, problem)
        if not any(factor.kind == "categorical" for factor in problem.factors):
            raise MisfitError("this loss has no categorical code; leave the metric out")

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load the classifier, which is trained where the cache does not hold it yet.

        Raises:
            PreflightError: if there are no labels.
        """
        self._classifier = ClassifierFeatures(data, device)
        self._split = held_out_split(data)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """The scores of each categorical factor."""
        count = self.settings.samples
        seen = evaluation.generated_features(self._classifier, count)["logits"].argmax(1)
        drawn = evaluation.latents(count)
        read, labels = evaluation.encodings(split=self._split), evaluation.real_labels(split=self._split)
        scores = []
        for factor, columns in categorical_columns(self.problem):
            value = self._accuracy(drawn[:, columns], seen, factor)
            how = {**self._classifier.protocol, "generated": count}
            scores.append(Score(f"sample_accuracy_{factor.name}", value, True, how))
            if read is not None and labels is not None:
                value = self._accuracy(read[:, columns], labels, factor)
                how = {"real": len(labels), "split": self._split}
                scores.append(Score(f"code_accuracy_{factor.name}", value, True, how))
        return scores

    def _accuracy(self, code: Tensor, labels: Tensor, factor: Factor) -> float:
        table = agreements(code.argmax(1), labels, factor.size, self.problem.classes)
        matched = np.trace(table) if factor.name == "class" else table[linear_sum_assignment(-table)].sum()
        return float(matched / len(labels))


def categorical_columns(problem: Problem) -> Iterator[tuple[Factor, slice]]:
    """The categorical factors of a latent vector, each with its columns."""
    start = 0
    for factor in problem.factors:
        if factor.kind == "categorical":
            yield factor, slice(start, start + factor.size)
        start += factor.size


def agreements(codes: Tensor, labels: Tensor, values: int, classes: int) -> npt.NDArray[np.int64]:
    """How often each value of a code meets each class: `(values, classes)`, from two int64 `(count,)`."""
    table = np.zeros((values, classes), np.int64)
    np.add.at(table, (codes.numpy(), labels.numpy()), 1)
    return table


def held_out_split(data: Data) -> str:
    """`test`, or `train` where the data has no test split."""
    try:
        return "test" if len(data.split("test")) else "train"
    except DataError:
        return "train"
