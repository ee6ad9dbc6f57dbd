"""What a person sees in MLflow: the pages that ganrun leads to, in a real browser, with the runs of a real server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
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
    """The address of the page that `ganrun ui` prints, and the two runs that are compared there."""
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
        visible(page.get_by_role("link", name=run.name).first)
    visible(page.get_by_text("eval/fid_classifier", exact=True).first)
    visible(page.get_by_text("eval/samples", exact=True).first)
    pictures = page.locator("img[src*='eval~last_samples']")
    expect(pictures).to_have_count(2, timeout=PATIENCE_MILLISECONDS)
    assert all(is_drawn(page, index, "eval~last_samples") for index in range(2))
    assert page.get_by_text("eval/neighbours").count() == 0, "what has no slider stands behind the scores"


def test_the_table_shows_each_run_beside_its_data(shown, page: Page) -> None:
    address, runs = shown
    page.goto(address.replace("compareRunsMode=CHART", "compareRunsMode=TABLE"))
    data = page.get_by_text(f"digits ({runs[0].environment['data_fingerprint']})", exact=True)
    expect(data).to_have_count(len(runs), timeout=PATIENCE_MILLISECONDS)
    beside = sorted(middle(data.nth(index)) for index in range(len(runs)))
    # The newest stands first.
    assert [middle(page.get_by_role("link", name=run.name)) for run in reversed(runs)] == pytest.approx(beside, abs=4)


def test_samples_of_the_same_latents_stand_side_by_side(shown, page: Page) -> None:
    address, _ = shown
    page.goto(address.replace("compareRunsMode=CHART", "compareRunsMode=ARTIFACT"))
    visible(page.get_by_text("samples_01_to_08").first)
    pictures = page.locator("img[src*='table_images']")
    expect(pictures.nth(1)).to_be_attached(timeout=PATIENCE_MILLISECONDS)
    assert is_drawn(page, 0, "table_images") and is_drawn(page, 1, "table_images")
    first, second = (pictures.nth(index).bounding_box() for index in range(2))
    assert first and second and first["y"] == second["y"] and first["x"] < second["x"], "in one row"
    row = pictures.first.locator("xpath=ancestor::div[@role='row'][1]").bounding_box()
    assert row and first["y"] + first["height"] / 2 <= row["y"] + row["height"], (
        "the upper half, with all samples, shows"
    )


def middle(what) -> float:
    """How far down the page its middle is, in pixels."""
    box = what.bounding_box()
    assert box
    return float(box["y"] + box["height"] / 2)


def visible(what) -> None:
    expect(what).to_be_visible(timeout=PATIENCE_MILLISECONDS)


def is_drawn(page: Page, index: int, source: str) -> bool:
    """Whether a picture has arrived and is one."""
    deadline = time.monotonic() + PATIENCE_MILLISECONDS / 1000
    question = "([source, index]) => document.querySelectorAll(`img[src*='${source}']`)[index]?.naturalWidth > 0"
    while time.monotonic() < deadline:
        if page.evaluate(question, [source, index]):
            return True
        time.sleep(0.2)
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
