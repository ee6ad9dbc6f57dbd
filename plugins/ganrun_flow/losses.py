"""Flow matching on straight paths from noise to data, without and with classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

import ganrun
from ganrun import (
    Batch,
    DataSpec,
    Factor,
    IncompatibleError,
    Loss,
    Nets,
    Phase,
    Ports,
    Reading,
    Slot,
    Terms,
    join_latents,
    labels_of,
    random_one_hot,
    split_latents,
)
from ganrun_flow.solvers import Solver, integrate


class FlowMatching(Loss):
    """Flow matching: a velocity that carries noise to data along straight paths.

    Lipman et al. 2022 (arXiv:2210.02747), equations 22 and 23 with σ_min = 0, which is the first rectified flow of Liu
    et al. 2022 (arXiv:2209.03003), equation 1. A latent vector is the noise x₀, as large as a sample, and the flow maps
    it to the sample: the same latents give the same sample.
    """

    class Settings(ganrun.Settings):
        """None: times are uniform in [0, 1], as in both papers."""

    class Sampling(ganrun.Settings):
        steps: int = Field(16, ge=1)
        """Steps from t = 0 to t = 1. More are slower and closer to the flow."""

        solver: Solver = "midpoint"
        """euler evaluates the network once in each step, midpoint and heun twice, with a smaller error."""

    slots = {"velocity": Slot("network", averaged=True)}

    @property
    def latent_size(self) -> int:
        """The size of the noise, equal to a sample's, plus that of further factors."""
        return sum(factor.size for factor in self.factors())

    def factors(self) -> Sequence[Factor]:
        """`noise`, as large as a sample."""
        return (Factor("noise", prod(self.spec.sample_shape), "noise"),)

    def ports(self, slot: str) -> Ports:
        """From samples on their way, at `time` in [0, 1], to velocities of the same shape."""
        return Ports(self.spec.sample_shape, self.spec.sample_shape, {"time": ()})

    def phases(self) -> Sequence[Phase]:
        """One."""
        return (Phase("flow", self.objective, trains=("velocity",)),)

    def objective(self, nets: Nets, batch: Batch) -> Terms:
        """E (v(x_t, t) − (x₁ − x₀))², x_t = (1 − t) x₀ + t x₁, t ~ U(0, 1); a mean also over pixels.

        x₀ ~ N(0, I) are the latents, x₁ the real images.
        """
        noise, images = self.noise_in(batch.latents), batch.images
        time = torch.rand(batch.size, device=noise.device, dtype=noise.dtype)
        between = torch.lerp(noise, images, time.view(-1, *(1 for _ in self.spec.sample_shape)))
        velocity = nets.velocity(between, time=time, **self.training_conditions(batch))
        return Terms({"error": mse_loss(velocity, images - noise)})

    def training_conditions(self, batch: Batch) -> Mapping[str, Tensor]:
        """The network's conditions for real images besides the time, by name."""
        return {}

    def generate(self, nets: Nets, latents: Tensor, sampling: Sampling) -> Tensor:
        """The flow's endpoints for the noise: samples `(size, *sample_shape)`; images are clipped to [-1, 1]."""

        def velocity(state: Tensor, time: float) -> Tensor:
            return self.velocity(nets, state, time, latents, sampling)

        samples = integrate(velocity, self.noise_in(latents), (0.0, 1.0), sampling.steps, sampling.solver)
        return samples.clamp(-1, 1) if len(self.spec.sample_shape) == 3 else samples

    def velocity(self, nets: Nets, state: Tensor, time: float, latents: Tensor, sampling: Any) -> Tensor:
        """v(x, t) for samples of these latents: `(size, *sample_shape)`."""
        return nets.velocity(state, time=times_of(state, time))

    def readings(self) -> Mapping[str, Reading]:
        """`encodings`, the noise that the flow maps to an image: the flow backwards, with the defaults of
        `Sampling`."""
        sampling = self.Sampling()

        def encodings(nets: Nets, batch: Batch) -> Tensor:
            def velocity(state: Tensor, time: float) -> Tensor:
                return self.velocity(nets, state, time, batch.latents, sampling)

            return integrate(velocity, batch.images, (1.0, 0.0), sampling.steps, sampling.solver).flatten(1)

        return {"encodings": encodings}

    def noise_in(self, latents: Tensor) -> Tensor:
        """The noise in latents, in the shape of samples."""
        return split_latents(latents, self.factors())["noise"].reshape(-1, *self.spec.sample_shape)


class ClassConditionalFlowMatching(FlowMatching):
    """Flow matching with classes, and classifier-free guidance in `[sampling]`.

    Guidance as by Ho and Salimans 2022 (arXiv:2207.12598): one network learns the flow of each class and, where the
    class is left out, that of all data. A latent vector is noise, then the class, one-hot. The network takes `classes`:
    also one-hot, or zeros without a class.
    """

    class Settings(FlowMatching.Settings):
        drop_classes: float = Field(0.1, ge=0, lt=1)
        """Share of the real images whose class is left out in training. Guidance needs some."""

    class Sampling(FlowMatching.Sampling):
        guidance: float = Field(1.0, ge=0)
        """Scale w of the classifier-free guidance: the velocity is v + w (v(class) − v), v that without a class. At 1,
        it is v(class), which takes half the time. Above 1, samples are more typical of their class, and more alike."""

    settings: Settings

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        if spec.classes < 2:
            raise IncompatibleError("needs data with classes; take flow-matching for data without")

    def factors(self) -> Sequence[Factor]:
        """`noise`, as large as a sample, then `class`: the data's classes."""
        return (*super().factors(), Factor("class", self.spec.classes, "categorical"))

    def ports(self, slot: str) -> Ports:
        """As without classes; `classes` are one-hot, or zeros without a class."""
        return super().ports(slot)._replace(conditions={"time": (), "classes": (self.spec.classes,)})

    def latents(self, size: int, device: torch.device) -> Tensor:
        """Noise from N(0, I), and equally likely classes: `(size, latent_size)`."""
        noise = torch.randn(size, self.factors()[0].size, device=device)
        classes = random_one_hot(size, self.spec.classes, device)
        return join_latents({"noise": noise, "class": classes}, self.factors())

    def training_conditions(self, batch: Batch) -> Mapping[str, Tensor]:
        """The classes of real images, one-hot; zeros for the share that is left out."""
        classes = one_hot(labels_of(batch), self.spec.classes).float()
        conditional = torch.rand(batch.size, 1, device=classes.device) >= self.settings.drop_classes
        return {"classes": classes * conditional}

    def velocity(self, nets: Nets, state: Tensor, time: float, latents: Tensor, sampling: Any) -> Tensor:
        """v(x, t) for samples of the classes in these latents, guided: `(size, *sample_shape)`.

        Raises:
            IncompatibleError: if guidance needs a velocity that is not trained.
        """
        if sampling.guidance != 1 and not self.settings.drop_classes:
            text = f"guidance = {sampling.guidance:g} needs the velocity without a class, which drop_classes = 0 leaves"
            raise IncompatibleError(f"{text} untrained; train with drop_classes = 0.1, or sample with guidance = 1")
        times, classes = times_of(state, time), split_latents(latents, self.factors())["class"]
        conditional: Tensor = nets.velocity(state, time=times, classes=classes)
        if sampling.guidance == 1:
            return conditional
        return torch.lerp(
            nets.velocity(state, time=times, classes=torch.zeros_like(classes)), conditional, sampling.guidance
        )

    def readings(self) -> Mapping[str, Reading]:
        """None: the flow backwards needs the class, and does not infer it."""
        return {}


def times_of(state: Tensor, time: float) -> Tensor:
    """One time for each sample `(size,)`."""
    return state.new_full((len(state),), time)
