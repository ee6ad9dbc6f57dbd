"""The model card: README.md, with metadata in the form that model hubs read.

Whatever the template shows is escaped as Markdown, unless it is Markdown already.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import takewhile
from math import isfinite
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ganrun import Markdown, markdown_block, markdown_code, markdown_text, yaml_scalar

TEMPLATE = "card.md.jinja"


def card(facts: Mapping[str, Any], recipe: str, files: Collection[str]) -> str:
    """The card's text, in Markdown.

    Args:
        facts: The content of config.json.
        recipe: The text of the run's recipe.
        files: The names of the other files in the folder.
    """
    facts = {**facts, **_with_short_names(facts)}
    shape, factors = facts["problem"]["sample_shape"], facts["factors"]
    comment, tables = _split_recipe(recipe)
    template, networks, sampling = _jinja().get_template(TEMPLATE), facts["networks"], facts["sampling"]
    return template.render(
        **facts,
        recipe=markdown_block(tables, "toml"),
        comment=comment,
        files=files,
        is_image=len(shape) == 3,
        noun="images" if len(shape) == 3 else "samples",
        shape="×".join(map(str, shape)) if len(shape) > 1 else f"{shape[0]} numbers each",
        batch_shape=(64, *shape),
        parts=_listed(f"{markdown_text(slot)} {markdown_code(each['use'])}" for slot, each in networks.items()),
        packages=", ".join(sorted(set(facts["plugins"].values()))),
        tags=_tags(facts),
        results=_results(facts),
        latents=list(_latent_rows(factors, facts["problem"]["class_names"])),
        factor_names=[factor["name"] for factor in factors],
        given=list(_given(facts)),
        how=", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in sampling.items()),
        changed=markdown_code(f"model.with_sampling({', '.join(f'{name}=…' for name in sampling)})"),
        number=lambda value: f"{value:.4g}",
    )


@cache
def _jinja() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markdown) else markdown_text(str(value)),
    )
    environment.filters |= {"code": markdown_code, "yaml": yaml_scalar}
    return environment


def _listed(parts: Iterable[str]) -> Markdown:
    """Pieces of Markdown, with commas between them."""
    return Markdown(", ".join(parts))


def _with_short_names(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Data, loss and networks by their unqualified names, as tags for hubs; the list of packages records their
    plugins."""
    networks = {slot: _short(table) for slot, table in facts["networks"].items()}
    return {"data": _short(facts["data"]), "loss": _short(facts["loss"]), "networks": networks}


def _short(table: Mapping[str, Any]) -> dict[str, Any]:
    return {**table, "use": str(table["use"]).rpartition(":")[2]}


def _split_recipe(recipe: str) -> tuple[Markdown, str]:
    """The comment at the head of the recipe, as a Markdown quotation; and its tables."""
    lines = recipe.split("\n")
    comment = list(takewhile(lambda line: line.startswith("#"), lines))
    quotation = "\n".join(f"> {markdown_text(line.removeprefix('#'))}".rstrip() for line in comment)
    return Markdown(quotation), "\n".join(lines[len(comment) :]).strip()


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
            name = Markdown(repr(factor["name"]))  # in code of Python
            yield {"name": name, "start": start, "stop": stop, "batch_shape": shape}
        start = stop


MEANINGS = {
    "categorical": "one-hot",
    "continuous": "each in (-1, 1)",
    "noise": "noise",
    "given": "your own, flattened, in [-1, 1]",
}
"""Of the kinds of factors."""


def _latent_rows(factors: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Iterator[tuple[str, Markdown]]:
    """Each factor's place in a latent vector, and its meaning."""
    start = 0
    for factor in factors:
        last = start + factor["size"] - 1
        name = "" if factor["name"] == "noise" else f"{factor['name']}, "
        classes = f": {_listed(map(markdown_code, class_names))}" if factor["name"] == "class" and class_names else ""
        yield f"{start} to {last}", Markdown(f"{markdown_text(name + MEANINGS[factor['kind']])}{classes}")
        start = last + 1
