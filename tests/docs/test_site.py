"""The documentation as a site: it builds without a warning, and a browser loads nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOADED = re.compile(r'<(?:script|img|iframe|link(?! rel="(?:canonical|next|prev)"))\b[^>]*? (?:src|href)="([^"]*)"')
CODE = re.compile(r"<(code|pre)\b.*?</\1>", re.S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A link or anchor that leads nowhere and a page that no menu shows are errors: see mkdocs.yml."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_the_documentation_is_there(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md") if "examples" not in path.parts]
    assert [page for page in pages if not (site / page).with_suffix(".html").is_file()] == []


def test_marks_and_markdown_are_not_shown(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = CODE.sub("", page.read_text(encoding="utf-8"))
        assert not re.search(r"&lt;!--|```|\]\(|^\s*[-*|] ", text, re.M), page


def test_no_page_names_anything_to_load_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert LOADED.findall(text), page
        assert [address for address in LOADED.findall(text) if "//" in address] == []


def test_a_browser_loads_nothing_from_elsewhere(site: Path) -> None:
    """Nor by a script; the pages differ only in their text."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no browser: install Chromium, on Debian by apt-get install chromium")
    requests: set[str] = set()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page()
        page.on("request", lambda request: requests.add(request.url))
        for name in ("index.html", "how-to/write-a-plugin.html"):
            page.goto((site / name).as_uri(), wait_until="networkidle")
        opened.close()
    assert (site / "index.html").as_uri() in requests
    assert [url for url in requests if not url.startswith((site.as_uri(), "data:", "blob:"))] == []
