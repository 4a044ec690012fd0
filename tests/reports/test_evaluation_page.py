"""The page of an evaluation in a real browser: silent, alone, complete, and no wider than a phone.

As in test_browser.py, needs Debian's `chromium`; screenshots are kept in the folder SSABENCH_ARTIFACTS.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser
from rows_factory import PROTOCOL, failed, ok

from eval.evaluate import PICTURES
from eval.job import picture_paths
from eval.pictures import VIEW, save
from reports.evaluation import render_evaluation

PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation")
    rows = [
        ok(asset, method, cd=float(value))
        for value, asset in enumerate(["chair", "a lamp with a long name_and_no_spaces_in_it"])
        for method in ("ours", "theirs")
    ]
    for row in rows:
        for path in picture_paths(out / PICTURES, row.asset, row.method):
            save(Image.new("RGB", (VIEW.size, VIEW.size), "grey"), path)
    rows += [failed("stool", "ours"), failed("stool", "theirs", "prediction has <no> triangles")]
    return render_evaluation(rows, PROTOCOL, out)


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE], ids=["desk", "phone"])
def test_the_page(browser: Browser, page_file: Path, tmp_path: Path, viewport: dict[str, int]) -> None:
    heard: list[str] = []
    asked: list[str] = []
    page = browser.new_context(viewport=viewport).new_page()  # type: ignore[arg-type]
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.route(re.compile("^(?!file:|data:)"), lambda route: route.abort())
    page.goto(page_file.as_uri())
    artifacts = Path(os.environ.get("SSABENCH_ARTIFACTS", tmp_path))
    artifacts.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=artifacts / f"evaluation-{viewport['width']}.png", full_page=True)

    assert heard == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    # Two assets by two methods have two pictures each, and one of the reference.
    sizes = page.evaluate("Array.from(document.images, image => image.naturalWidth)")
    assert sizes == [VIEW.size] * 10
    assert page.locator(".exhibit").count() == 3
    assert page.locator("article", has_text="prediction has <no> triangles").count() == 1
    page.context.close()
