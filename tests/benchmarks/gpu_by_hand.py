"""The loops by hand that gpu.py compares with: plain modules and eager steps, as published code has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

LATENTS = 100
HIDDEN = 128


class Case(NamedTuple):
    """What is trained."""

    loss: str
    """gan or wgan-gp."""
    networks: str
    """dcgan or mlp."""
    shape: tuple[int, int, int]
    maps: int = 64
    batch: int = 64
    records: int = 10_000

    def tiny(self) -> Case:
        """The same with little to compute."""
        return self._replace(maps=4, batch=4, records=min(self.records, 500))

    @property
    def penalised(self) -> bool:
        return self.loss == "wgan-gp"

    def recipe(self, precision: str, device: str) -> dict[str, Any]:
        """Tables of a recipe, without its data."""
        networks = {"use": "mlp", "hidden": [HIDDEN]}
        if self.networks == "dcgan":
            networks = {"use": "dcgan", "feature_maps": self.maps}
        norm = {"norm": "layer" if self.penalised else "batch"} if self.networks == "dcgan" else {}
        return {
            "train": {"steps": 10_000_000, "batch_size": self.batch, "device": device, "precision": precision},
            "loss": {"use": self.loss, "latent_size": LATENTS},
            "generator": networks,
            "discriminator": networks | norm,
            "optimizer": {"use": "adam", "lr": 1e-4},
            "ema": False,
            **dict.fromkeys(("checkpoints", "samples", "mlflow", "progress"), False),
        }

    def modules(self) -> tuple[nn.Module, nn.Module]:
        """Generator and discriminator, as plain modules."""
        if self.networks == "mlp":
            return dense(self.shape)
        return generator(self.shape, self.maps), discriminator(self.shape, self.maps, self.penalised)


class ByHand:
    """A loop as published code has it: eager, an optimiser as torch makes it, no part of it frozen or fused.

    Args:
        case: What to train.
        precision: f32, tf32 or bf16.
        images: uint8, in [0, 255].
        reads: Whether each batch comes from the host's memory, and both losses are read at every step.
    """

    def __init__(self, case: Case, precision: str, device: torch.device, images: np.ndarray, *, reads: bool) -> None:
        self._case, self._precision, self._device, self._reads = case, precision, device, reads
        whole = torch.from_numpy(images[: 2**30 // images[0].size])
        self._images = (whole.float() / 127.5 - 1) if reads else whole.to(device)
        self._networks = [module.to(device) for module in case.modules()]
        self._adam = [torch.optim.Adam(module.parameters(), lr=1e-4, betas=(0.5, 0.999)) for module in self._networks]
        self._labels = [torch.full((case.batch, 1), value, device=device) for value in (1.0, 0.0)]

    def __call__(self, steps: int) -> None:
        with as_published(self._precision):
            for _ in range(steps):
                losses = self._penalised_step() if self._case.penalised else self._step()
                if self._reads:
                    for loss in losses:
                        loss.item()

    def close(self) -> None:
        del self._images, self._networks, self._adam

    # ── Steps ─────────────────────────────────────────────────────────────────────────────────────────

    def _step(self) -> tuple[Tensor, Tensor]:
        (_, discriminator), (of_generator, of_discriminator) = self._networks, self._adam
        ones, zeros = self._labels
        discriminator.zero_grad()
        on_real = binary_cross_entropy_with_logits(self._call(1, self._real()), ones)
        on_real.backward()
        fake = self._call(0, self._latents())
        on_fake = binary_cross_entropy_with_logits(self._call(1, fake.detach()), zeros)
        on_fake.backward()
        of_discriminator.step()
        self._networks[0].zero_grad()
        loss = binary_cross_entropy_with_logits(self._call(1, fake), ones)
        loss.backward()
        of_generator.step()
        return on_real.detach() + on_fake.detach(), loss.detach()

    def _penalised_step(self) -> tuple[Tensor, Tensor]:
        """Five updates of the critic, and one of the generator."""
        (generator, critic), (of_generator, of_critic) = self._networks, self._adam
        for _ in range(5):
            critic.zero_grad()
            real, fake = self._real(), self._call(0, self._latents()).detach()
            loss = self._call(1, fake).mean() - self._call(1, real).mean() + 10 * self._penalty(real, fake)
            loss.backward()
            of_critic.step()
        generator.zero_grad()
        raised = -self._call(1, self._call(0, self._latents())).mean()
        raised.backward()
        of_generator.step()
        return loss.detach(), raised.detach()

    def _penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        share = torch.rand(len(real), 1, 1, 1, device=self._device)
        between = (share * real + (1 - share) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self._call(1, between).sum(), between, create_graph=True)
        return (slope.flatten(1).norm(2, dim=1) - 1).square().mean()

    def _real(self) -> Tensor:
        rows = torch.randint(len(self._images), (self._case.batch,), device=self._images.device)
        images = self._images[rows]
        return images.to(self._device) if self._reads else images.float() / 127.5 - 1

    def _latents(self) -> Tensor:
        return torch.randn(self._case.batch, LATENTS, device=self._device)

    def _call(self, network: int, inputs: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            return self._networks[network](inputs).float()


@contextmanager
def as_published(precision: str) -> Iterator[None]:
    """A block in which cuDNN tries its algorithms, as published code lets it; afterwards all is as before."""
    settings = (torch.backends.cuda.matmul, "fp32_precision"), (torch.backends.cudnn.conv, "fp32_precision")
    before = [getattr(*each) for each in settings], torch.backends.cudnn.benchmark
    set_precision(precision)
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        for (owner, name), value in zip(settings, before[0], strict=True):
            setattr(owner, name, value)
        torch.backends.cudnn.benchmark = before[1]


def set_precision(precision: str) -> None:
    """Whether products and convolutions of float32 are computed in TF32."""
    kind = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = kind
    torch.backends.cudnn.conv.fp32_precision = kind


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


def widths(size: int, maps: int) -> list[int]:
    """Channels from the widest layer, on 4×4, to the one beside the image."""
    doublings = (size // 4).bit_length() - 1
    return [maps * min(8, 2**power) for power in reversed(range(doublings))]


def generator(shape: tuple[int, int, int], maps: int) -> nn.Module:
    channels, size, _ = shape
    wide = widths(size, maps)
    layers: list[nn.Module] = [nn.Unflatten(1, (LATENTS, 1, 1)), nn.ConvTranspose2d(LATENTS, wide[0], 4, bias=False)]
    for fan_in, fan_out in pairwise(wide):
        layers += [nn.BatchNorm2d(fan_in), nn.ReLU(True), nn.ConvTranspose2d(fan_in, fan_out, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(wide[-1]), nn.ReLU(True), nn.ConvTranspose2d(wide[-1], channels, 4, 2, 1), nn.Tanh()]
    return nn.Sequential(*layers).apply(initialise)


def discriminator(shape: tuple[int, int, int], maps: int, penalised: bool) -> nn.Module:
    channels, size, _ = shape
    wide = widths(size, maps)[::-1]
    layers: list[nn.Module] = [nn.Conv2d(channels, wide[0], 4, 2, 1), nn.LeakyReLU(0.2)]
    for fan_in, fan_out in pairwise(wide):
        norm = nn.GroupNorm(1, fan_out) if penalised else nn.BatchNorm2d(fan_out)
        layers += [nn.Conv2d(fan_in, fan_out, 4, 2, 1, bias=False), norm, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(wide[-1], 1, 4), nn.Flatten()).apply(initialise)


def dense(shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    pixels = int(np.prod(shape))
    makes = nn.Sequential(
        nn.Linear(LATENTS, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, pixels), nn.Tanh(), nn.Unflatten(1, shape)
    )
    judges = nn.Sequential(nn.Flatten(), nn.Linear(pixels, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))
    return makes, judges


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
