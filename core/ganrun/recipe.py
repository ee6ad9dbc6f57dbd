"""From a recipe's text to a validated recipe, or to every fault of it at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from ganrun.errors import PluginError, RecipeError
from ganrun.optimizers import OPTIMIZERS, OptimizerSettings
from ganrun.registry import Offer, Registry
from ganrun.settings import Settings, parse_settings
from ganrun.source import Key, Source, read_source
from ganrun.suggestions import did_you_mean

S = TypeVar("S", bound=Settings)


class TrainSettings(Settings):
    """How long and in what manner to train."""

    steps: int = Field(ge=1)
    """Steps of the run; a step is one pass through the loss's phases (for a GAN: one generator update)."""

    batch_size: int = Field(64, ge=1)
    """Images per update."""

    seed: int = Field(0, ge=0)
    """Decides every random number: weights, order of the data, latents, samples."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""

    precision: Literal["f32", "bf16"] = "f32"
    """Arithmetic inside the networks; losses are always f32."""

    accumulate: int = Field(1, ge=1)
    """Parts that a batch is taken in, to save memory; must divide batch_size."""

    horizontal_flip: bool = False
    """Whether real images are mirrored at random."""

    log_every_steps: int = Field(50, ge=1)
    """Steps between two lines of metrics.jsonl."""

    evaluate_every_steps: int | None = Field(None, ge=1)
    """Steps between two evaluations; unless given, only after the last step."""


class EmaSettings(Settings):
    """The moving average of the weights that are scored and shown; `ema = false` turns it off."""

    decay: float = Field(0.999, ge=0, lt=1)
    """Share of the old average that survives a step; reached gradually over the first steps."""


@dataclass(frozen=True)
class Choice:
    """A component that the recipe uses, with its settings."""

    offer: Offer
    use: str
    """As the recipe wrote it."""
    settings: Settings
    key: Key
    """The table it stands in."""

    def table(self) -> dict[str, Any]:
        """The table with every default written out."""
        return {"use": self.use, **dump(self.settings)}


@dataclass(frozen=True)
class Recipe:
    """A validated recipe."""

    source: Source
    name: str
    requires: tuple[str, ...]
    train: TrainSettings
    ema: EmaSettings | None
    data: Choice
    loss: Choice
    networks: dict[str, Choice]
    """By slot."""
    optimizers: dict[str, tuple[str, OptimizerSettings]]
    """By slot: name and settings."""
    metrics: tuple[Choice, ...]
    observers: dict[str, Choice]
    silenced: tuple[str, ...] = field(default=())
    """Automatic observers that the recipe turned off."""

    def where(self, key: Key) -> str:
        """File and line of a table or key."""
        return self.source.where(key)

    def resolved(self) -> dict[str, Any]:
        """The whole recipe as tables, every default written out; itself a recipe that gives the same run."""
        return {
            "name": self.name,
            **({"requires": list(self.requires)} if self.requires else {}),
            "ema": False if self.ema is None else dump(self.ema),
            **dict.fromkeys(self.silenced, False),
            "train": dump(self.train),
            "data": self.data.table(),
            "loss": self.loss.table(),
            **{slot: choice.table() for slot, choice in self.networks.items()},
            "optimizer": {slot: {"use": use, **dump(each)} for slot, (use, each) in self.optimizers.items()},
            "metric": [choice.table() for choice in self.metrics],
            **{name: dump(choice.settings) for name, choice in self.observers.items()},
        }


def dump(settings: Settings) -> dict[str, Any]:
    """Settings as a TOML table; what is off is left out, for TOML has no null."""
    return settings.model_dump(mode="json", exclude_none=True)


def load_recipe(path: Path, registry: Registry, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, lay the overrides over it, and validate it against the installed components.

    Raises:
        RequestError: if the file cannot be read.
        RecipeError: with every fault, each with its place.
    """
    return _Reader(read_source(path, overrides), registry).recipe()


ENGINE_KEYS = ("name", "requires", "train", "ema", "data", "loss", "optimizer", "metric")


class _Reader:
    """Reads one recipe; collects problems instead of stopping at the first."""

    def __init__(self, source: Source, registry: Registry) -> None:
        self.source = source
        self.tables = source.tables
        self.registry = registry
        self.problems: list[str] = []

    def recipe(self) -> Recipe:
        name = self.text("name", self.source.path.stem)
        requires = self.requirements()
        train = self.settings(("train",), TrainSettings, "the engine")
        ema = None if self.tables.get("ema") is False else self.settings(("ema",), EmaSettings, "the engine")
        data, loss = self.component(("data",), "data"), self.component(("loss",), "loss")
        networks = self.networks(loss)
        optimizers = self.optimizers(loss)
        metrics = self.metrics()
        observers, silenced = self.observers()
        self.unknown_tables(loss)
        if train and train.batch_size % train.accumulate:
            text = f"accumulate = {train.accumulate} does not divide batch_size = {train.batch_size}"
            self.problem(("train", "accumulate"), text)
        if self.problems or train is None or data is None or loss is None:
            raise RecipeError(self.problems)
        return Recipe(
            self.source, name, requires, train, ema, data, loss, networks, optimizers, metrics, observers, silenced
        )

    # ── Tables of the engine ──────────────────────────────────────────────────────────────────────────

    def text(self, key: str, default: str) -> str:
        value = self.tables.get(key, default)
        if not isinstance(value, str) or not value.strip():
            self.problem((key,), f"{key} must be a text that is not empty, not {_shown(value)}")
            return default
        return value

    def requirements(self) -> tuple[str, ...]:
        """Check `requires` against the installed packages."""
        wanted = self.tables.get("requires", [])
        if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
            self.problem(("requires",), 'requires must be a list of texts such as "ganrun-stylegan>=0.3"')
            return ()
        for text in wanted:
            fault = unmet(text)
            if fault:
                self.problem(("requires",), fault)
        return tuple(wanted)

    def optimizers(self, loss: Choice | None) -> dict[str, tuple[str, OptimizerSettings]]:
        table = self.table(("optimizer",))
        slots = loss.offer.component.slots if loss else {}
        own = {name: value for name, value in table.items() if isinstance(value, dict)}
        shared = {name: value for name, value in table.items() if name not in own}
        for name in own:
            if loss and name not in slots:
                self.problem(("optimizer", name), f'{loss.use} has no slot "{name}"' + _slots_text(slots, name))
        if shared.get("use", "adam") not in OPTIMIZERS or not own.keys() >= set(slots):
            self.optimizer(("optimizer",), shared)
        found = {}
        for slot in slots:
            merged = {**shared, **own.get(slot, {})} if _same_use(shared, own.get(slot, {})) else own[slot]
            key: Key = ("optimizer", slot) if slot in own else ("optimizer",)
            settings = self.optimizer(key, merged, quiet=slot not in own)
            if settings:
                found[slot] = (str(merged.get("use", "adam")), settings)
        return found

    def optimizer(self, key: Key, table: Mapping[str, Any], quiet: bool = False) -> OptimizerSettings | None:
        use = table.get("use", "adam")
        before = len(self.problems)
        settings = None
        if use not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            self.problem((*key, "use"), f'no optimizer is called "{use}"; there are {known}')
        else:
            rest = {name: value for name, value in table.items() if name != "use"}
            settings = self.parse(key, OPTIMIZERS[use], rest, use)
        if quiet:
            del self.problems[before:]
        return settings

    # ── Components ────────────────────────────────────────────────────────────────────────────────────

    def component(self, key: Key, kind: str) -> Choice | None:
        """The component that a table names by `use`."""
        table = self.table(key, required=True)
        use = table.get("use")
        if not isinstance(use, str):
            if key[0] in self.tables:
                self.problem(key, f'{_header(key)} needs use = "…", the name of a {kind}; see: ganrun list {kind}')
            return None
        try:
            offer = self.registry.find(kind, use)
        except PluginError as error:
            self.problem((*key, "use"), error.message)
            return None
        rest = {name: value for name, value in table.items() if name != "use"}
        settings = self.parse(key, offer.component.Settings, rest, str(offer), f"ganrun show {kind} {use}")
        return None if settings is None else Choice(offer, use, settings, key)

    def networks(self, loss: Choice | None) -> dict[str, Choice]:
        if loss is None:
            return {}
        found = {slot: self.component((slot,), each.kind) for slot, each in loss.offer.component.slots.items()}
        return {slot: choice for slot, choice in found.items() if choice is not None}

    def metrics(self) -> tuple[Choice, ...]:
        entries = self.tables.get("metric", [])
        if not isinstance(entries, list):
            self.problem(
                ("metric",), "metrics are written as [[metric]], with two brackets, since there may be several"
            )
            return ()
        found = [self.component(("metric", index), "metric") for index in range(len(entries))]
        return tuple(choice for choice in found if choice is not None)

    def observers(self) -> tuple[dict[str, Choice], tuple[str, ...]]:
        found: dict[str, Choice] = {}
        silenced = []
        for name in self.registry.names("observer"):
            wanted = self.tables.get(name)
            if wanted is False:
                silenced.append(name)
                continue
            choice = self.observer(name)
            if choice and (wanted is not None or choice.offer.component.automatic):
                found[name] = choice
        return found, tuple(silenced)

    def observer(self, name: str) -> Choice | None:
        try:
            offer = self.registry.find("observer", name)
        except PluginError as error:
            self.problem((name,), error.message)
            return None
        table = {} if self.tables.get(name) is True else self.table((name,))
        settings = self.parse((name,), offer.component.Settings, table, str(offer), f"ganrun show observer {name}")
        return None if settings is None else Choice(offer, name, settings, (name,))

    def unknown_tables(self, loss: Choice | None) -> None:
        slots = loss.offer.component.slots if loss else {}
        known = [*ENGINE_KEYS, *slots, *self.registry.names("observer")]
        for name, value in self.tables.items():
            if name in known or (loss is None and isinstance(value, dict)):
                continue
            if isinstance(value, dict) and "use" in value and loss:
                self.problem((name,), f'the loss {loss.use} has no slot "{name}"' + _slots_text(slots, name))
            else:
                what = "table" if isinstance(value, dict | list) else "key"
                hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
                broken = "".join(f"\n  plugin {name} is broken: {why}" for name, why in self.registry.broken().items())
                self.problem((name,), f'a recipe has no {what} "{name}"{hint}{broken}')

    # ── Helpers ───────────────────────────────────────────────────────────────────────────────────────

    def settings(self, key: Key, settings: type[S], owner: str) -> S | None:
        return self.parse(key, settings, self.table(key, required=settings is TrainSettings), owner)

    def table(self, key: Key, required: bool = False) -> dict[str, Any]:
        """The table at `key`; empty, with a problem noted, where it is no table or is required and absent."""
        value: Any = self.tables
        for part in key:
            if isinstance(part, str) and part not in value:
                if required:
                    self.problem((), f"the table [{part}] is missing")
                return {}
            value = value[part]
        if not isinstance(value, dict):
            self.problem(key, f"{key[-1]} must be a table, written {_header(key)}, not {_shown(value)}")
            return {}
        return value

    def parse(
        self, key: Key, settings: type[S], table: Mapping[str, Any], owner: str, see: str | None = None
    ) -> S | None:
        try:
            return parse_settings(settings, table)
        except ValidationError as error:
            if key[0] in self.tables or any(key[0] == at[0] for at in self.source.overrides):
                for fault in error.errors():
                    self.problem((*key, *fault["loc"]), _fault_text(key, fault, settings, owner, see))
            return None

    def problem(self, key: Key, text: str) -> None:
        self.problems.append(f"{self.source.where(key)}: {text}")


def unmet(requirement: str) -> str | None:
    """Why an entry of `requires` is not met by the installed packages, or None if it is."""
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement as error:
        return f'"{requirement}" is no requirement such as "ganrun-stylegan>=0.3": {error}'
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        return f'the recipe requires {requirement}, which is not installed; say: pip install "{requirement}"'
    if not wanted.specifier.contains(installed, prereleases=True):
        return f'the recipe requires {requirement}, but {installed} is installed; say: pip install "{requirement}"'
    return None


def _fault_text(key: Key, fault: ErrorDetails, settings: type[Settings], owner: str, see: str | None) -> str:
    path = ".".join(map(str, fault["loc"]))
    names = list(settings.model_fields)
    if fault["type"] == "extra_forbidden":
        text = f'{_header(key)} has no key "{path}"{did_you_mean(path, names)}'
        text += f"\n  {owner} takes: {', '.join(names) or 'no settings'}"
        return text + (f"\n  see: {see}" if see else "")
    if fault["type"] == "missing":
        return f'{_header(key)} needs the key "{path}"'
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{_header(key)} {path} = {_shown(fault['input'])}: {reason[0].lower()}{reason[1:]}"


def _header(key: Key) -> str:
    """`[optimizer.discriminator]`, `[[metric]]`."""
    names = ".".join(part for part in key if isinstance(part, str))
    return f"[[{names}]]" if any(isinstance(part, int) for part in key) else f"[{names}]"


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)


def _slots_text(slots: Mapping[str, Any], name: str) -> str:
    return did_you_mean(name, slots) or f"; its slots are {', '.join(slots)}"


def _same_use(shared: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    return bool(own.get("use", shared.get("use", "adam")) == shared.get("use", "adam"))
