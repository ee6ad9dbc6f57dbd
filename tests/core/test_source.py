"""A recipe's text: what is refused, the line of each key, and the effect of `--set`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, strategies as st

from ganrun.base.errors import GanrunError, RecipeError, RequestError
from ganrun.recipe.lines import Key, key_lines
from ganrun.recipe.source import parse_override, read_source

RECIPE = """\
name = "lines"

[train]
steps = 5
betas = [
  0.1,
  "x",   # a comment
]
text = \"\"\"
[loss]
not = "a key"
\"\"\"

[a.b]
c.d = 5
inline = { x = 1, y = { z = 2 } }

[optimizer.critic]
lr = 1
[[metric]]
use = "fid"

# between
[[metric]]
use = "kid"
list = [[1,
  2], [3]]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("name", "name ="),
        ("train", "[train]"),
        ("train.steps", "steps ="),
        ("train.betas", "betas = ["),
        ("train.betas.0", "  0.1,"),
        ("train.betas.1", '  "x",'),
        ("train.text", "text ="),
        ("a", "[a.b]"),
        ("a.b.c", "c.d = 5"),
        ("a.b.c.d", "c.d = 5"),
        ("a.b.inline.y.z", "inline ="),
        ("optimizer", "[optimizer.critic]"),
        ("optimizer.critic.lr", "lr = 1"),
        ("metric", "[[metric]]"),
        ("metric.0.use", 'use = "fid"'),
        ("metric.1.use", 'use = "kid"'),
        ("metric.1.list", "list ="),
        ("metric.1.list.0.1", "  2], [3]]"),
        ("train.absent", "[train]"),
        ("optimizer.critic.absent", "[optimizer.critic]"),
    ],
)
def test_a_key_stands_on_its_line(recipe: Path, key: str, line: str) -> None:
    where = read_source(recipe).where(keys(key))
    number = int(where.removeprefix(f"{recipe}:"))
    assert RECIPE.splitlines()[number - 1].startswith(line)


def test_the_second_of_two_tables_is_not_taken_for_the_first(recipe: Path) -> None:
    source = read_source(recipe)
    first, second = (RECIPE.splitlines().index(text) + 1 for text in ('use = "fid"', "# between"))
    assert source.where(("metric", 0)) == f"{recipe}:{first - 1}"
    assert source.where(("metric", 1)) == f"{recipe}:{second + 1}"


def test_an_absent_key_has_the_file_alone(recipe: Path) -> None:
    assert read_source(recipe).where(("loss", "use")) == str(recipe)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\u0085 \u2029"])
def test_only_newlines_count_as_lines(tmp_path: Path, newline: str, separator: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(f'a = "{separator}"{newline}# {separator}{newline}b = 1{newline}'.encode())
    assert read_source(path).where(("b",)) == f"{path}:3"


def test_a_byte_order_mark_is_no_syntax_error(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_source(path).tables == {"a": 1}


NAMES = st.sampled_from(["a", "b", "steps", "x y", "q.r", ""])
TREES = st.dictionaries(
    NAMES,
    st.recursive(
        st.integers(0, 9) | st.sampled_from(["", "[x]", "a = 1", "#", 'quote"', "two\nlines", "'"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(TREES, st.booleans())
def test_each_key_of_any_text_stands_on_a_line_that_spells_it(tree: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(tree, multiline_strings=multiline)
    lines, found = text.split("\n"), key_lines(text)
    assert found.keys() == set(keys_of(tree))
    for key, number in found.items():
        named = [part for part in key if isinstance(part, str)][-1]
        place = next(key[: depth + 1] for depth in reversed(range(len(key))) if key[depth] == named)
        assert json.dumps(named)[1:-1] in lines[found[place] - 1]
        assert number >= found[place]


def keys_of(tree: Any, key: Key = ()) -> Iterator[Key]:
    for part, each in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*key, part)
        yield from keys_of(each, (*key, part))


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a = 1\nb = \n", "{path}:2: is not valid TOML: Invalid value (column 5)"),
        (b"a = 1\n\nb = [1,\n", "{path}:3: is not valid TOML: Invalid value (at end of document)"),
        (b"[a]\n[a]\n", "{path}:2: is not valid TOML: Cannot declare ('a',) twice (column 3)"),
        (b"a = '\xff'\n", "{path}:1: is not UTF-8 text, so it is not TOML"),
        (b"a = 1\nb = 1979-05-27\n", "{path}:2: b is a date or time; no setting takes one"),
        (b"[t]\nb = [\n 1,\n 07:32:00]\n", "{path}:4: t.b.1 is a date or time; no setting takes one"),
        (b"a = 1\n" * 200_000, "{path}: is longer than 300 kB, so it is not a recipe"),
        (b"a = 0x" + b"f" * 4000, "{path}:1: a is beyond 64 bits"),
        (b"a = " + b"9" * 5000, "{path}: is not valid TOML: Exceeds the limit"),
        (b"a = " + b"[" * 5000, "{path}:1: is nested too deep"),
        (b"b = 1\n" + b".".join([b"a"] * 20_000) + b" = 1", "{path}:2: is nested too deep"),
        (b"[t.'x.y'." + b".".join([b'"a"'] * 20_000) + b"]", "{path}:1: is nested too deep"),
    ],
)
def test_unfit_text_is_refused_with_its_place(tmp_path: Path, text: bytes, expected: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(text)
    assert refusal(path).startswith(expected.format(path=path))


def test_all_dates_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("a = 1979-05-27\n[b]\nc = { d = 07:32:00 }\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_source(path, ["e=1979-05-27T07:32:00Z"])
    assert caught.value.faults == (
        f"{path}:1: a is a date or time; no setting takes one",
        f"{path}:3: b.c.d is a date or time; no setting takes one",
        "--set e=1979-05-27T07:32:00Z: e is a date or time; no setting takes one",
    )


def test_a_long_override_is_cleaned_of_secrets_once_for_all_its_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cleaned = tmp_path / "r.toml", []
    path.write_text("", encoding="utf-8")
    monkeypatch.setattr("ganrun.recipe.source.without_secrets", lambda text: cleaned.append(len(text)) or text)
    with pytest.raises(RecipeError, match="and 4,980 more faults"):
        read_source(path, [f"e=[{'1979-05-27, ' * 5_000}]"])
    with pytest.raises(RequestError, match="is longer than 300 kB"):
        read_source(path, ["e=" + "[ " * 5_000_000])
    assert len(cleaned) == 2 and max(cleaned) <= 300_000


def test_of_many_faults_the_first_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("".join(f"a{number} = 1979-05-27\n" for number in range(5_000)), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_source(path)
    assert len(caught.value.faults) == 21
    assert caught.value.faults[19:] == (
        f"{path}:20: a19 is a date or time; no setting takes one",
        "and 4,980 more faults",
    )


def test_no_line_of_a_fault_is_longer_than_a_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("x" * 100_000 + " = 1979-05-27", encoding="utf-8")
    assert len(refusal(path)) < 1_100
    assert len(refusal(path, f"a.{'1' * 5_000}=1979-05-27")) < 2_200


def test_a_recipe_is_a_file_and_no_pipe_or_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (tmp_path / "pipe.toml", Path("/dev/zero")):
        assert refusal(path) == f"{path}: cannot be read: it is a pipe, a socket or a device, not a file"


def test_what_is_no_file_is_distinguished_from_what_is_no_recipe(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.toml") == f"{tmp_path}/absent.toml: no such file"
    assert (
        refusal(tmp_path) == f"{tmp_path}: is a folder, not a recipe; to continue a run say: ganrun resume {tmp_path}"
    )
    too_long = tmp_path / f"{'x' * 300}.toml"
    assert refusal(too_long) == f"{too_long}: cannot be read: File name too long"


# ── Overrides ─────────────────────────────────────────────────────────────────────────────────────────────

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_any_toml_value_can_be_set(value: Any) -> None:
    """As a one-line TOML literal, for any type."""
    assert parse_override(f"loss.x={literal(value)}") == (("loss", "x"), value)


@given(st.text(min_size=1))
def test_any_text_is_taken_or_refused_in_words(text: str) -> None:
    try:
        key, _ = parse_override(text)
    except RequestError as error:
        assert "--set takes key.path=value" in error.message
    else:
        assert all(part != "" for part in key)


@given(
    st.from_regex(r"[a-z][a-z /~_-]*", fullmatch=True).filter(lambda text: text not in ("true", "false", "inf", "nan"))
)
def test_what_is_no_toml_value_is_a_bare_string(text: str) -> None:
    assert parse_override(f"data.root={text}") == (("data", "root"), text)


def test_a_value_cannot_smuggle_in_another_key() -> None:
    assert parse_override("name=1\nsteps = 2") == (("name",), "1\nsteps = 2")


@pytest.mark.parametrize(
    ("override", "at", "value"),
    [
        ("train.steps=7", "train.steps", 7),
        ("new.deep.key=x", "new.deep.key", "x"),
        ("metric.1.use=is", "metric.1.use", "is"),
        ("metric=[]", "metric", []),
        ("train.0=1", "train", {"0": 1}),
        ("a.b.inline.y={}", "a.b.inline", {"x": 1, "y": {}}),
    ],
)
def test_an_override_is_laid_over_the_file(recipe: Path, override: str, at: str, value: Any) -> None:
    found: Any = read_source(recipe, [override]).tables
    for part in keys(at):
        found = found[part]
    if isinstance(value, dict):
        found = {name: each for name, each in found.items() if name in value}
    assert found == value


def test_an_overridden_place_is_blamed_on_the_command_line(recipe: Path) -> None:
    source = read_source(recipe, ["train.steps=x", "metric.1.use=is", "optimizer.0=1", "name=old", "name=new"])
    assert source.where(("train", "steps")) == "--set train.steps=x"
    assert source.where(("metric", 1, "use")) == "--set metric.1.use=is"
    assert source.where(("metric", 0, "use")).startswith(str(recipe))
    assert source.where(("optimizer", "0")) == "--set optimizer.0=1"
    assert source.where(("name",)) == "--set name=new"
    assert read_source(recipe, ["new.deep=1"]).where(("new",)) == "--set new.deep=1"


def test_a_whole_table_that_replaces_an_override_takes_the_blame(recipe: Path) -> None:
    source = read_source(recipe, ["train.steps=x", "train={steps='y'}"])
    assert source.where(("train", "steps")) == "--set train={steps='y'}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps", '--set takes key.path=value, such as train.steps=500, not "train.steps"'),
        ("=5", '--set takes key.path=value, such as train.steps=500, not "=5"'),
        ("train..steps=5", '--set takes key.path=value, such as train.steps=500, not "train..steps=5"'),
        ("train.steps.x=5", '--set train.steps.x=5: "train.steps" is not a table'),
        ("metric.2.use=x", "--set metric.2.use=x: there is no entry 2; the list has 2, counted from 0"),
        ("metric.use=x", "--set metric.use=x: there is no entry use; the list has 2, counted from 0"),
        (
            "scores.0.use=x",
            "--set scores.0.use=x: there is no entry 0; the list has 0, counted from 0; to add one, say --set"
            " 'scores=[{ use = \"NAME\" }]'",
        ),
    ],
)
def test_a_malformed_override_is_refused(recipe: Path, override: str, expected: str) -> None:
    assert refusal(recipe, override) == expected


@given(st.lists(st.tuples(st.from_regex(r"[a-c0-1²]{1,2}(\.[a-c0-1]){0,2}", fullmatch=True), VALUES), max_size=4))
def test_overrides_lay_cleanly_or_are_refused(tmp_path_factory: pytest.TempPathFactory, pairs: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("a = { b = [1, { c = 2 }] }\n", encoding="utf-8")
    try:
        source = read_source(path, [f"{key}={literal(value)}" for key, value in pairs])
    except GanrunError as error:
        assert "--set" in str(error)
    else:
        assert all(source.where(key).startswith("--set") for key in source.overrides)


# ── Helpers ───────────────────────────────────────────────────────────────────────────────────────────────


def keys(dotted: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdecimal() else part for part in dotted.split("."))


def literal(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(name)} = {literal(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        read_source(path, overrides)
    return str(caught.value)
