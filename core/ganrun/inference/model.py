"""A trained model in use: it samples, decodes latents, and where it can, encodes and reconstructs images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ganrun.base.errors import IncompatibleError
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.contracts.losses import Loss, Nets
from ganrun.contracts.specs import ModelSpec
from ganrun.inference.sources import SAMPLES_PER_BATCH


class Model:
    """The networks of a loss as they are scored and shown, and the latents that they speak.

    Nothing here computes gradients, draws from anybody's random stream, or leaves a network in another mode.

    Args:
        spec: The facts that the networks were built for, with what the loss adds to them.
        loss: How samples are made, images read and reconstructed.
        networks: By slot; the averages where the loss keeps any.
        device: Where they are.
        seed: The run's seed: it decides which samples are scored.
    """

    def __init__(
        self, spec: ModelSpec, loss: Loss, networks: Mapping[str, nn.Module], device: torch.device, seed: int
    ) -> None:
        self.spec = spec
        self.loss = loss
        self.networks = dict(networks)
        self.device = device
        self.seed = seed
        self._nets = Nets(self.networks)

    # ── Samples ───────────────────────────────────────────────────────────────────────────────────────

    def sample(self, count: int, *, seed: int | None = None, label: int | None = None) -> Tensor:
        """`count` samples in [-1, 1]: `(count, *sample_shape)`; the first are the same however many are asked for.

        Args:
            count: How many.
            seed: Which; unless given, those that the run's scores are made of. Another kind of device draws others.
            label: The class that all of them shall have, of a model that knows classes.

        Raises:
            IncompatibleError: if the model knows no such class.
        """
        return torch.cat([samples for _, samples in self.batches(count, seed=seed, label=label)])

    def batches(
        self, count: int, *, seed: int | None = None, label: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The latents and samples of `sample`, batch by batch, for more of them than memory holds."""
        own = self.seed if seed is None else seed
        for number in range(ceil(count / SAMPLES_PER_BATCH)):
            with isolated_random(self.device, derived_seed(own, "evaluation", number)):
                latents = self.loss.latents(SAMPLES_PER_BATCH, self.device)
                if label is not None:
                    latents = self.with_class(latents, label)
                samples = self._generate(latents)
            left = count - number * SAMPLES_PER_BATCH
            yield latents[:left], samples[:left]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Latents from the current random stream, and their samples."""
        latents = self.loss.latents(count, self.device)
        return latents, self._generate(latents)

    # ── Latents ───────────────────────────────────────────────────────────────────────────────────────

    def fixed_latents(self, count: int) -> Tensor:
        """The first `count` of a series of latents that no seed and no device changes: `(count, latent_size)`.

        Whatever two models have in common of their latents, they have in common here, so that pictures of one can be
        held beside pictures of the other.
        """
        cpu = torch.device("cpu")
        batches = []
        for number in range(ceil(count / SAMPLES_PER_BATCH)):
            with isolated_random(cpu, derived_seed(0, "fixed latents", number)):
                batches.append(self.loss.latents(SAMPLES_PER_BATCH, cpu))
        return torch.cat(batches)[:count].to(self.device)

    def with_class(self, latents: Tensor, label: int) -> Tensor:
        """These latents, all of one class of the data.

        Raises:
            IncompatibleError: if the model knows no such class.
        """
        factor = next((each for each in self.spec.factors if each.name == "class"), None)
        if factor is None:
            raise IncompatibleError("the model knows no classes, so none can be asked of it")
        if not 0 <= label < factor.size:
            raise IncompatibleError(f"there is no class {label}; the classes are 0 to {factor.size - 1}")
        changed = latents.clone()
        changed[:, self.spec.place(factor)] = one_hot(torch.tensor(label), factor.size).to(latents)
        return changed

    # ── To and fro ────────────────────────────────────────────────────────────────────────────────────

    def decode(self, latents: Tensor) -> Tensor:
        """Samples in [-1, 1] of latents `(count, latent_size)`: `(count, *sample_shape)`."""
        with isolated_random(self.device, derived_seed(self.seed, "samples")):
            return self._generate(latents.to(self.device))

    def encode(self, images: Tensor) -> Tensor | None:
        """Latents `(count, latent_size)` that the model reads off images in [-1, 1]; None where it reads none."""
        with self._showing(), isolated_random(self.device, derived_seed(self.seed, "encodings")):
            return self.loss.encode(self._nets, images.to(self.device))

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """What the model makes of images in [-1, 1], in [-1, 1]; None where it has no encoder."""
        with self._showing(), isolated_random(self.device, derived_seed(self.seed, "reconstructions")):
            return self.loss.reconstruct(self._nets, images.to(self.device))

    def _generate(self, latents: Tensor) -> Tensor:
        with self._showing():
            return self.loss.generate(self._nets, latents)

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """No gradients, and evaluation mode; networks in training go back to it."""
        training = [module for module in self.networks.values() if module.training]
        for module in training:
            module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.train()
