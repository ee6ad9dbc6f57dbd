"""Inference with a model: sampling, decoding latents and, with an encoder, encoding and reconstructing images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ganrun.base.errors import IncompatibleError
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.contracts.losses import Loss, Nets
from ganrun.contracts.specs import ModelSpec
from ganrun.contracts.views import View
from ganrun.inference.sources import SAMPLES_PER_BATCH, seeded_batches


class Model:
    """The networks of a loss, for scores and pictures.

    No method computes gradients, advances the caller's random stream, or changes the mode of a network.

    Args:
        spec: What the networks were built for.
        loss: Defines latents, samples, encodings and reconstructions.
        networks: By slot; averaged ones where the loss keeps an average.
        device: Device of the networks.
        seed: The run's seed, which decides which samples are scored.
    """

    def __init__(
        self, spec: ModelSpec, loss: Loss, networks: Mapping[str, nn.Module], device: torch.device, seed: int
    ) -> None:
        self.spec = spec
        self.loss = loss
        self.networks = dict(networks)
        self.device = device
        self.seed = seed
        self._nets = Nets({slot: View(network) for slot, network in self.networks.items()})

    # ── Samples ───────────────────────────────────────────────────────────────────────────────────────

    def sample(self, count: int, *, seed: int | None = None, label: int | None = None) -> Tensor:
        """`count` samples in [-1, 1]: `(count, *sample_shape)`. Fewer samples are the first of more.

        Args:
            count: Number of samples.
            seed: Decides which samples; by default, those that the run's scores are measured on. Samples differ
                between a CPU and a GPU.
            label: The class of all samples, for a class-conditional model.

        Raises:
            IncompatibleError: if the model has no such class.
        """
        return torch.cat([samples for _, samples in self.batches(count, seed=seed, label=label)])

    def batches(
        self, count: int, *, seed: int | None = None, label: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The latents and samples of `sample`, batch by batch, for more samples than memory holds."""
        left, seed = count, self.seed if seed is None else seed
        for latents, samples in seeded_batches(partial(self.draw, label=label), count, self.device, seed):
            yield latents[:left], samples[:left]
            left -= len(latents)

    def draw(self, count: int, *, label: int | None = None) -> tuple[Tensor, Tensor]:
        """`count` latents from the current random stream, and their samples in [-1, 1]; all of a class, if given one.

        Raises:
            IncompatibleError: if the model has no such class.
        """
        latents = self.loss.latents(count, self.device)
        if label is not None:
            latents = self.with_class(latents, label)
        return latents, self._generate(latents)

    # ── Latents ───────────────────────────────────────────────────────────────────────────────────────

    def fixed_latents(self, count: int) -> Tensor:
        """`count` latents that depend on neither seed nor device: `(count, latent_size)`. Fewer are the first of more.

        Models with the same latent distribution get the same latents, so that their pictures can be compared.
        """
        cpu = torch.device("cpu")
        batches = []
        for number in range(ceil(count / SAMPLES_PER_BATCH)):
            with isolated_random(cpu, derived_seed(0, "fixed latents", number)):
                batches.append(self.loss.latents(SAMPLES_PER_BATCH, cpu))
        return torch.cat(batches)[:count].to(self.device)

    def with_class(self, latents: Tensor, label: int) -> Tensor:
        """A copy of these latents, all of class `label`.

        Raises:
            IncompatibleError: if the model has no such class.
        """
        factor = next((each for each in self.spec.factors if each.name == "class"), None)
        if factor is None:
            raise IncompatibleError("the model knows no classes, so it has no samples of one")
        if not 0 <= label < factor.size:
            raise IncompatibleError(f"there is no class {label}; the classes are 0 to {factor.size - 1}")
        changed = latents.clone()
        changed[:, self.spec.place(factor)] = one_hot(torch.tensor(label), factor.size).to(latents)
        return changed

    # ── Decoding and encoding ─────────────────────────────────────────────────────────────────────────

    def decode(self, latents: Tensor) -> Tensor:
        """The samples `(count, *sample_shape)` in [-1, 1] of latents `(count, latent_size)`."""
        with isolated_random(self.device, derived_seed(self.seed, "samples")):
            return self._generate(latents.to(self.device))

    def encode(self, images: Tensor) -> Tensor | None:
        """The latents `(count, latent_size)` of images in [-1, 1]; None for a model without an encoder."""
        with self._evaluation_mode(), isolated_random(self.device, derived_seed(self.seed, "encodings")):
            return self.loss.encode(self._nets, images.to(self.device))

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """Reconstructions in [-1, 1] of images in [-1, 1]; None for a model without an encoder."""
        with self._evaluation_mode(), isolated_random(self.device, derived_seed(self.seed, "reconstructions")):
            return self.loss.reconstruct(self._nets, images.to(self.device))

    def _generate(self, latents: Tensor) -> Tensor:
        with self._evaluation_mode():
            return self.loss.generate(self._nets, latents)

    @contextmanager
    def _evaluation_mode(self) -> Iterator[None]:
        """No gradients, and evaluation mode; afterwards, each network is in its former mode."""
        training = [module for module in self.networks.values() if module.training]
        for module in training:
            module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.train()
