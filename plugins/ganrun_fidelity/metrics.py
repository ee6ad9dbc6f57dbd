"""The metrics: FID and the Inception Score, on features of Inception or of the data's own classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator

from ganrun import Data, Evaluation, Metric, MisfitError, PreflightError, Problem, Score, Settings
from ganrun_fidelity.classifier import ClassifierFeatures
from ganrun_fidelity.distances import Gaussian, frechet_distance, inception_score
from ganrun_fidelity.inception import InceptionFeatures
from ganrun_fidelity.stored import digest_of, digest_of_text, load_stored, store


class FidelitySettings(Settings):
    """What both metrics take."""

    features: Literal["inception", "classifier"] = "inception"
    """Whose features: Inception's, as in published scores; or those of a small classifier, trained once on the labels
    of the training split, which needs no download. The two are not comparable, and their scores bear other names."""

    samples: int = Field(10_000, ge=2)
    """Generated samples. Scores depend on it, FID strongly: compare at equal numbers only, published ones at 50,000."""

    weights: str | None = None
    """Path of Inception's weights; without it, the published file in torch's hub folder,
    $TORCH_HOME/hub/checkpoints."""

    @field_validator("weights")
    @classmethod
    def _inceptions_only(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights is not None and info.data.get("features") == "classifier":
            raise ValueError('these are Inception\'s weights, but features = "classifier"; leave one of them out')
        return weights


class FidelityMetric(Metric):
    """A metric on features of pictures."""

    settings: FidelitySettings
    extractor: InceptionFeatures | ClassifierFeatures

    def __init__(self, settings: FidelitySettings, problem: Problem) -> None:
        super().__init__(settings, problem)
        channels = problem.image_shape[0]
        if settings.features == "inception" and channels not in (1, 3):
            raise MisfitError(f'Inception takes 1 or 3 channels, not {channels}; say features = "classifier"')

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load Inception, or the classifier, which is trained where the cache does not hold it yet.

        Raises:
            PreflightError: if the weights, or labels to train on, are not there.
        """
        if self.settings.features == "inception":
            self.extractor = InceptionFeatures(self.settings.weights, device)
        else:
            self.extractor = ClassifierFeatures(data, device)

    def score(self, name: str, value: float, *, higher_is_better: bool, **protocol: str | int) -> Score:
        """A score, named after its features, with the whole of its protocol."""
        suffix = "" if self.settings.features == "inception" else f"_{self.settings.features}"
        how = {**self.extractor.protocol, "generated": self.settings.samples, **protocol}
        return Score(f"{name}{suffix}", value, higher_is_better, how)


class FrechetInceptionDistance(FidelityMetric):
    """FID: Fréchet distance between generated and real pictures in feature space; lower is better."""

    class Settings(FidelitySettings):
        real_samples: int | None = Field(None, ge=2)
        """Real images, always the same ones; without it, all of the split."""

        split: Literal["train", "test"] = "train"
        """Which real images to compare with."""

    settings: Settings

    def prepare(self, data: Data, device: torch.device) -> None:
        """See `FidelityMetric.prepare`; also checks that there are as many real images as asked for."""
        self._real: Gaussian | None = None
        self._real_count = self._countable(data)
        super().prepare(data, device)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """`fid`, or `fid_classifier`."""
        if self._real is None:
            self._real = self._real_gaussian(evaluation)
        generated = evaluation.generated_features(self.extractor, self.settings.samples)
        distance = frechet_distance(self._real, Gaussian.fitted(generated["features"]))
        protocol = {"real": self._real_count, "split": self.settings.split}
        return [self.score("fid", distance, higher_is_better=False, **protocol)]

    def _countable(self, data: Data) -> int:
        available, split = len(data.split(self.settings.split)), self.settings.split
        wanted = self.settings.real_samples
        if available < 2:
            raise PreflightError(f'FID needs at least 2 real images, but split "{split}" has {available}')
        if wanted is not None and wanted > available:
            raise PreflightError(
                f'real_samples = {wanted}, but split "{split}" has {available} images; leave it out to use them all'
            )
        return wanted or available

    def _real_gaussian(self, evaluation: Evaluation) -> Gaussian:
        """Statistics of the real images, cached under these very pictures and this very extractor."""
        chosen = (self.settings.real_samples, self.settings.split)
        key = digest_of_text(self.extractor.key, digest_of({"pictures": evaluation.real(*chosen)}))
        stored = load_stored("statistics", key)
        if stored:
            return Gaussian(stored.tensors["mean"], stored.tensors["covariance"])
        gaussian = Gaussian.fitted(evaluation.real_features(self.extractor, *chosen)["features"])
        store("statistics", key, {"mean": gaussian.mean, "covariance": gaussian.covariance}, {})
        return gaussian


class InceptionScore(FidelityMetric):
    """Inception Score: how surely and how variedly generated pictures fall into classes; higher is better."""

    class Settings(FidelitySettings):
        splits: int = Field(10, ge=1, validate_default=True)
        """Parts of the samples whose scores are averaged."""

        @field_validator("splits")
        @classmethod
        def _enough_samples(cls, splits: int, info: ValidationInfo) -> int:
            samples = info.data.get("samples", splits)
            if splits > samples:
                raise ValueError(f"{samples} samples cannot be parted into {splits}; lower splits or raise samples")
            return splits

    settings: Settings

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """`inception_score`, or `inception_score_classifier`."""
        logits = evaluation.generated_features(self.extractor, self.settings.samples)["logits"]
        value = inception_score(logits, self.settings.splits)
        return [self.score("inception_score", value, higher_is_better=True, splits=self.settings.splits)]
