"""The labels of a run in MLflow: parameters, tags, description and data set, as plain data."""

from __future__ import annotations

import getpass
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ganrun import encodable, json_text, without_secrets

if TYPE_CHECKING:
    from ganrun import Run, Score

KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH, PARAMS_PER_CALL = 250, 6000, 5000, 100
"""MLflow's limits; 5000 is the limit of older servers."""

ALWAYS = {"train": ("steps", "batch_size", "seed", "precision"), "optimizer": ("use", "lr")}
"""Settings that are shown even at their defaults; others are shown only if the recipe changes them."""

HIDDEN = ("device", "log_every_steps", "evaluate_every_steps", "limit_seconds")
"""Settings that do not affect what is learned."""

SHOWN_ELSEWHERE = ("name", "status", "device")
"""Texts of a summary.json that an MLflow run already has under another name, or as a label from its start."""

PICTURE_LENGTH = 120
"""For a picture's key: MLflow puts it into a file name, to which it adds 100 characters."""

PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
"""A key that needs no quotes in TOML."""


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────


def key_text(name: str, most: int = KEY_LENGTH) -> str:
    """A name as a key of MLflow, for metrics, parameters, tags and pictures. Different names have different keys.

    Letters, digits, `_ - . /` and spaces are unchanged. Anything else is `_-<hexadecimal code>-`, such as `_-3b1-`
    for α; so is a `_` before a `-`, a space at the end of a part, and the first dot of a part that is `.` or begins
    with `..`, which mean folders. `_--` is an empty part. A key longer than `most` ends in `_-x` and a hash of the
    name instead. The mapping is not idempotent: the key of a key is a different key.

    The result is ASCII, so a store that normalises Unicode changes nothing. Case is kept: in a store that ignores it,
    as MySQL does by default, names that differ only in case share a curve there, but not in metrics.jsonl.
    """
    key = "/".join(_part_text(part) for part in name.split("/"))
    return key if len(key) <= most else f"{key[: most - 35]}_-x{_digest(name)}"


def _part_text(part: str) -> str:
    escaped = re.sub(r"[^A-Za-z0-9_\-. ]|_(?=-)| \Z|^\.(?=\.|\Z)", lambda found: f"_-{ord(found[0]):x}-", part)
    return escaped or "_--"


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


# ── Parameters ────────────────────────────────────────────────────────────────────────────────────────────


def params_of(run: Run) -> dict[str, str]:
    """The settings that distinguish runs; the whole recipe is an artifact.

    All settings of the loss are shown; others are left out at their defaults, because MLflow prints every parameter
    above every picture. Tables of observers are left out, because they do not affect what is learned.
    """
    recipe = run.recipe
    networks = {name: _notable(_plain(each), each.settings) for name, each in recipe.networks.items()}
    extra = {} if recipe.augmentation is None else {"augmentation": _plain(recipe.augmentation)}
    chosen = {
        "train": _notable(recipe.tables()["train"], recipe.train, ALWAYS["train"]),
        "stage": recipe.tables().get("stage", {}),
        "loss": _plain(recipe.loss),
        **networks,
        "data": _notable(_plain(recipe.data), recipe.data.settings),
        **extra,
        "regularizer": {str(number): _plain(each) for number, each in enumerate(recipe.regularizers)},
        "optimizer": _shared({slot: _optimizer(each) for slot, each in recipe.optimizers.items()}),
        "ema": recipe.tables()["ema"],
        "sampling": recipe.resolved().get("sampling", {}),
        "metric": ", ".join(each.use for each in recipe.metrics),
    }
    flat = {key_text(key): _text(value)[:PARAM_LENGTH] for key, value in _flatten(chosen)}
    return {key: value for key, value in flat.items() if value}


def _plain(config: Any) -> dict[str, Any]:
    """A component's table with names that do not change when another plugin is installed, since MLflow never changes a
    parameter; the tag `plugins` records which plugins provide them."""
    parts = {name: _part(part) for name, part in config.parts.items()}
    return {**config.table(), "use": config.use, **parts}


def _part(config: Any) -> Any:
    table = _plain(config)
    return config.use if table.keys() == {"use"} else table


def _notable(table: Mapping[str, Any], settings: Any, always: tuple[str, ...] = ("use", "from")) -> dict[str, Any]:
    """The entries of a table that are named in `always` or differ from their defaults."""
    changed = settings.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {name: each for name, each in table.items() if name in always or (name in changed and name not in HIDDEN)}


def _optimizer(config: Any) -> dict[str, Any]:
    table = _notable(_plain(config), config.settings, ALWAYS["optimizer"])
    default = type(config.settings).model_fields["schedule"].get_default()
    return {name: each for name, each in table.items() if name != "schedule" or each != default}


def _shared(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that all tables share, then the others of each table under its name."""
    first = next(iter(tables.values()), {})
    common = {key: value for key, value in first.items() if all(each.get(key) == value for each in tables.values())}
    own = {name: {key: value for key, value in table.items() if key not in common} for name, table in tables.items()}
    return {**common, **own}


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted keys, as TOML writes them: a key that has a dot is in quotes."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            key = name if PLAIN_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
            yield from _flatten(each, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


# ── Tags ──────────────────────────────────────────────────────────────────────────────────────────────────


def tags_of(run: Run) -> dict[str, str]:
    """The origin of the run: code, machine, plugins and data. Names with `mlflow.` fill columns of MLflow's table."""
    environment = run.environment
    git = environment["git"] or {}
    tags = {
        "mlflow.source.name": run.recipe.source.path.name,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.user": _user(),
        "git.commit": git.get("commit"),
        "git.dirty": None if git.get("dirty") is None else str(git["dirty"]).lower(),
        "plugins": ", ".join(sorted(set(environment["plugins"].values()))),
        "ganrun": environment["packages"].get("ganrun"),
        "torch": environment["packages"].get("torch"),
        "device": environment["device_name"],
        "host": environment["host"],
        "data_fingerprint": environment["data_fingerprint"],
        "run_directory": str(run.directory.path),
        "replicates": run.group,
    }
    return tags_from({key: value for key, value in tags.items() if value})


def tags_from(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags in the form that MLflow accepts."""
    return {key_text(key): encodable(value)[:TAG_LENGTH] for key, value in tags.items()}


def texts_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a summary.json as tags: why the run failed or stopped, and texts that observers have added, such as
    its health; without those that MLflow shows elsewhere."""
    texts = {name: text for name, text in summary.items() if isinstance(text, str) and name not in SHOWN_ELSEWHERE}
    return tags_from({name: without_secrets(text) for name, text in texts.items()})


def score_tags(score: Score) -> dict[str, str]:
    """How a score was measured, because scores of different protocols must not be ranked together; and its floor."""
    protocol = json_text(score.protocol, sort_keys=True)
    tags = {key_text(f"protocol/{score.name}"): protocol[:TAG_LENGTH]}
    if score.floor is not None:
        tags[key_text(f"floor/{score.name}")] = f"{score.floor:.4g}"
    return tags


def description_of(text: str) -> str:
    """The comment at the start of a recipe, without directives for editors; empty if there is none."""
    lines = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if not line.startswith("#:"):
            lines.append(line.lstrip("# ").rstrip())
    return "\n".join(lines).strip()[:TAG_LENGTH]


def _user() -> str | None:
    """The account's name; None if it has none, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None


# ── Data set ──────────────────────────────────────────────────────────────────────────────────────────────


def dataset_of(run: Run) -> dict[str, str]:
    """The entry of MLflow's Dataset column: name, fingerprint and shape, without the data itself."""
    images = run.data.split("train").images
    profile = {"images": len(images), "shape": list(images.shape[1:]), "classes": run.model.spec.classes}
    return {
        "name": run.recipe.data.use,
        "digest": str(run.environment["data_fingerprint"])[:36],
        "source_type": "local",
        "source": json_text(run.recipe.data.table()),
        "profile": json_text(profile),
    }
