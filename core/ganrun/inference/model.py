"""Inference with a model: sampling, decoding latents and reading real records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import cached_property, partial
from math import ceil, prod
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ganrun.base.arithmetic import exact_float32
from ganrun.base.errors import ContractError, IncompatibleError, RequestError
from ganrun.base.frames import Frame
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.contracts.data import Data
from ganrun.contracts.losses import Batch, Loss, Nets
from ganrun.contracts.settings import Settings, dump_settings, parse_settings
from ganrun.contracts.specs import ModelSpec
from ganrun.contracts.views import View
from ganrun.inference.given import GivenRecords, with_given
from ganrun.inference.readings import reading_of
from ganrun.inference.samples import seeded_batches
from ganrun.inference.sources import SAMPLES_PER_BATCH
from ganrun.inference.translating import Progress, translated, translated_back
from ganrun.recipe.faults import Owner, setting_faults

PIXELS_AT_ONCE = 1 << 20
"""Of images that models of images make at a time: 256 of 64×64."""


class Model:
    """The networks of a loss, for scores and pictures.

    No method advances the caller's random stream, or changes the mode of a network. None computes gradients, except
    `decode` on request. All compute in exact float32, even where the process allows TF32.

    Args:
        spec: What the networks were built for.
        loss: Defines latents, samples and readings.
        networks: By slot; averaged ones where the loss keeps an average.
        device: Device of the networks.
        seed: The run's seed, which decides which samples are scored.
        sampling: How samples are made; the loss's defaults unless given.
        data: Returns the prepared data, whose records fill the given factors of latents; called when they are first
            needed. None where there is no data, as for an exported model.
        frame: `frame(method)` is a block around each call into the loss, in which errors get its name.
    """

    def __init__(
        self,
        spec: ModelSpec,
        loss: Loss,
        networks: Mapping[str, nn.Module],
        device: torch.device,
        seed: int,
        *,
        sampling: Settings | None = None,
        data: Callable[[], Data] | None = None,
        frame: Frame = nullcontext,
    ) -> None:
        self.spec = spec
        self.loss = loss
        self.networks: Mapping[str, nn.Module] = dict(networks)
        self.nets = Nets({slot: View(network) for slot, network in self.networks.items()})
        self.device = device
        self.seed = seed
        self.sampling = loss.Sampling() if sampling is None else sampling
        self._data = data
        self._frame = frame

    def with_sampling(self, **changes: Any) -> Model:
        """The same networks with other sampling settings: `model.with_sampling(psi=0.5)`.

        Args:
            changes: Settings of the recipe's table `[sampling]`; all others stay.

        Raises:
            RequestError: if the loss has no such setting, or it cannot have that value.
        """
        cls, table = self.loss.Sampling, {**dump_settings(self.sampling), **changes}
        owner = Owner(f"sampling with {type(self.loss).__name__}", "help(type(model.loss).Sampling)")
        changed = copy(self)
        try:
            changed.sampling = parse_settings(cls, table)
        except ValidationError as error:
            faults = setting_faults(error, ("sampling",), table, cls, owner)
            raise RequestError("\n".join(text for _, text in faults)) from None
        except TypeError as error:
            raise RequestError(f"[sampling] takes numbers, texts and lists of them: {error}") from None
        return changed

    @property
    def sampling_protocol(self) -> dict[str, str | int | float | bool]:
        """How samples are made, as entries of a score's protocol: `{"sampling.psi": 0.7}`; lists and tables as JSON."""
        return {
            f"sampling.{name}": value if isinstance(value, str | int | float) else json.dumps(value)
            for name, value in dump_settings(self.sampling).items()
        }

    # ── Samples ───────────────────────────────────────────────────────────────────────────────────────

    def sample(self, count: int, *, seed: int | None = None, label: int | None = None) -> Tensor:
        """`count` samples in [-1, 1]: `(count, *sample_shape)`. A smaller count gives the first samples of a larger
        one.

        Args:
            count: Number of samples.
            seed: Decides which samples; by default, those that the run's scores are measured on. Samples differ
                between a CPU and a GPU.
            label: The class of all samples, for a class-conditional model.

        Raises:
            IncompatibleError: if the model has no such class.
            RequestError: if latents hold records of data, and there is none.
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

    def draw(self, count: int, start: int = 0, *, label: int | None = None) -> tuple[Tensor, Tensor]:
        """`count` latents from the current random stream, and their samples in [-1, 1].

        Args:
            count: Number of samples.
            start: The number of the first one, which decides the records in its latents, if they hold any.
            label: The class of all samples, for a class-conditional model.

        Raises:
            IncompatibleError: if the model has no such class.
            RequestError: if latents hold records of data, and there is none.
        """
        latents = self._filled(self._drawn(count, self.device), start)
        if label is not None:
            latents = self.with_class(latents, label)
        return latents, self._generate(latents)

    # ── Latents ───────────────────────────────────────────────────────────────────────────────────────

    def fixed_latents(self, count: int) -> Tensor:
        """`count` latents that depend on neither seed nor device: `(count, latent_size)`. Fewer are the first of more.

        Models with the same latent distribution get the same latents, so that their pictures can be compared.

        Raises:
            RequestError: if latents hold records of data, and there is none.
        """
        return self._filled(self.unfilled_latents(count), 0)

    def unfilled_latents(self, count: int) -> Tensor:
        """`fixed_latents` without data: given factors are what the loss draws in their place."""
        cpu = torch.device("cpu")
        batches = []
        for number in range(max(1, ceil(count / SAMPLES_PER_BATCH))):
            with isolated_random(cpu, derived_seed(0, "fixed latents", number)):
                batches.append(self._drawn(SAMPLES_PER_BATCH, cpu))
        return torch.cat(batches)[:count].to(self.device)

    def latents_of(self, **records: Tensor) -> Tensor:
        """Fixed latents that hold these records: `model.decode(model.latents_of(source=images))` translates images.

        Args:
            records: A field of the data for each given factor, by its name, `(count, …)` in [-1, 1].

        Raises:
            IncompatibleError: if one is missing, or has another size.
        """
        count = min((len(each) for each in records.values()), default=0)
        return with_given(self.unfilled_latents(count), self.spec, records)

    def with_class(self, latents: Tensor, label: int) -> Tensor:
        """A copy of these latents with class `label`.

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

    def _filled(self, latents: Tensor, start: int) -> Tensor:
        """The latents, with the records from number `start` on as their given factors."""
        return latents if self.given is None else self.given.fill(latents, start)

    @cached_property
    def given(self) -> GivenRecords | None:
        """The records in latents, in their fixed order; None for a model without given factors.

        Raises:
            RequestError: if there are given factors and no data.
        """
        names = [factor.name for factor in self.spec.given]
        if not names:
            return None
        if self._data is None:
            listed = ", ".join(f"{name}=…" for name in names)
            raise RequestError(
                f"each sample is made from a record ({', '.join(names)}), and an exported model has no data; make"
                f" samples of your own records by model.decode(model.latents_of({listed})), each (count, …) in [-1, 1]"
            )
        return GivenRecords(self._data(), self.spec, self.device)

    # ── Decoding and reading ──────────────────────────────────────────────────────────────────────────

    def decode(self, latents: Tensor, *, gradients: bool = False) -> Tensor:
        """The samples `(count, *sample_shape)` in [-1, 1] of latents `(count, latent_size)`.

        Args:
            latents: The same latents give the same samples.
            gradients: Whether samples can be differentiated with respect to the latents, also where gradients are
                off around the call. The weights get no gradient. Differentiate in `with ganrun.exact_float32():` where
                the gradient is to be exact, too; in a metric it is.
        """
        with isolated_random(self.device, derived_seed(self.seed, "samples")):
            return self._generate(latents.to(self.device), gradients=gradients)

    def translate(
        self,
        pictures: Tensor,
        masks: Tensor | None = None,
        on_progress: Progress = lambda done, total: None,
        *,
        reverse: bool = False,
    ) -> Tensor:
        """Images made from pictures of any size: `(count, channels, height', width')` in [-1, 1], on the CPU.

        For a model whose latents hold the record field `source`: a translation, a restoration, an enlargement. Its
        networks see pictures of the size that they were trained with; larger ones are made of tiles that overlap by a
        quarter of their sides, and smaller ones are continued by their outermost pixels.

        Args:
            pictures: `(count, channels, height, width)` in [-1, 1], all of one size.
            masks: `(count, 1, height, width)`, 1 where pixels are missing and -1 elsewhere, for a model with the field
                `mask`.
            on_progress: `on_progress(done, total)` is called with numbers of tiles.
            reverse: Whether to make sources from images instead, for a model that has learned both, as CycleGAN does.

        Raises:
            IncompatibleError: if the model makes its samples of anything else, or takes other channels.
        """
        if reverse and masks is not None:
            raise IncompatibleError("masks belong to sources, and reverse makes sources from images")
        if reverse:
            return translated_back(self.spec, partial(self.read, "encodings"), pictures, on_progress)

        def make(records: Mapping[str, Tensor]) -> Tensor:
            return self.decode(self.latents_of(**records))

        return translated(self.spec, make, pictures, masks, on_progress)

    def read(
        self,
        name: str,
        images: Tensor,
        labels: Tensor | None = None,
        beside: Mapping[str, Tensor] | None = None,
        *,
        batch: int = 0,
    ) -> Tensor:
        """One of the loss's readings of real records: `(count, …)`.

        Args:
            name: One of `spec.readings`, such as `encodings`.
            images: `(count, *sample_shape)` in [-1, 1].
            labels: int64 `(count,)`, if the reading needs them.
            beside: The data's further fields by name, in [-1, 1], if the reading needs them or latents hold them. With
                a loss for unpaired data, an image has no fields; its latents then hold no record.
            batch: The number of the batch, if there are several: in each, a reading draws other random numbers.

        Raises:
            IncompatibleError: if there is no such reading, or latents hold a field that is missing.
            ContractError: if the reading does not return a row for each record, or holds NaN.
        """
        place, fields = self.device, {field: each.to(self.device) for field, each in (beside or {}).items()}
        with self._evaluation_mode(), isolated_random(place, derived_seed(self.seed, "reading", name, batch)):
            latents = self._drawn(len(images), place)
            if fields or self.loss.paired:
                latents = with_given(latents, self.spec, fields)
            labels = None if labels is None else labels.to(place)
            whole = Batch(latents, images.to(place), labels, fields)
            with self._frame(f'the reading "{name}"'):
                parts = (_rows_of(whole, rows) for rows in self._parts(whole.size))
                return torch.cat([reading_of(self.loss, name, self.nets, part) for part in parts])

    def judge(
        self,
        slot: str,
        images: Tensor,
        labels: Tensor | None = None,
        beside: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A discriminator's outputs for real records, and for as many samples, each `(count,)`: the first of several
        outputs, and the mean of a map.

        Args:
            slot: A slot of kind discriminator.
            images: `(count, *sample_shape)` in [-1, 1].
            labels: int64 `(count,)`, if the data has them.
            beside: The data's further fields by name, in [-1, 1].

        Raises:
            ContractError: if the loss does not say what it calls the network on.
        """
        place, fields = self.device, {field: each.to(self.device) for field, each in (beside or {}).items()}
        with self._evaluation_mode(), isolated_random(place, derived_seed(self.seed, "judging", slot)):
            latents = with_given(self._drawn(len(images), place), self.spec, fields)
            batch = Batch(latents, images.to(place), None if labels is None else labels.to(place), fields)
            with self._frame("real_inputs"):
                real = self.loss.real_inputs(slot, batch)
            with self._frame("generated_inputs"):
                generated = self.loss.generated_inputs(slot, self.nets, batch)
            network = getattr(self.nets, slot)
            of_real, of_samples = (network(each.inputs, **each.conditions) for each in (real, generated))
            return _first_output(of_real), _first_output(of_samples)

    def encode(self, images: Tensor) -> Tensor | None:
        """The reading `encodings`, latents `(count, latent_size)` of images in [-1, 1]; None if there is none."""
        return self.read("encodings", images) if "encodings" in self.spec.readings else None

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """The reading `reconstructions`, in [-1, 1], of images in [-1, 1]; None if there is none."""
        return self.read("reconstructions", images) if "reconstructions" in self.spec.readings else None

    def _generate(self, latents: Tensor, *, gradients: bool = False) -> Tensor:
        with self._evaluation_mode(gradients=gradients), self._frame("generate"):
            return torch.cat([self._made(latents[rows]) for rows in self._parts(len(latents))])

    def _made(self, latents: Tensor) -> Tensor:
        samples = self.loss.generate(self.nets, latents, self.sampling)
        return _checked(samples, (len(latents), *self.spec.sample_shape))

    def _parts(self, count: int) -> list[slice]:
        """The records that are computed at a time, if the model starts from images: then each layer is as large as
        they are, and of 256 pictures of 256×256 pixels, one of 64 channels has 4.3 GB."""
        size = max(1, PIXELS_AT_ONCE // prod(self.spec.sample_shape[1:])) if self.spec.given else max(1, count)
        return [slice(start, start + size) for start in range(0, max(1, count), size)]

    def _drawn(self, count: int, device: torch.device) -> Tensor:
        with self._frame("latents"):
            return self.loss.latents(count, device)

    @contextmanager
    def _evaluation_mode(self, *, gradients: bool = False) -> Iterator[None]:
        """A block in evaluation mode, with gradients at most for inputs; afterwards, each network is in its former
        mode."""
        training = [module for module in self.networks.values() if module.training]
        weights = [weight for module in self.networks.values() for weight in module.parameters() if gradients]
        trained = [weight for weight in weights if weight.requires_grad]
        for module in training:
            module.eval()
        for weight in trained:
            weight.requires_grad_(False)
        try:
            with torch.set_grad_enabled(gradients), exact_float32():
                yield
        finally:
            for module in training:
                module.train()
            for weight in trained:
                weight.requires_grad_(True)


def _first_output(outputs: Tensor) -> Tensor:
    """Of each row `(count,)`."""
    return outputs.flatten(2).mean(2)[:, 0] if outputs.dim() > 2 else outputs[:, 0]


def _rows_of(batch: Batch, rows: slice) -> Batch:
    labels = None if batch.labels is None else batch.labels[rows]
    beside = {name: each[rows] for name, each in batch.beside.items()}
    return Batch(batch.latents[rows], batch.images[rows], labels, beside)


def _checked(samples: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(samples, Tensor) or tuple(samples.shape) != shape:
        found = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise ContractError(f"generate returned {found} where {shape} was expected")
    return samples
