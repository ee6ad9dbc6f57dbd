"""The model card has the same structure for any names, classes, scores and recipe of a run."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings, strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ganrun import one_line, printable
from ganrun_export.card import card

TEXTS = st.text(max_size=30) | st.text("`|\\*_[]()<>&#~!:-+=.1 \t\n\rwx$\"'/\x00\x1b\x85\u2028\u202e\ud800", max_size=9)
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
SCORE = {"value": 1e-5, "better": "lower", "error": 0.5, "floor": None}

NAMES = (
    "name", "package", "loss", "slot", "network", "factor", "field", "key", "value", "data", "split",
    "fingerprint", "device", "version", "class", "metric", "other", "setting", "term",
)  # fmt: skip
"""Everything that a card shows and that comes from elsewhere."""


def facts(of: dict[str, str]) -> dict[str, Any]:
    """A config.json in which every name is another one."""
    factors = [
        {"name": "class", "size": 2, "kind": "categorical"},
        {"name": f"f{of['factor']}", "size": 1, "kind": "continuous"},
        {"name": f"g{of['field']}", "size": 16, "kind": "given"},
    ]
    score = {**SCORE, "protocol": {of["key"]: of["value"], "samples": 10}}
    return {
        "name": of["name"],
        "ganrun": of["version"],
        "plugins": {of["package"]: of["package"]},
        "loss": {"use": of["loss"]},
        "networks": {of["slot"]: {"use": of["network"], "averaged": True}},
        "latent_size": 19,
        "factors": factors,
        "device": of["device"],
        "seed": 3,
        "sampling": {of["setting"]: of["term"]},
        "data": {"use": of["data"], "counts": {of["split"]: 9}, "fingerprint": of["fingerprint"]},
        "training": {
            "device": of["device"],
            "python": of["version"],
            "packages": {of["package"]: of["version"]},
            "git": {"commit": of["version"], "dirty": True},
        },
        "scores": {of["metric"]: score, f"b{of['metric']}@{of['other']}": score},
        "step": 1,
        "images_seen": 8,
        "seconds": 2.0,
        "problem": {
            "sample_shape": [1, 4, 4],
            "classes": 2,
            "fields": {f"g{of['field']}": [1, 4, 4]},
            "class_names": [f"c{of['class']}", "dog"],
        },
    }


def tokens_of(page: str) -> list[Token]:
    return PARSER.parse(page.split("---\n", 2)[2])


def blocks(tokens: list[Token]) -> list[tuple[str, str]]:
    return [(token.type, token.tag) for token in tokens]


def headings(tokens: list[Token]) -> list[str]:
    at = [place for place, token in enumerate(tokens) if token.type == "heading_open"]
    return ["".join(each.content for each in tokens[place + 1].children or ()) for place in at]


@settings(deadline=None, max_examples=60)
@given(
    names=st.fixed_dictionaries(dict.fromkeys(NAMES, TEXTS)),
    comment=st.lists(TEXTS.map(lambda text: text.replace("\n", " ")), max_size=4),
    body=TEXTS | st.lists(st.sampled_from(["```", "````toml", "~~~", "# x", "<b>", "a = 1"])).map("\n".join),
)
def test_a_card_has_one_structure_whatever_it_names(names: dict[str, str], comment: list[str], body: str) -> None:
    recipe = "".join(f"#{line}\n" for line in comment) + "\n" + body
    plain = "".join("#x\n" if one_line(line).strip() else "#\n" for line in comment) + "\nx"
    described, files = facts(names), {"samples.png", "encoder.pt2", "generator.onnx"}
    page = card(described, recipe, files)
    tokens = tokens_of(page)
    usual = tokens_of(card(facts(dict.fromkeys(NAMES, "x")), plain, files))
    assert blocks(tokens) == blocks(usual)
    assert headings(tokens) == [one_line(names["name"]).strip(), *headings(usual)[1:]]
    pieces = {each.type for token in tokens for each in token.children or ()}
    assert pieces <= {"text", "text_special", "code_inline", "softbreak", "image"}
    assert [token.content for token in tokens if token.info == "toml"] == [printable(body.strip()).strip("\n") + "\n"]
    for token in tokens:
        if token.info == "python":
            compile(token.content, "card", "exec")
    assert_metadata(yaml.safe_load(page.split("---\n", 2)[1]), names)


def assert_metadata(metadata: dict[str, Any], names: dict[str, str]) -> None:
    """The front matter equals the data."""
    short = [names[each].rpartition(":")[2] for each in ("loss", "network")]
    assert metadata["tags"] == list(dict.fromkeys([*short, "class-conditional"]))
    (model,) = metadata["model-index"]
    assert model["name"] == names["name"]
    found = {
        (result["dataset"]["name"], metric["type"]): metric["value"]
        for result in model["results"]
        for metric in result["metrics"]
    }
    assert len(found) == 2 and set(found.values()) == {SCORE["value"]}
    metric, _, other = names["metric"].partition("@")
    assert (other or names["data"].rpartition(":")[2], metric) in found


def test_lists_in_a_card_read_as_sentences() -> None:
    told = facts({name: name for name in NAMES})
    told["data"]["counts"]["test"] = 4
    page = card(told, "", ("samples.png",))
    assert ": 9 split, 4 test; fingerprint" in page
    assert "bmetric\\@other: key value, samples 10.\n" in page
