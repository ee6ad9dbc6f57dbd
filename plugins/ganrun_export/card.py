"""The model card: README.md, with metadata in the form that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from math import isfinite
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

TEMPLATE = "card.md.jinja"


def card(facts: Mapping[str, Any], recipe: str, files: Collection[str]) -> str:
    """The card's text, in Markdown.

    Args:
        facts: The content of config.json.
        recipe: The text of the run's recipe.
        files: The names of the other files in the folder.
    """
    facts = {**facts, **_with_short_names(facts)}
    environment = Environment(
        loader=PackageLoader(__package__, "."), undefined=StrictUndefined, keep_trailing_newline=True
    )
    # YAML does not decode JSON's surrogate pairs, as of an emoji.
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    shape = facts["problem"]["sample_shape"]
    factors = facts["factors"]
    comment, tables = _split_recipe(recipe)
    return environment.get_template(TEMPLATE).render(
        **facts,
        recipe=tables,
        comment=comment,
        files=files,
        is_image=len(shape) == 3,
        noun="images" if len(shape) == 3 else "samples",
        shape="×".join(map(str, shape)) if len(shape) > 1 else f"{shape[0]} numbers each",
        batch_shape=(64, *shape),
        parts=", ".join(f"{slot} `{network['use']}`" for slot, network in facts["networks"].items()),
        packages=", ".join(sorted(set(facts["plugins"].values()))),
        tags=_tags(facts),
        results=_results(facts),
        latents=list(_latent_rows(factors, facts["problem"]["class_names"])),
        factor_names=[factor["name"] for factor in factors],
        given=list(_given(facts)),
        how=", ".join(f"{name} {json.dumps(value)}" for name, value in facts["sampling"].items()),
        changed=", ".join(f"{name}=…" for name in facts["sampling"]),
        number=lambda value: f"{value:.4g}",
    )


def _with_short_names(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Data, loss and networks by their own names, as hubs' tags have them; the list of packages says whose they are."""
    networks = {slot: _short(table) for slot, table in facts["networks"].items()}
    return {"data": _short(facts["data"]), "loss": _short(facts["loss"]), "networks": networks}


def _short(table: Mapping[str, Any]) -> dict[str, Any]:
    return {**table, "use": str(table["use"]).rpartition(":")[2]}


def _split_recipe(recipe: str) -> tuple[str, str]:
    """The comment at the head of the recipe, as a Markdown quotation; and its tables."""
    comment = list(takewhile(lambda line: line.startswith("#"), recipe.splitlines()))
    quotation = "\n".join(f"> {line.removeprefix('#').strip()}".rstrip() for line in comment)
    return quotation, "\n".join(recipe.splitlines()[len(comment) :]).strip()


def _tags(facts: Mapping[str, Any]) -> list[str]:
    is_conditional = any(factor["name"] == "class" for factor in facts["factors"])
    components = [facts["loss"]["use"], *(network["use"] for network in facts["networks"].values())]
    return [*dict.fromkeys(components), *(["class-conditional"] if is_conditional else [])]


def _results(facts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The finite scores, by the data set that they compare with and by name."""
    found: dict[str, dict[str, float]] = {}
    for name, score in facts["scores"].items():
        metric, _, other = name.partition("@")
        if isfinite(score["value"]):
            found.setdefault(other or facts["data"]["use"], {})[metric] = score["value"]
    return found


def _given(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a latent vector that are the user's own records: name, place and shape of 64."""
    start = 0
    for factor in facts["factors"]:
        stop = start + factor["size"]
        if factor["kind"] == "given":
            shape = (64, *facts["problem"]["fields"][factor["name"]])
            yield {"name": factor["name"], "start": start, "stop": stop, "batch_shape": shape}
        start = stop


def _latent_rows(factors: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each factor's place in a latent vector, and its meaning."""
    start = 0
    for factor in factors:
        last = start + factor["size"] - 1
        meaning = {
            "categorical": "one-hot",
            "continuous": "each in (-1, 1)",
            "noise": "noise",
            "given": "your own, flattened, in [-1, 1]",
        }
        classes = f": {', '.join(class_names)}" if factor["name"] == "class" else ""
        name = "" if factor["name"] == "noise" else f"{factor['name']}, "
        yield f"{start} to {last}", f"{name}{meaning[factor['kind']]}{classes}"
        start = last + 1
