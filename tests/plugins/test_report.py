"""`ganrun report`: one self-contained file, as a browser without a network shows it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, strategies as st

from ganrun import GanrunError
from ganrun.cli import main
from ganrun.testing import train
from ganrun_report import page
from ganrun_report.charts import BOTTOM, LETTER_DISTANCE, TOP, Curve, Line, Scale, _letters
from ganrun_report.pictures import spread

NAUGHTY = (
    "long" * 60 + "<script>document.title='taken'</script> & \"co\" <img src=x onerror=\"document.title='taken'\">"
)
RECIPE: dict[str, Any] = {
    "name": "vae",
    "train": {"steps": 4, "batch_size": 8, "device": "cpu", "log_every_steps": 1, "evaluate_every_steps": 2},
    "data": {"use": "digits", "size": 16},
    "loss": {"use": "vae", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "encoder": {"use": "mlp", "hidden": [8]},
    "optimizer": {"use": "adam", "lr": 0.01},
    "ema": False,
    "metric": [{"use": "reconstruction", "real_samples": 64}],
    "samples": {"every_steps": 2, "columns": 4, "count": 16, "at_end": ["interpolation"]},
    "checkpoints": False,
    "progress": False,
    "mlflow": False,
}


def changed(**tables: Any) -> dict[str, Any]:
    """The recipe with entries of its tables changed, or whole tables."""
    merge = {name: {**RECIPE.get(name, {}), **new} if isinstance(new, dict) else new for name, new in tables.items()}
    return {**RECIPE, **merge}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: two replicates; one with markup in its name, and other steps; one scored on fewer images; one
    not scored; and one that failed."""
    folder = tmp_path_factory.mktemp("work") / "runs"
    for seed in (0, 1):
        train(changed(train={"seed": seed}), folder / f"vae/seed_{seed}")
    train(changed(name=NAUGHTY, train={"steps": 5}, samples={"every_steps": 5}), folder / "markup")
    train(changed(name="fewer", metric=[{"use": "reconstruction", "real_samples": 32}]), folder / "fewer")
    train(changed(name="unscored", metric=[], loss={"latent_size": 3}), folder / "unscored")
    with pytest.raises(GanrunError):
        train(changed(name="failed", optimizer={"use": "adam", "lr": 1e30}, metric=[]), folder / "failed")
    return folder


@pytest.fixture(scope="module")
def report(runs: Path) -> Path:
    path = runs.parent / "report.html"
    result = ganrun("report", runs, "--output", path)
    assert result.exit_code == 0 and f"wrote {path} (" in result.stdout, result.output
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a network."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"needs a browser, one of {', '.join(names)}: apt install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Any]:
    """Opens the report from disk, offline; fails at the end on an error, or a request beyond the page itself."""
    unexpected: list[str] = []
    contexts = []

    def open_page(path: Path = report, **options: Any) -> Any:
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        opened = context.new_page()
        opened.on("console", lambda message: unexpected.append(message.text))
        opened.on("pageerror", lambda error: unexpected.append(str(error)))
        opened.on("request", lambda request: unexpected.append(request.url) if request.url != path.as_uri() else None)
        opened.goto(path.as_uri())
        return opened

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in unexpected if not each.startswith("data:")] == []


def ganrun(*arguments: object) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])


# ── In a browser ──────────────────────────────────────────────────────────────────────────────────────────


def test_one_slider_moves_the_pictures_of_all_runs(visit: Any) -> None:
    opened = visit(viewport={"width": 1280, "height": 900})
    strips = opened.locator(".role:visible .strip")
    assert strips.count() == 6 and opened.locator("input[type=range]").count() == 1

    def shown() -> list[str]:
        return [strips.nth(index).locator("p:visible").inner_text() for index in range(strips.count())]

    def sources() -> list[str]:
        return [image.get_attribute("src") for image in opened.locator(".role:visible .strip img:visible").all()]

    slider = opened.locator("input[type=range]")
    last = sources()
    assert opened.locator("output").inner_text() == "5" and {"step 4", "step 5"} <= set(shown())
    slider.focus()
    for _ in range(10):
        opened.keyboard.press("ArrowLeft")
    assert opened.locator("output").inner_text() == "1" and set(shown()) == {"step 1"}
    first = sources()
    several = [strips.nth(index).locator(".frame").count() > 1 for index in range(strips.count())]
    assert [early != late for early, late in zip(first, last, strict=True)] == several and several.count(True) >= 5
    assert slider.get_attribute("aria-valuetext") == "step 1"
    slider.press("End")
    assert sources() == last
    assert opened.evaluate(
        "[...document.images].filter(each => each.offsetParent).every(each => each.naturalWidth > 0)"
    )


def test_a_run_that_lacks_a_step_shows_the_one_before(visit: Any, report: Path) -> None:
    opened = visit()
    steps = opened.locator("input[type=range]").get_attribute("data-steps").split()
    slider = opened.locator("input[type=range]")
    slider.focus()
    slider.press("End")
    assert steps == ["1", "2", "4", "5"]
    slider.press("ArrowLeft")
    markup = opened.locator(".role:visible .strip", has_text="script")
    assert opened.locator("output").inner_text() == "4"
    assert markup.locator("p:visible").inner_text() == "step 2", "it has 1, 2 and 5"


def test_another_kind_of_pictures_can_be_chosen_by_keyboard(visit: Any) -> None:
    opened = visit()
    assert opened.locator(".role:visible h3").all_inner_texts() == ["Samples"]
    opened.locator("input[name=role]").first.focus()
    opened.keyboard.press("ArrowRight")
    assert opened.locator(".role:visible h3").all_inner_texts() == ["Interpolation"]
    assert opened.locator("input[type=range]:visible").count() == 0, "of the finished runs alone"
    opened.keyboard.press("ArrowRight")
    assert opened.locator(".role:visible h3").all_inner_texts() == ["Reconstructions"]
    slider = opened.locator("input[type=range]")
    slider.press("Home")
    opened.get_by_label("Interpolation").check()
    assert opened.locator(".role:visible img:visible").count() == opened.locator(".role:visible .strip").count()


def test_the_values_of_a_chart_can_be_read_by_pointer_and_by_keyboard(visit: Any, runs: Path) -> None:
    opened = visit(viewport={"width": 1280, "height": 900})
    chart = opened.locator(".chart", has=opened.get_by_role("heading", name="mse", exact=True)).first
    drawing = chart.locator("svg[role=img]:visible")
    drawing.focus()
    drawing.press("Home")
    assert chart.locator(".at:visible").inner_text() == "at 2 steps"
    records = [json.loads(line) for line in (runs / "vae/seed_0/metrics.jsonl").read_text().splitlines()]
    (early,) = (record["eval/mse"] for record in records if record["step"] == 2 and "eval/mse" in record)
    assert f"{early:.4g}" in chart.locator(".values:visible").inner_text()
    box = drawing.bounding_box()
    drawing.hover(position={"x": box["width"] * 0.75, "y": box["height"] / 2})
    assert chart.locator(".at:visible").inner_text() == "at 4 steps"
    opened.get_by_label("images seen").check()
    drawing.press("Home")
    assert chart.locator(".at:visible").inner_text() == "at 16 images seen"


def test_names_with_markup_are_text(visit: Any) -> None:
    opened = visit()
    assert opened.title().endswith("ganrun report") and "<script>" in opened.locator("h1").inner_text()
    assert opened.locator("script").count() == 1


def test_it_is_readable_on_a_phone_and_in_the_dark(visit: Any) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        opened = visit(viewport={"width": 360, "height": 800}, color_scheme=scheme)
        opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert opened.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        colours[scheme] = opened.evaluate(INKS)
        assert all(contrast(ink, paper) >= least for ink, paper, least in colours[scheme])
    assert all(day[:2] != night[:2] for day, night in zip(*colours.values(), strict=True))


INKS = """() => {
  const paper = getComputedStyle(document.body).backgroundColor;
  const ink = (selector, kind) => getComputedStyle(document.querySelector(selector))[kind];
  const lines = [...document.querySelectorAll("polyline")].map((line) => [getComputedStyle(line).stroke, paper, 3]);
  return [[ink("body", "color"), paper, 7], [ink(".quiet", "color"), paper, 4.5], [ink("nav a", "color"), paper, 4.5],
          [ink(".warning", "color"), ink(".warning", "backgroundColor"), 4.5],
          [ink(".tabs span", "color"), ink(".tabs", "backgroundColor"), 4.5], ...lines];
}"""


def contrast(ink: str, paper: str) -> float:
    """The ratio of WCAG 2.2, from 1 to 21."""
    light, dark = sorted((_luminance(ink), _luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_it_is_accessible_to_screen_readers(visit: Any) -> None:
    opened = visit()
    assert opened.locator("html").get_attribute("lang") == "en"
    assert opened.evaluate("[...document.images].every(each => each.alt.length > 10)")
    assert opened.evaluate("[...document.querySelectorAll('svg')].every(each => each.ariaLabel || each.ariaHidden)")
    levels = opened.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(each => Number(each.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    names = "[...document.querySelectorAll('input')].every(each => each.labels.length === 1)"
    assert opened.evaluate(names)


def test_without_scripts_it_shows_the_last_pictures_of_every_kind(visit: Any) -> None:
    opened = visit(java_script_enabled=False)
    assert opened.locator(".role:visible").count() == 3 and opened.locator("input:visible").count() == 0
    assert opened.locator(".strip img:visible").count() == opened.locator(".strip").count()
    assert opened.locator(".chart svg[role=img]:visible").count() == opened.locator(".chart:visible").count() > 3


def test_on_paper_no_column_is_cut_off(visit: Any) -> None:
    opened = visit(viewport={"width": 720, "height": 1000})
    cut = "[...document.querySelectorAll('.ranking')].some(each => each.getBoundingClientRect().right > innerWidth)"
    assert opened.evaluate(cut), "on a screen it scrolls"
    opened.emulate_media(media="print")
    assert not opened.evaluate(cut) and opened.locator("nav:visible, .controls:visible").count() == 0


# ── Contents ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_an_augmentation_reports_has_charts_of_its_own(runs: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(runs / "fewer", tmp_path / "copied") / "metrics.jsonl"
    lines = [json.loads(line) for line in copied.read_text(encoding="utf-8").splitlines()]
    told = [{**line, "augmentation/critic.p": line["step"] / 4, "augmentation/critic.r_t": None} for line in lines]
    copied.write_text("".join(f"{json.dumps(line)}\n" for line in told), encoding="utf-8")
    assert ganrun("report", copied.parent, "--output", tmp_path / "page.html").exit_code == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    losses, _, after = text.partition("<h3>Augmentation</h3>")
    charts, _, terms = after.partition("Terms of the losses")
    assert "augmentation/critic.p" in charts and "vae.kl" in terms
    assert "augmentation/" not in losses + terms and "critic.r_t" not in text, "r_t was never known"


def test_it_refers_to_no_other_file(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    links = re.findall(r'(?:src|href|action)="([^"#][^"]{0,40})', text)
    assert links and all(link.startswith("data:") for link in links)
    assert not re.search(r"url\(|@import|https?://", text)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert "default-src &#39;none&#39;" in policy and "unsafe-inline" not in policy and "connect-src" not in policy


def test_it_shows_rankings_failures_differences_and_environments(report: Path, runs: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "Not ranked with the others (mse: real 32 ≠ 64)" in text
    assert "Without mse" in text
    error = json.loads((runs / "failed/summary.json").read_text())["error"].splitlines()[0]
    assert "failed at step" in text and error[:40].split("'")[0] in text
    assert "metric.<wbr>reconstruction.<wbr>real_<wbr>samples" in text and "[generator]" in text
    environment = json.loads((runs / "fewer/environment.json").read_text())
    assert environment["data_fingerprint"] in text and environment["packages"]["torch"] in text


def test_private_entries_are_not_on_the_page(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "secret-token")
    run = shutil.copytree(runs / "unscored", tmp_path / "secret-folder")
    environment = json.loads((run / "environment.json").read_text())
    environment |= {"host": "secret-host", "command": ["secret-command"]}
    environment["data"] |= {"files": {"/secret-data/images": "ab12"}, "cache": "/secret-cache/faces-cache"}
    environment["starts"] = {"generator": {"path": "/secret-home/ann/start-run", "sha256": "d1"}}
    first = {name: value for name, value in environment.items() if name not in ("data", "problem", "starts")}
    second = {**first, "host": "secret-other", "threads": 99, "time": 3, "data": {"files": {"/secret/x": "1"}}}
    (run / "environment.json").write_text(json.dumps({**environment, "sessions": [first, "damaged", second]}))
    recipe = (run / "recipe.toml").read_text().replace("[data]", "[data]\nroot = '/secret-home/ann/faces'")
    recipe = f"# The author's words.\n{recipe.replace('mlflow = false', '')}"
    recipe += "\n[mlflow]\nuri = 'http://secret-server:5000'\nexperiment = 'shown'\n[old]\nkey = 'secret-token'\n"
    (run / "recipe.toml").write_text(recipe)
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"status": "failed", "error": "cannot read '/secret-home/ann/some-file.png' as secret-token says"}
    (run / "summary.json").write_text(json.dumps(summary))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9')
    assert ganrun("report", run, runs / "fewer", "--output", tmp_path / "r.html").exit_code == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "secret-" not in text and str(runs) not in text and "skipped 1 damaged line of metrics.jsonl" in text
    shown = ["# The author&#39;s words.", "…/faces-cache", "…/start-run", "root = &#34;…/faces&#34;", "…/some-file.png"]
    shown += ["experiment = &#34;shown&#34;", f"{environment['threads']}, then 99", "starts of the run"]
    assert [each for each in shown if each not in text] == []


def test_the_report_of_one_run_is_in_its_directory_and_needs_no_scores(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "unscored", tmp_path / "run")
    result = ganrun("report", run)
    assert result.exit_code == 0 and f"wrote {run / 'report.html'} (" in result.stdout
    assert "none of these runs was scored: use ganrun eval RUN --metric NAME" in result.stderr
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "none was scored" in text and "<img" in text and "Differences between the recipes" not in text


def test_the_report_of_several_runs_is_in_the_working_directory(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "wrote report.html (" in ganrun("report", runs / "vae").stdout and (tmp_path / "report.html").is_file()


def test_what_cannot_be_written_or_read_is_reported(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "no/such/folder/report.html"
    result = ganrun("report", runs / "vae", "--output", output)
    assert result.exit_code == 2 and f"cannot write {output}: " in result.output and "--output" in result.output
    notes = tmp_path / "notes.md"
    notes.write_text("mine")
    for other in (tmp_path, notes):
        result = ganrun("report", runs / "vae", "--output", other)
        assert result.exit_code == 2 and f"{other}: a report is an HTML page; use --output NAME.html" in result.output
    assert notes.read_text() == "mine"
    notes.unlink()
    result = ganrun("report", tmp_path)
    assert result.exit_code == 2 and "is not a run directory and contains none" in result.output
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


def test_damaged_pictures_are_skipped(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "unscored", tmp_path / "run")
    whole = (run / "samples/step_00000004.png").read_bytes()
    (run / "samples/step_00000004.png").write_bytes(whole[: len(whole) // 2])
    (run / "samples/step_00000003.png").write_bytes(whole[:8] + whole[-8:])
    (run / "samples/step_00000002.png").write_bytes(b"no picture")
    for role in ("reconstructions", "interpolation"):
        shutil.rmtree(run / role)
    ganrun("report", run)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<div class="frame" data-step="(\d+)"', text) == ["1"]
    assert "Showing 1 of 4 steps; 3 damaged" in text


def test_a_page_too_large_to_mail_is_noted(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "LARGE_BYTES", 50_000)
    result = ganrun("report", runs / "vae", "-o", tmp_path / "r.html", "-n", 1)
    assert result.exit_code == 0 and "name fewer runs, or use --pictures N to show fewer steps per run" in result.stderr
    text = (tmp_path / "r.html").read_text()
    frames = re.findall(r'<div class="frame" data-step="(\d+)"', text)
    assert set(frames) == {"4"}, "of one picture, the last"
    assert text.count("Showing 1 of 3 steps<") == 4, "samples and reconstructions of two runs; interpolations are shown"


# ── Arithmetic ────────────────────────────────────────────────────────────────────────────────────────────


@given(st.sets(st.integers(0, 10**7), min_size=1, max_size=300), st.integers(2, 20))
def test_pictures_are_spread_from_the_first_to_the_last(steps: set[int], most: int) -> None:
    chosen = spread(steps, most)
    assert chosen == sorted(set(chosen)) and set(chosen) <= steps and len(chosen) == min(most, len(steps))
    assert chosen[0] == min(steps) and chosen[-1] == max(steps)


def test_more_pictures_are_from_early_steps() -> None:
    assert spread(range(100, 100_001, 100), 4) == [100, 1000, 10_000, 100_000]


def assert_within(scale: Scale, values: list[float]) -> None:
    """Every value has its place on the axis, in order, and so have some ticks."""
    places = [scale.place(value) for value in sorted(values)]
    assert places == sorted(places, reverse=True) and all(10 <= place <= 200 for place in places)
    assert 1 <= len(scale.ticks(4)) <= 40 and all(10 <= place <= 200 for place, _ in scale.ticks(4))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30), st.booleans())
def test_an_axis_contains_every_value_in_order(values: list[float], may_be_logarithmic: bool) -> None:
    assert_within(Scale.fitting(values, 200, 10, may_be_logarithmic=may_be_logarithmic), values)


@pytest.mark.parametrize("values", [[1.0, 1e300], [5e-324, 1.7e308], [5e-323, 5e-323], [4.4e-323, 5e-323]])
def test_an_axis_of_numbers_at_the_ends_of_floats_has_ticks_within_it(values: list[float]) -> None:
    assert_within(Scale.fitting(values, 200, 10, may_be_logarithmic=True), values)


@given(st.lists(st.floats(12, 228), min_size=1, max_size=26))
def test_letters_at_the_ends_of_lines_overlap_neither_each_other_nor_the_axis(ends: list[float]) -> None:
    lines = [Line(Curve(c, c, 0, ()), [(1.0, end)], (), ()) for c, end in zip(ascii_uppercase, ends, strict=False)]
    letters = _letters(lines)
    heights = [height for height, _ in letters]
    assert all(below - above >= LETTER_DISTANCE - 1e-6 for above, below in pairwise(heights))
    assert all(TOP <= height <= BOTTOM for height in heights)
    assert len(letters) == (len(ends) if len(ends) <= 17 else 0)
    alone = all(abs(one - other) >= LETTER_DISTANCE for one, other in combinations(ends, 2))
    assert not alone or sorted(ends) == heights


def test_runs_of_one_seed_have_different_titles(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "vae/seed_0", tmp_path / "vae/again")
    assert ganrun("report", runs / "vae", tmp_path / "vae", "--output", tmp_path / "r.html").exit_code == 0
    titles = re.findall(r"<summary>(A · [^<]+?) <", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert titles == ["A · vae, seed 0", "A · vae, seed 1", "A · vae, seed 0 (2)"]
