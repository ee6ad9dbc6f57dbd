"""Foreign texts: on a terminal, in Markdown and in YAML they remain plain text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import example, given, strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ganrun.base.texts import markdown_block, markdown_code, markdown_text, one_line, printable, yaml_scalar
from ganrun.cli import main

TEXTS = st.text() | st.text("`|\\*_[]()<>&#~!:@-+=.1 \t\n\rwxa$^{}\"'/\x00\x1b\x85\u2028\u202e\ud800", max_size=12)
PARSER = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"])


def parsed(text: str) -> list[Token]:
    return PARSER.parse(text)


def leaves(tokens: list[Token]) -> list[tuple[str, str]]:
    """The pieces of inline tokens, with neighbouring texts joined."""
    found: list[tuple[str, str]] = []
    for token in tokens:
        for each in token.children or ():
            kind = "text" if each.type == "text_special" else each.type
            if found and found[-1][0] == kind == "text":
                found[-1] = ("text", found[-1][1] + each.content)
            elif kind != "text" or each.content:
                found.append((kind, each.content))
    return found


def structure(tokens: list[Token]) -> list[str]:
    return [token.type for token in tokens]


def utf8(text: str) -> bool:
    return text.encode("utf-8", "strict") is not None


@given(TEXTS)
def test_nothing_reaches_a_terminal_but_what_shows(text: str) -> None:
    assert one_line(text).isprintable() and utf8(one_line(text))
    lines = printable(text)
    assert all(each in "\n\t" or each.isprintable() for each in lines) and lines.count("\n") == text.count("\n")
    assert one_line(one_line(text)) == one_line(text)


@given(TEXTS)
@example("1.")
@example("- a")
@example("===")
@example("www.example.org <b>&amp; `x` [a](b) ![c](d) https://a.b <mailto:a@b.c>")
@example("a | b \\| c \\")
def test_a_text_in_markdown_is_that_text_and_nothing_else(text: str) -> None:
    shown, expected = markdown_text(text), one_line(text).strip()
    inline = [("text", expected)] if expected else []
    table = parsed(f"| head | of |\n| --- | --- |\n| {shown} | z |\n")
    empty = parsed("| head | of |\n| --- | --- |\n| y | z |\n")
    assert structure(table) == structure(empty)
    assert leaves([each for each in table if each.type == "inline"][2:3]) == inline
    for before in ("# ", "> ", "- ", "", "Some text: "):
        tokens = parsed(f"{before}{shown}\n\nend\n")
        assert structure(tokens) == structure(parsed(f"{before}{'x' if expected else ''}\n\nend\n"))
        pieces = leaves([each for each in tokens if each.type == "inline"][:-1])
        assert pieces == inline or pieces == [("text", f"{before}{expected}".strip())]


@given(TEXTS)
@example("`")
@example("a``b`")
@example(" ` ")
def test_a_code_span_holds_its_text(text: str) -> None:
    shown, expected = markdown_code(text), one_line(text)
    for frame in ("before {} after", "| {} | z |\n| --- | --- |"):
        pieces = leaves(parsed(frame.format(shown)))
        if "|" in expected or not expected.strip():
            assert all(kind == "text" for kind, _ in pieces)
        else:
            assert [each for each in pieces if each[0] != "text"] == [("code_inline", expected)]


@given(TEXTS | st.lists(st.sampled_from(["```", "````toml", "~~~", "  ```", "x", "# y", "<b>", ""])).map("\n".join))
def test_a_block_of_code_is_ended_by_nothing_in_it(text: str) -> None:
    tokens = parsed(f"{markdown_block(text, 'toml')}\n\nend\n")
    assert structure(tokens) == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[0].info == "toml" and tokens[0].content == re.sub(r"\n*$", "\n", printable(text).strip("\n"))


@given(TEXTS | st.floats(allow_nan=False, allow_infinity=False) | st.integers())
@example(1e-5)
@example(1e16)
def test_yaml_reads_the_same_value(value: Any) -> None:
    assert utf8(yaml_scalar(value))
    assert yaml.safe_load(f"- a: {yaml_scalar(value)}\n  b: 1\n") == [{"a": value, "b": 1}]


@pytest.mark.parametrize("text", ["wgan-gp fashion-mnist", "3 steps (of 4), 0.5 % / s; 'a' + b = c"])
def test_ordinary_names_stay_readable_in_the_source(text: str) -> None:
    assert markdown_text(text) == text and markdown_code(text) == f"`{text}`"


# ── The terminal ──────────────────────────────────────────────────────────────────────────────────────────

CLEAR, NAME = "\x1b[2J", "\\u001b[2J\\u202e\\u0007"
"""A terminal's command that clears the screen; and as TOML writes it, with others."""

RECIPE = """
name = "small NAME"
mlflow = false
train = { steps = 1, batch_size = 4, device = "cpu" }
data = { use = "digits", size = 8 }
loss = { use = "gan", latent_size = 2 }
generator = { use = "mlp", hidden = [2] }
discriminator = { use = "mlp", hidden = [2] }
"""


def test_nothing_of_a_file_reaches_the_terminal_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a recipe, a run, its folder and an exported model hold, printed by each command that shows it."""
    monkeypatch.chdir(tmp_path)
    good, bad, cut = (Path(f"{name} {CLEAR}.toml") for name in ("good", "bad", "cut"))
    good.write_text(RECIPE.replace("NAME", NAME))
    bad.write_text(RECIPE.replace('"mlp"', f'"{NAME}"').replace("mlflow", f'"{NAME}"'))
    cut.write_text(f"a = {CLEAR}")
    run, exported = f"run {CLEAR}", f"out {CLEAR}"
    requests = {
        ("check", str(bad)): 2,
        ("check", str(cut)): 2,
        ("check", str(good)): 0,
        ("train", str(good), "--output", run): 0,
        ("export", run, "--output", exported): 0,
        ("sample", exported, "-n", "4"): 0,
        ("traverse", run, "--dimensions", "0"): 0,
        ("compare", run, exported): 0,
        ("report", run, "--output", f"{CLEAR}.html"): 0,
        ("sample", run, "--set", f"sampling.{CLEAR}=1"): 2,
        ("eval", f"no {CLEAR}"): 2,
    }
    for request, status in requests.items():
        result = CliRunner().invoke(main, request, color=True)
        assert result.exit_code == status, result.output
        assert all(each.isprintable() or each in "\n\t\r" for each in result.output), request
        assert "[2J" in result.output.replace(" ", "").replace("\n", ""), request
