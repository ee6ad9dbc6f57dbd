"""The tables of a recipe that name several components: networks, optimisers, regularisers, metrics, observers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ganrun.base.suggestions import did_you_mean
from ganrun.contracts.markers import PROJECT
from ganrun.contracts.settings import setting_names
from ganrun.contracts.slots import Slot
from ganrun.recipe.components import ComponentReader
from ganrun.recipe.faults import shown
from ganrun.recipe.lines import Key
from ganrun.recipe.recipe import DEFAULT_OPTIMIZER, ComponentConfig
from ganrun.recipe.source import header

log = logging.getLogger("ganrun")

Slots = Mapping[str, Slot]


def read_slots(reader: ComponentReader) -> Slots | None:
    """The slots of the recipe's loss, even if its settings have faults; None if there is no such loss."""
    loss = reader.found.get(("loss",))
    slots: Slots | None = None if loss is None else loss.cls.slots
    return slots


def read_networks(reader: ComponentReader, slots: Slots) -> dict[str, ComponentConfig]:
    """The network of each slot."""
    found = {name: reader.network((name,), slot.kind) for name, slot in slots.items()}
    return {name: config for name, config in found.items() if config is not None}


def read_optimizers(reader: ComponentReader, slots: Slots | None) -> dict[str, ComponentConfig]:
    """One for each slot that is trained: `[optimizer]`, overlaid with the slot's own table where both use the same
    one."""
    trained = None if slots is None else [name for name, slot in slots.items() if not slot.frozen]
    table = reader.tables.table(("optimizer",)) or {}
    named = reader.named("optimizer", table.get("use", DEFAULT_OPTIMIZER), (PROJECT,))
    settings = setting_names(named.cls.Settings) if named else ()
    own = {name: value for name, value in table.items() if isinstance(value, dict) and name not in settings}
    shared = {name: value for name, value in table.items() if name not in own}
    is_used = bool(shared) or any(slot not in own for slot in trained or ())
    common = _optimizer(reader, ("optimizer",), shared) if is_used else None
    found: dict[str, ComponentConfig | None] = dict.fromkeys(trained or (), common)
    inherited = _inherited(shared, common)
    for name, overlay in own.items():
        if slots is not None and name not in slots:
            add_unknown_slot(reader, ("optimizer", name), slots, name)
        elif trained is not None and name not in trained:
            text = f"the loss {reader.found['loss',].name} has a frozen {name}, which no optimizer trains"
            reader.tables.fault(("optimizer", name), f"{text}; leave this table out")
        elif is_used and _same_use(reader, shared, overlay):
            found[name] = _optimizer(reader, ("optimizer", name), {**inherited, **overlay}, overlay)
        else:
            found[name] = _optimizer(reader, ("optimizer", name), overlay)
    if common is not None and trained and all(slot in own for slot in trained):
        _check_shared(reader, shared, {slot: own[slot] for slot in trained})
    return {slot: config for slot, config in found.items() if config is not None}


def _check_shared(reader: ComponentReader, shared: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]) -> None:
    """Report settings of `[optimizer]` that no slot uses, because each has a table that overrides them: from `--set` as
    a fault, since it would be ignored, and in the recipe as a warning."""
    takers = [slot for slot, table in own.items() if _same_use(reader, shared, table)]
    for name in shared:
        is_used = any(name not in own[slot] for slot in (own if name == "use" else takers))
        if is_used:
            continue
        key, slots = ("optimizer", name), " and ".join(f"[optimizer.{slot}]" for slot in own)
        text = f"[optimizer] {name} has no effect, since {slots} {'say' if len(own) > 1 else 'says'} otherwise"
        if key in reader.tables.source.overrides:
            reader.tables.fault(key, f"{text}; say --set optimizer.{next(iter(own))}.{name}=…")
        else:
            log.warning("%s: %s", reader.tables.source.where(key), text)


def _optimizer(
    reader: ComponentReader, key: Key, table: Mapping[str, Any], written: Mapping[str, Any] | None = None
) -> ComponentConfig | None:
    usual = () if "use" in table else (PROJECT,)
    return reader.from_table(key, "optimizer", {"use": DEFAULT_OPTIMIZER, **table}, written, usual)


def _inherited(shared: Mapping[str, Any], common: ComponentConfig | None) -> Mapping[str, Any]:
    """The part of `[optimizer]` that slots inherit, without settings that `--set optimizer.use=…` has dropped."""
    if common is None:
        return shared
    return {name: value for name, value in shared.items() if name == "use" or name in common.settings.model_fields_set}


def _same_use(reader: ComponentReader, shared: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    common = shared.get("use", DEFAULT_OPTIMIZER)
    use = own.get("use", common)
    if use == common:
        return True
    found = reader.named("optimizer", use)
    return found is not None and found == reader.named("optimizer", common, (PROJECT,))


def read_augmentation(reader: ComponentReader, slots: Slots | None) -> ComponentConfig | None:
    """The augmentation, if the recipe has one and the loss has a slot for it."""
    if "augmentation" not in reader.tables.content:
        return None
    if slots and not any(slot.augmented for slot in slots.values()):
        text = f"the loss {reader.found['loss',].name} has no network that sees both real and generated images"
        reader.tables.fault(("augmentation",), f"{text}, so [augmentation] has no place in its recipes")
    return reader.read(("augmentation",), "augmentation")


def read_regularizers(reader: ComponentReader, slots: Slots | None) -> tuple[ComponentConfig, ...]:
    """The regularisers, each for a slot of the loss."""
    named = [reader.read(key, "regularizer") for key in reader.tables.entries("regularizer")]
    found = [config for config in named if config is not None]
    for config in found:
        slot = getattr(config.settings, "slot", "")
        if slots and slot not in slots:
            add_unknown_slot(reader, (*config.key, "slot"), slots, slot)
    return tuple(found)


def read_metrics(reader: ComponentReader) -> tuple[ComponentConfig, ...]:
    """The metrics; no two whose scores would have the same names."""
    named = [reader.read(key, "metric") for key in reader.tables.entries("metric")]
    found = [config for config in named if config is not None]
    for place, config in enumerate(found):
        if any(config.is_like(other) for other in found[:place]):
            on = "".join(f" on {part.use}" for part in config.parts.values())
            text = f"{config.use}{on} again, and its scores would have the same names"
            reader.tables.fault(config.key, f"{header(config.key)} is {text}")
    return tuple(found)


def read_observers(reader: ComponentReader, slots: Slots) -> tuple[dict[str, ComponentConfig], tuple[str, ...]]:
    """Those that take part, by name; and the automatic ones that the recipe turned off.

    A table that is a slot of the loss does not belong to an observer: an observer of that name is left out.
    """
    found: dict[str, ComponentConfig] = {}
    silenced = []
    for name in reader.registry.names("observer"):
        if name in slots:
            log.warning('the observer "%s" is left out, because the loss has a slot of that name', name)
            continue
        wanted = reader.tables.content.get(name)
        if wanted is False:
            silenced.append(name)
        elif wanted is not None or reader.registry.is_automatic(name):
            config = _observer(reader, name)
            if config:
                found[name] = config
    return found, tuple(silenced)


def _observer(reader: ComponentReader, name: str) -> ComponentConfig | None:
    """The observer of that name; `use = "plugin:name"` in its table picks one of several."""
    table = {} if reader.tables.content.get(name) is True else reader.tables.table((name,))
    if table is None:
        return None
    use = table.get("use", name)
    if not isinstance(use, str) or use.rpartition(":")[2] != name:
        text = f'[{name}] use = {shown(use)}: it can only say which plugin\'s "{name}" is meant'
        reader.tables.fault((name, "use"), text)
        return None
    usual = () if "use" in table else (PROJECT,)
    return reader.from_table((name,), "observer", {**table, "use": use}, preferred=usual)


def add_unknown_slot(reader: ComponentReader, key: Key, slots: Slots, name: str) -> None:
    """Report a slot that the recipe's loss does not have."""
    hint = did_you_mean(name, slots) or f"; its slots are {', '.join(slots)}"
    reader.tables.fault(key, f'the loss {reader.found["loss",].name} has no slot "{name}"{hint}')
