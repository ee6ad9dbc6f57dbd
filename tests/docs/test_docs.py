"""The documentation, checked against the code: the reference is fresh, names exist, and live examples run.

Marks stand in the line before a code block:

    <!-- file: PATH -->   what a reader would write to PATH; further blocks of the same PATH are added to it
    <!-- live -->         what a reader would run: a console session is run and its output compared, where `…` stands
                          for anything, in a line or as a line for several; Python is run as a script
    <!-- from: PATH -->   an excerpt of a file of the repository

A page's marked blocks are worked through in order, in one empty folder.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ganrun.cli import main
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda path: path.relative_to(ROOT).as_posix())
BLOCK = re.compile(r"^(?:<!-- (?P<mark>[^\n]+?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
KNOWN_MARK = re.compile(r"|live|(file|from|command): \S+")
TEST = re.compile(r"^def (test_\w+)", re.M)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
REPOSITORY_PATH = re.compile(r"(?:core|plugins|recipes|tests|docs)/[\w*./-]+")
COMMENT = re.compile(r"\s+#\s.*$")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    mark: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, each.start()) + 1, each["mark"] or "", each["language"], each["text"])
        for each in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
LIVE_PAGES = sorted({block.page for block in BLOCKS if block.mark == "live"})
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


# ── The reference ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_reference_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.stale_pages() == [], "run: python docs/generate.py"


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────


@by_page
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = [target for target in LINK.findall(_prose(page)) if not _leads_somewhere(page, target)]
    assert not dead


@by_page
def test_every_path_of_the_repository_exists(page: Path) -> None:
    named = {span for span in INLINE.findall(_prose(page)) if REPOSITORY_PATH.fullmatch(span)}
    assert not {path for path in named if not any(list(base.glob(path.rstrip("/"))) for base in (ROOT, page.parent))}


@by_page
def test_every_ganrun_command_can_be_parsed(page: Path) -> None:
    for block in blocks_of(page):
        for words in _commands(block) if block.language in ("bash", "console") else ():
            if Path(words[0]).name == "ganrun":
                _parse(words[1:])
    for span in INLINE.findall(_prose(page)):
        if re.match(r"ganrun [\w-]", span):
            _parse(shlex.split(span)[1:], whole=False)


def test_every_whole_recipe_is_valid(tmp_path: Path) -> None:
    registry = load_registry()
    recipes = [block for block in BLOCKS if block.language == "toml" and not block.mark and _is_recipe(block.text)]
    assert len(recipes) >= 2
    for number, block in enumerate(recipes):
        path = tmp_path / f"{number}.toml"
        path.write_text(block.text, encoding="utf-8")
        try:
            load_recipe(path, registry)
        except Exception as error:
            pytest.fail(f"{block}: {error}")


def test_every_test_that_a_page_names_exists() -> None:
    there = {name for path in (ROOT / "tests").rglob("test_*.py") for name in TEST.findall(path.read_text("utf-8"))}
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/reliability.md").read_text("utf-8")))
    assert len(named) > 60 and named <= there, named - there


def test_every_excerpt_is_in_its_file() -> None:
    excerpts = [block for block in BLOCKS if block.mark.startswith("from: ")]
    assert excerpts
    for block in excerpts:
        source = (ROOT / block.mark.removeprefix("from: ")).read_text(encoding="utf-8")
        assert block.text in source, f"{block}: {block.mark}"


def test_every_mark_is_one_that_is_known() -> None:
    unknown = [f"{block}: {block.mark}" for block in BLOCKS if not KNOWN_MARK.fullmatch(block.mark)]
    assert not unknown


def test_the_readme_has_its_two_commands() -> None:
    marked = [block for block in blocks_of(ROOT / "README.md") if block.mark.startswith("command: ")]
    assert [block.mark.removeprefix("command: ") for block in marked] == ["run", "test"]
    assert all(block.language == "bash" and len(block.text.strip().splitlines()) == 1 for block in marked)


def _prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def _leads_somewhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    return path.exists() and (not anchor or anchor in _anchors(path))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _is_recipe(text: str) -> bool:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        pytest.fail(f"no valid TOML: {error}\n{text}")
    return {"train", "loss", "data"} <= set(tables)


def _commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block, as words; environment variables before them are left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "bash" or line.startswith("$ "):
            for part in COMMENT.sub("", line.removeprefix("$ ")).split("&&"):
                words = shlex.split(part)
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                if words:
                    yield words


def _parse(arguments: list[str], *, whole: bool = True) -> None:
    """Parse a command line as ganrun does, without running it; fails with click's message.

    Args:
        arguments: What follows `ganrun`.
        whole: Whether it must have all that the command requires; a command may be spoken of by its name alone.
    """
    try:
        context = main.make_context("ganrun", list(arguments))
        name, command, rest = main.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None and name is not None
        command.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        pass  # --help or --version
    except click.UsageError as error:
        if isinstance(error, click.MissingParameter | click.exceptions.NoArgsIsHelpError) and not whole:
            return
        pytest.fail(f"ganrun {shlex.join(arguments)}: {error.format_message()}")


# ── Live blocks ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", LIVE_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_reader_who_follows_the_page_sees_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "GANRUN_DISABLE_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    reader = Reader(tmp_path / "work", tmp_path / "site", monkeypatch)
    try:
        for block in blocks_of(page):
            reader.follow(block)
    finally:
        reader.forget_modules()


class Reader:
    """Does what the marked blocks of a page say.

    Args:
        folder: Where; holds copies of the repository's recipes and examples.
        site: Where packages are installed to.
        monkeypatch: Undoes all of it.
    """

    def __init__(self, folder: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.site, self._monkeypatch = folder, site, monkeypatch
        site.mkdir()
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
        monkeypatch.chdir(folder)

    def follow(self, block: Block) -> None:
        if block.mark.startswith("file: "):
            self._write(block.mark.removeprefix("file: "), block.text)
        elif block.mark == "live" and block.language == "console":
            for command, expected in _exchanges(block.text):
                self._compare(block, command, expected, self._output(shlex.split(command)))
        elif block.mark == "live":
            script = self.folder / "script.py"
            script.write_text(block.text, encoding="utf-8")
            runpy.run_path(str(script))

    def forget_modules(self) -> None:
        """Have nothing of the page's packages left in this process."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(self.folder)):
                del sys.modules[name]

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = f"{path.read_text(encoding='utf-8')}\n\n" if path.exists() and path.suffix == ".py" else ""
        path.write_text(before + text, encoding="utf-8")

    def _output(self, words: list[str]) -> str:
        if words[0] == "ganrun":
            result = CliRunner().invoke(main, words[1:])
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
            return result.output
        if words[0] == "ls":
            return "  ".join(sorted(each.name for each in Path(words[1]).iterdir() if not each.name.startswith(".")))
        if words[:3] == ["pip", "install", "--editable"]:
            return self._install(Path(words[3]).resolve())
        assert words[:3] == ["python", "-m", "pytest"], f"the tests cannot run {shlex.join(words)}"
        return self._pytest(words[3:])

    def _install(self, project: Path) -> str:
        """Make a project and its entry points visible, as an editable install does, but without an index."""
        facts = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        info = self.site / f"{facts['name'].replace('-', '_')}-{facts['version']}.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {facts['name']}\nVersion: {facts['version']}\n", encoding="utf-8"
        )
        lines = [f"{name} = {value}" for name, value in facts["entry-points"]["ganrun"].items()]
        info.joinpath("entry_points.txt").write_text("\n".join(["[ganrun]", *lines, ""]), encoding="utf-8")
        self._monkeypatch.syspath_prepend(str(project))
        self._monkeypatch.syspath_prepend(str(self.site))
        self._monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(self.site), str(project)]))
        return ""

    def _pytest(self, arguments: list[str]) -> str:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _compare(self, block: Block, command: str, expected: list[str], output: str) -> None:
        pattern = re.escape("\n".join(expected)).replace("…", ".*")
        assert re.fullmatch(pattern, output.strip(), re.S), f"{block}: $ {command}\nsays\n{output}\nnot\n{expected}"


def _exchanges(session: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a console session, each with the output that follows it."""
    command, output = "", list[str]()
    for line in [*session.replace("\\\n", " ").splitlines(), "$ "]:
        if not line.startswith("$ "):
            output.append(line.rstrip())
            continue
        if command:
            yield command, output
        command, output = COMMENT.sub("", line.removeprefix("$ ")), []
