"""Loads trained models from a run, a checkpoint or an exported folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.base.arithmetic import exact_float32
from ganrun.base.devices import choose_device
from ganrun.base.errors import RequestError
from ganrun.base.frames import in_one_line
from ganrun.contracts.beginning import begin
from ganrun.contracts.data import Data
from ganrun.contracts.specs import DataSpec
from ganrun.discovery.registry import Registry, load_registry, locate
from ganrun.inference.model import Model
from ganrun.recipe.handed_out import handed_out
from ganrun.recipe.reader import load_evaluation_config, load_model_config
from ganrun.recipe.recipe import ComponentConfig, ModelConfig
from ganrun.recipe.source import read_source
from ganrun.rundir.checkpoints import write_weights
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.opening import warn_if_newer
from ganrun.rundir.records import CONFIG, ENVIRONMENT, RECIPE
from ganrun.rundir.saved import FORMAT, SavedWeights, read_saved
from ganrun.rundir.stored import made_with
from ganrun.training.averaging import averaged_tensors
from ganrun.training.components import (
    build_network,
    frame_of,
    framed_spec,
    loss_for,
    prepared_data,
    run_frames,
)
from ganrun.training.sizes import check_weights


def load(what: str | Path, device: str = "auto") -> Model:
    """A trained model, ready to use.

        model = ganrun.load("runs/wgan-…")
        images = model.sample(64)

    Loading executes nothing from the files: weights are safetensors, and the networks come from the installed plugins.

    Args:
        what: A run directory (its latest checkpoint), a checkpoint, an exported folder, or a tracker's id of
            a run.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        RequestError: if it does not exist, is damaged, or needs a plugin that is not installed.
    """
    return find_saved_model(what).model(device)


@dataclass(frozen=True)
class SavedModel:
    """A trained model on disk: its weights, on the CPU, and the facts needed to build it."""

    folder: Path
    """The run directory, or the exported folder."""

    step: int
    """Steps done."""

    steps: int
    """Steps of the whole run."""

    seed: int
    """The run's seed."""

    images_seen: int
    """Real images consumed so far."""

    seconds: float
    """Time spent in those steps."""

    spec: DataSpec
    """The data's."""

    class_names: tuple[str, ...]
    """One for each class of the data."""

    weights: Mapping[str, Mapping[str, Tensor]]
    """By slot; the averaged weights where there are any."""

    registry: Registry
    """The installed components, including its loss and networks."""

    @property
    def is_run(self) -> bool:
        """Whether `folder` is a run directory rather than an exported folder."""
        return (self.folder / ENVIRONMENT).is_file()

    @exact_float32()
    def model(self, device: str = "auto", sampling: Sequence[str] = ()) -> Model:
        """The model.

        Args:
            device: As in `load`.
            sampling: Overrides of the recipe's sampling settings: `sampling.psi=0.5`, as after `--set`.

        Raises:
            RequestError: if a component is not installed, the weights belong to another network, or `sampling` names a
                setting outside `[sampling]` or unknown to the loss.
        """
        place = choose_device(device)
        recipe = self.folder / RECIPE
        _check_sampling(sampling)
        config = load_model_config(recipe, self.registry, sampling, made_with(recipe))
        spec, loss = loss_for(config, self.spec, self.seed)
        self._filled("loss", loss.memory.to(place))
        self._begin(config, config.loss, loss, place)
        networks = {}
        for slot, network in config.networks.items():
            ports = framed_spec(config, loss, slot)
            with frame_of(config, network, "__init__"):
                check_weights(config, network, ports)
                networks[slot] = self._filled(slot, build_network(network, ports, place))
            self._begin(config, network, networks[slot], place)
        data = self.data if self.is_run else None
        frame = run_frames(config, config.loss)
        return Model(spec, loss, networks, place, self.seed, sampling=config.sampling, data=data, frame=frame)

    def data(self, overrides: Sequence[str] = ()) -> Data:
        """The data set of the recipe, prepared.

        Args:
            overrides: `data.root=…`, as after `--set`; an exported folder does not record where its data is.

        Raises:
            DataError: with the steps that fix it.
            RecipeError: if a setting is missing, such as a path that an exported folder leaves out.
        """
        recipe = self.folder / RECIPE
        return prepared_data(load_evaluation_config(str(recipe), self.registry, overrides, made_with(recipe)))

    def recipe_text(self) -> str:
        """The recipe in a form that can be shared: without paths, addresses and secrets."""
        recipe = self.folder / RECIPE
        return handed_out(recipe, self.registry, made_with(recipe))

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the files of an exported folder that `load` reads: the weights, the recipe, and the facts.

        Args:
            folder: An existing folder without files of these names.
            about: Further entries of config.json, as JSON.

        Raises:
            RunError: if the facts cannot be written.
            OSError: if the recipe or the weights cannot.
        """
        for slot, tensors in self.weights.items():
            write_weights(folder / f"{slot}.safetensors", tensors)
        (folder / RECIPE).write_text(self.recipe_text(), encoding="utf-8")
        spec = {**self.spec.facts(), "class_names": list(self.class_names)}
        progress = {"step": self.step, "images_seen": self.images_seen, "seconds": self.seconds}
        RunDirectory(folder).write_json(CONFIG, {"format": FORMAT, **about, **progress, "problem": spec})

    def _begin(self, model: ModelConfig, config: ComponentConfig, component: Any, device: torch.device) -> None:
        """Set everything that depends on the step to its value after the checkpoint's step."""
        with frame_of(model, config, "begin"):
            begin(component, self.step, self.steps, device)

    def _filled(self, slot: str, network: nn.Module) -> nn.Module:
        """Load the folder's weights of this name into a network, or into the loss's memory, which may be empty."""
        if not network.state_dict():
            return network.eval()
        if slot not in self.weights:
            raise RequestError(f"{self.folder} holds no weights of the {slot}")
        try:
            network.load_state_dict(self.weights[slot])
        except RuntimeError as error:
            text = f"the weights in {self.folder} are those of another network: {in_one_line(error)}"
            raise RequestError(text) from error
        if not all(bool(each.isfinite().all()) for each in averaged_tensors(network).values()):
            raise RequestError(f"{self.folder} is damaged: the weights of the {slot} are not finite; take another copy")
        return network.requires_grad_(False).eval()


def find_saved_model(what: str | Path, registry: Registry | None = None) -> SavedModel:
    """Find what `load` loads, without building its networks.

    Args:
        what: As in `load`.
        registry: The installed components; those of this environment unless given.

    Raises:
        RequestError: if it does not exist, or is damaged.
    """
    registry = registry or load_registry()
    return _saved_model(read_saved(locate(what, registry)), registry)


def _check_sampling(overrides: Sequence[str]) -> None:
    for each in overrides:
        if not each.startswith("sampling."):
            raise RequestError(f"--set {each}: only the sampling of a trained model can change; say sampling.KEY=VALUE")


def _saved_model(saved: SavedWeights, registry: Registry) -> SavedModel:
    folder, facts, progress, weights = saved
    warn_if_newer(RunDirectory(folder), facts)
    try:
        step, images_seen, seconds = int(progress["step"]), int(progress["images_seen"]), float(progress["seconds"])
        stored = RunDirectory(folder).read_json(facts)["problem"]
        spec = DataSpec.from_facts(stored)
        names = tuple(str(name) for name in stored["class_names"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RequestError(
            f"{folder / facts} is damaged: it does not state what the networks were built for"
        ) from error
    try:
        train = read_source(folder / RECIPE).tables["train"]
        seed, steps = int(train["seed"]), int(train["steps"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"{folder / RECIPE} is damaged: it states no seed or no steps, as a run's does") from error
    return SavedModel(folder, step, steps, seed, images_seen, seconds, spec, names, weights, registry)
