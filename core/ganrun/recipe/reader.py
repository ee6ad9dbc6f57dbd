"""From a recipe's text to a validated recipe, or to every fault of it at once."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ganrun.base.errors import PluginError, RecipeError
from ganrun.base.suggestions import did_you_mean
from ganrun.contracts.metrics import FeatureMetric
from ganrun.contracts.optimizers import OPTIMIZERS, OptimizerSettings
from ganrun.contracts.settings import Settings, parse_settings
from ganrun.discovery.registry import RegisteredComponent, Registry
from ganrun.recipe.recipe import ComponentConfig, EmaSettings, EvaluationConfig, ModelConfig, Recipe, TrainSettings
from ganrun.recipe.source import Key, Source, header, laid_over, read_source

log = logging.getLogger("ganrun")

S = TypeVar("S", bound=Settings)
Slots = Mapping[str, Any]
"""A loss's slots by name."""

ENGINE_KEYS = ("name", "requires", "train", "ema", "data", "loss", "optimizer", "metric")


def load_recipe(path: Path, registry: Registry, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, lay the overrides over it, and validate it against the installed components.

    Raises:
        RequestError: if the file cannot be read.
        RecipeError: with every fault, each with its place.
    """
    return _Reader(read_source(path, overrides), registry).recipe()


def choose(kind: str, use: str, registry: Registry, overrides: Sequence[str] = ()) -> ComponentConfig:
    """A component by itself, outside any recipe; each override is `setting=value`.

    Raises:
        RequestError: if there is no such component, or an override is malformed.
        RecipeError: with every fault of its settings.
    """
    registry.find(kind, use)
    source = laid_over({kind: {"use": use}}, [f"{kind}.{each}" for each in overrides], Path(f"{kind} {use}"))
    typed = {place: override.removeprefix(f"{kind}.") for place, override in source.overrides.items()}
    reader = _Reader(dataclasses.replace(source, overrides=typed), registry)
    choice = reader.component((kind,), kind)
    if choice is None:
        raise RecipeError(reader.problems)
    return choice


def load_evaluation_config(against: str, registry: Registry, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """The data and metrics of a recipe's file, or of overrides over a data set's defaults.

    Args:
        against: `fashion-mnist`, or the path of a recipe.
        registry: The installed components.
        overrides: `data.size=32`, `metric.0.samples=500`.

    Raises:
        RequestError: if there is no such file or data set, or an override is malformed.
        RecipeError: with every fault of these tables.
    """
    if against.endswith(".toml"):
        source = read_source(Path(against), overrides)
    else:
        registry.find("data", against)
        source = laid_over({"data": {"use": against}}, overrides, Path(f"data {against}"))
    reader = _Reader(source, registry)
    data, metrics = reader.component(("data",), "data"), reader.metrics()
    if reader.problems or data is None:
        raise RecipeError(reader.problems)
    return EvaluationConfig(source=source, data=data, metrics=metrics)


def load_model_config(path: Path, registry: Registry) -> ModelConfig:
    """The loss and the networks of a recipe; the rest of it may name what is not installed here.

    Raises:
        RequestError: if the file cannot be read.
        RecipeError: with every fault of these tables.
    """
    reader = _Reader(read_source(path), registry)
    loss = reader.component(("loss",), "loss")
    networks = reader.networks(reader.slots() or {})
    if reader.problems or loss is None:
        raise RecipeError(reader.problems)
    return ModelConfig(source=reader.source, loss=loss, networks=networks)


class _Reader:
    """Reads one recipe; collects problems instead of stopping at the first."""

    def __init__(self, source: Source, registry: Registry) -> None:
        self.source = source
        self.tables = source.tables
        self.registry = registry
        self.registered: dict[Key, RegisteredComponent] = {}
        """The components that tables name, by table."""
        self.problems: list[str] = []

    def recipe(self) -> Recipe:
        name = self.text("name", self.source.path.stem)
        requires = self.requirements()
        train = self.settings(("train",), TrainSettings, "the engine")
        ema = None if self.tables.get("ema") is False else self.settings(("ema",), EmaSettings, "the engine")
        data, loss = self.component(("data",), "data"), self.component(("loss",), "loss")
        slots = self.slots()
        networks = self.networks(slots or {})
        optimizers = self.optimizers(slots)
        metrics = self.metrics()
        observers, silenced = self.observers()
        self.unknown_tables(slots)
        if train and train.batch_size % train.accumulate:
            text = f"accumulate = {train.accumulate} does not divide batch_size = {train.batch_size}"
            self.problem(("train", "accumulate"), text)
        if self.problems or train is None or data is None or loss is None:
            raise RecipeError(self.problems)
        return Recipe(
            source=self.source,
            name=name,
            requires=requires,
            train=train,
            ema=ema,
            data=data,
            loss=loss,
            networks=networks,
            optimizers=optimizers,
            metrics=metrics,
            observers=observers,
            silenced=silenced,
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
        for index, text in enumerate(wanted):
            fault = unmet(text)
            if fault:
                self.problem(("requires", index), fault)
        return tuple(wanted)

    def optimizers(self, slots: Slots | None) -> dict[str, tuple[str, OptimizerSettings]]:
        """One for each slot: `[optimizer]`, overlaid with the slot's own table where both use the same one."""
        table = self.table(("optimizer",)) or {}
        own = {name: value for name, value in table.items() if isinstance(value, dict)}
        shared = {name: value for name, value in table.items() if name not in own}
        common = self.optimizer(("optimizer",), shared, shared)
        found: dict[str, tuple[str, OptimizerSettings] | None] = dict.fromkeys(slots or (), common)
        for name, overlay in own.items():
            if slots is not None and name not in slots:
                self.no_slot(("optimizer", name), slots)
                continue
            merged = {**shared, **overlay} if _same_use(shared, overlay) else overlay
            found[name] = self.optimizer(("optimizer", name), merged, overlay)
        return {slot: each for slot, each in found.items() if each is not None}

    def optimizer(
        self, key: Key, table: Mapping[str, Any], written: Mapping[str, Any]
    ) -> tuple[str, OptimizerSettings] | None:
        """The optimiser of a table. Only what is `written` there is told as a problem: the rest is told elsewhere."""
        use = table.get("use", "adam")
        if not isinstance(use, str) or use not in OPTIMIZERS:
            if "use" in written:
                known = ", ".join(OPTIMIZERS)
                hint = did_you_mean(use, OPTIMIZERS) if isinstance(use, str) else ""
                self.problem((*key, "use"), f"no optimizer is called {_shown(use)}{hint}; there are {known}")
            return None
        rest = {name: value for name, value in table.items() if name != "use"}
        settings = self.parse(key, OPTIMIZERS[use], rest, use, f"ganrun show optimizer {use}", only=written)
        return None if settings is None else (use, settings)

    # ── Components ────────────────────────────────────────────────────────────────────────────────────

    def component(self, key: Key, kind: str) -> ComponentConfig | None:
        """The component that a table names by `use`."""
        table = self.table(key, required=True)
        if table is None:
            return None
        use = table.get("use")
        if not isinstance(use, str):
            what = "data set" if kind == "data" else kind
            self.problem((*key, "use"), f'{header(key)} needs use = "…", the name of a {what}; see: ganrun list {kind}')
            return None
        return self.choice(key, kind, use, table)

    def choice(self, key: Key, kind: str, use: str, table: Mapping[str, Any]) -> ComponentConfig | None:
        try:
            registered = self.registered[key] = self.registry.find(kind, use)
        except PluginError as error:
            self.problem((*key, "use"), error.message)
            return None
        rest = {name: value for name, value in table.items() if name != "use"}
        if (*key, "use") in self.source.overrides:
            rest = self.fitting(key, registered, rest)
        settings = self.parse(key, registered.cls.Settings, rest, str(registered), f"ganrun show {kind} {use}")
        return None if settings is None else ComponentConfig(registered, use, settings, key)

    def fitting(self, key: Key, registered: RegisteredComponent, table: Mapping[str, Any]) -> dict[str, Any]:
        """What a component that `--set` put in another's place can take of the other's settings."""
        try:
            parse_settings(registered.cls.Settings, table)
            unfit = set()
        except ValidationError as error:
            unfit = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
        dropped = [name for name in table if name in unfit and (*key, name) not in self.source.overrides]
        if dropped:
            log.warning("%s is now %s, which leaves out %s", header(key), registered, ", ".join(dropped))
        return {name: value for name, value in table.items() if name not in dropped}

    def slots(self) -> Slots | None:
        """The slots of the recipe's loss, even where its settings are at fault; None where there is no such loss."""
        registered = self.registered.get(("loss",))
        return None if registered is None else registered.cls.slots

    def networks(self, slots: Slots) -> dict[str, ComponentConfig]:
        found = {slot: self.component((slot,), each.kind) for slot, each in slots.items()}
        return {slot: choice for slot, choice in found.items() if choice is not None}

    def metrics(self) -> tuple[ComponentConfig, ...]:
        entries = self.tables.get("metric", [])
        if not isinstance(entries, list):
            self.problem(
                ("metric",), "metrics are written as [[metric]], with two brackets, since there may be several"
            )
            return ()
        named = [self.component(("metric", index), "metric") for index in range(len(entries))]
        found = [self.with_features(choice) for choice in named if choice is not None]
        for place, choice in enumerate(found):
            if any(_are_alike(choice, other) for other in found[:place]):
                on = f" on {choice.features.use}" if choice.features else ""
                text = f"{choice.use}{on} once more, and its scores would have the same names"
                self.problem(choice.key, f"{header(choice.key)} is {text}")
        return tuple(found)

    def with_features(self, metric: ComponentConfig) -> ComponentConfig:
        """The metric, and where it is one on features, the extractor that it names."""
        if not issubclass(metric.registered.cls, FeatureMetric):
            return metric
        key, wanted = (*metric.key, "features"), dict(metric.settings)["features"]
        table = {"use": wanted} if isinstance(wanted, str) else wanted
        use = table.get("use")
        if not isinstance(use, str):
            self.problem(key, f'{header(key)} needs use = "…", the name of an extractor; see: ganrun list extractor')
            return metric
        return dataclasses.replace(metric, features=self.choice(key, "extractor", use, table))

    def observers(self) -> tuple[dict[str, ComponentConfig], tuple[str, ...]]:
        found: dict[str, ComponentConfig] = {}
        silenced = []
        for name in self.registry.names("observer"):
            wanted = self.tables.get(name)
            if wanted is False:
                silenced.append(name)
            elif wanted is not None or self.registry.is_automatic(name):
                choice = self.observer(name)
                if choice:
                    found[name] = choice
        return found, tuple(silenced)

    def observer(self, name: str) -> ComponentConfig | None:
        """The observer of that name; `use = "plugin:name"` in its table picks one of several."""
        table = {} if self.tables.get(name) is True else self.table((name,))
        if table is None:
            return None
        use = table.get("use", name)
        if not isinstance(use, str) or use.rpartition(":")[2] != name:
            self.problem(
                (name, "use"), f'[{name}] use = {_shown(use)}: it can only say which plugin\'s "{name}" is meant'
            )
            return None
        return self.choice((name,), "observer", use, table)

    def unknown_tables(self, slots: Slots | None) -> None:
        known = [*ENGINE_KEYS, *(slots or ()), *self.registry.names("observer")]
        blocked = {plugin.name for plugin in self.registry.plugins.found if plugin.blocked}
        for name, value in self.tables.items():
            if name in known or name in blocked or (slots is None and isinstance(value, dict)):
                continue
            if slots and isinstance(value, dict) and "use" in value:
                self.no_slot((name,), slots)
            else:
                what = "table" if isinstance(value, dict | list) else "key"
                hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
                broken = "".join(f"\n  plugin {name} is broken: {why}" for name, why in self.registry.broken().items())
                self.problem((name,), f'a recipe has no {what} "{name}"{hint}{broken}')

    # ── Helpers ───────────────────────────────────────────────────────────────────────────────────────

    def settings(self, key: Key, settings: type[S], owner: str) -> S | None:
        table = self.table(key, required=settings is TrainSettings)
        return None if table is None else self.parse(key, settings, table, owner, f"ganrun show {key[0]}")

    def table(self, key: Key, required: bool = False) -> dict[str, Any] | None:
        """The table at `key`; None, with a problem noted, where it is no table or is required and absent."""
        value: Any = self.tables
        for part in key:
            if isinstance(part, str) and part not in value:
                if required:
                    self.problem((), f"the table [{part}] is missing")
                return None if required else {}
            value = value[part]
        if not isinstance(value, dict):
            self.problem(key, f"{header(key)} must be a table, not {_shown(value)}")
            return None
        return value

    def parse(
        self,
        key: Key,
        settings: type[S],
        table: Mapping[str, Any],
        owner: str,
        see: str,
        only: Mapping[str, Any] | None = None,
    ) -> S | None:
        """Settings from a table; None, with the problems noted, where it has faults. `only` limits what is noted."""
        try:
            return parse_settings(settings, table)
        except ValidationError as error:
            for place, faults in _by_place(error, table).items():
                if only is None or not place or place[0] in only:
                    self.problem((*key, *place), _fault_text(key, place, faults, settings, owner, see))
            return None

    def no_slot(self, key: Key, slots: Slots) -> None:
        name = str(key[-1])
        hint = did_you_mean(name, slots) or f"; its slots are {', '.join(slots)}"
        self.problem(key, f'the loss {self.registered["loss",].name} has no slot "{name}"{hint}')

    def problem(self, key: Key, text: str) -> None:
        self.problems.append(f"{self.source.where(key)}: {text}")


def unmet(requirement: str) -> str | None:
    """Why an entry of `requires` is not met by the installed packages, or None if it is."""
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement as error:
        return f'"{requirement}" is no requirement such as "ganrun-stylegan>=0.3": {str(error).splitlines()[0]}'
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        return f'the recipe requires {requirement}, which is not installed; say: pip install "{requirement}"'
    if not wanted.specifier.contains(installed, prereleases=True):
        return f'the recipe requires {requirement}, but {installed} is installed; say: pip install "{requirement}"'
    return None


def _are_alike(first: ComponentConfig, second: ComponentConfig) -> bool:
    """Whether two metrics are the same, on the same extractor if on any."""
    features = [each.features and each.features.registered for each in (first, second)]
    return first.registered == second.registered and features[0] == features[1]


def _by_place(error: ValidationError, table: Mapping[str, Any]) -> dict[Key, list[ErrorDetails]]:
    """The faults by their place in the table: each member of a union adds one, with its own name at the end."""
    found: dict[Key, list[ErrorDetails]] = {}
    for fault in error.errors():
        place = fault["loc"] if fault["type"] == "missing" else _within(table, fault["loc"])
        found.setdefault(place, []).append(fault)
    return found


def _within(table: Any, place: Key) -> Key:
    """As much of `place` as the table has."""
    for depth, part in enumerate(place):
        try:
            table = table[part]
        except (KeyError, IndexError, TypeError):
            return place[:depth]
    return place


def _fault_text(
    key: Key, place: Key, faults: list[ErrorDetails], settings: type[Settings], owner: str, see: str
) -> str:
    path, fault = ".".join(map(str, place)), faults[0]
    names = list(settings.model_fields)
    if fault["type"] == "extra_forbidden":
        hint = did_you_mean(path, names)
        takes = ", ".join(names) or "no settings"
        return f'{header(key)} has no key "{path}"{hint}\n  {owner} takes: {takes}\n  see: {see}'
    if fault["type"] == "missing" and isinstance(place[-1], int):
        return f"{header(key)} {path.rpartition('.')[0]}: the list is too short"
    if fault["type"] == "missing":
        return f'{header(key)} needs the key "{path}"\n  see: {see}'
    reason = ", or ".join(_reason(each) for each in faults)
    return f"{header(key)} {path} = {_shown(fault['input'])}: {reason}" if path else f"{header(key)}: {reason}"


def _reason(fault: ErrorDetails) -> str:
    text = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:]


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _same_use(shared: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    return bool(own.get("use", shared.get("use", "adam")) == shared.get("use", "adam"))
