"""The pages of MLflow that ganrun opens, in a browser, with runs from a server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from ganrun import Run
from ganrun.testing import train

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MILLISECONDS = 60_000

RECIPE = {
    "name": "first idea",
    "train": {"steps": 4, "batch_size": 16, "device": "cpu", "log_every_steps": 1, "evaluate_every_steps": 2},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "metric": [{"use": "fid", "features": "classifier", "samples": 64}],
    "samples": {"every_steps": 1, "count": 16, "columns": 4},
    "progress": False,
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[Run]]]:
    """The address that `ganrun ui` prints, and the two runs that are compared there."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        runs = [
            train({**RECIPE, "name": name, "train": {**RECIPE["train"], "seed": seed}}, folder / name)
            for seed, name in enumerate(("first idea", "second idea"))
        ]
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "ganrun.cli",
            "ui",
            runs[0].directory.path,
            "--port",
            str(port),
            "--no-browser",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            yield process.stdout.readline().removeprefix("MLflow: ").strip(), runs
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no browser: install Chromium, on Debian by apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield opened.new_page(viewport={"width": 1700, "height": 1300})
        opened.close()


def test_the_page_opens_on_charts_with_scores_and_pictures_of_both_runs(shown, page: Page) -> None:
    address, runs = shown
    page.goto(address)
    for run in runs:
        expect_visible(page.get_by_role("link", name=run.name).first)
    expect_visible(page.get_by_text("eval/fid_classifier", exact=True).first)
    expect_visible(page.get_by_text("eval/samples", exact=True).first)
    pictures = page.locator("img[src*='eval~last_samples']")
    expect(pictures).to_have_count(2, timeout=PATIENCE_MILLISECONDS)
    for index in range(2):
        wait_until_drawn(page, index, "eval~last_samples")
    assert page.get_by_text("eval/neighbours").count() == 0, "pictures without a slider come after the scores"


def test_the_table_shows_each_run_next_to_its_data(shown, page: Page) -> None:
    address, runs = shown
    page.goto(address.replace("compareRunsMode=CHART", "compareRunsMode=TABLE"))
    data = page.get_by_text(f"digits ({runs[0].environment['data_fingerprint']})", exact=True)
    expect(data).to_have_count(len(runs), timeout=PATIENCE_MILLISECONDS)
    beside = sorted(middle(data.nth(index)) for index in range(len(runs)))
    # The newest is first.
    assert [middle(page.get_by_role("link", name=run.name)) for run in reversed(runs)] == pytest.approx(beside, abs=4)


def test_samples_of_the_same_latents_are_side_by_side(shown, page: Page) -> None:
    address, _ = shown
    page.goto(address.replace("compareRunsMode=CHART", "compareRunsMode=ARTIFACT"))
    expect_visible(page.get_by_text("samples_01_to_08").first)
    pictures = page.locator("img[src*='table_images']")
    expect(pictures.nth(1)).to_be_attached(timeout=PATIENCE_MILLISECONDS)
    for index in range(2):
        wait_until_drawn(page, index, "table_images")
    first, second = (pictures.nth(index).bounding_box() for index in range(2))
    assert first and second and first["y"] == second["y"] and first["x"] < second["x"], "in one row"
    row = pictures.first.locator("xpath=ancestor::div[@role='row'][1]").bounding_box()
    assert row and first["y"] + first["height"] / 2 <= row["y"] + row["height"], (
        "the upper half, with all samples, shows"
    )


def middle(element) -> float:
    """The distance of an element's middle from the top of the page, in pixels."""
    box = element.bounding_box()
    assert box
    return float(box["y"] + box["height"] / 2)


def expect_visible(element) -> None:
    expect(element).to_be_visible(timeout=PATIENCE_MILLISECONDS)


def wait_until_drawn(page: Page, index: int, source: str) -> None:
    """Wait until a picture has loaded and is a valid one."""
    is_drawn = "([source, index]) => document.querySelectorAll(`img[src*='${source}']`)[index]?.naturalWidth > 0"
    page.wait_for_function(is_drawn, arg=[source, index], timeout=PATIENCE_MILLISECONDS)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
