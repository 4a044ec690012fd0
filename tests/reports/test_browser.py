"""The page in a real browser: silent, alone, filtered, sorted, on a phone, and on paper.

Needs Debian's `chromium`, which .ci/run installs. Elsewhere the tests are skipped without it; in CI (CI is set) they
fail, so that a page nobody looked at cannot pass. Screenshots and the print are kept in the folder SSABENCH_ARTIFACTS,
or else with pytest's temporary files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from records_factory import GPU, SHAPE, gpu_sweep, timed, workload

from reports.page import Report, chapter, to_html
from reports.regressions import Outcome, Regressions
from reports.study import group, problem_tags

Open = Callable[..., Page]
TIME = "1-gyroid-bfloat16-time-fwd"


def compared(provider: str, ratio: float, verdict: str) -> Outcome:
    tags = problem_tags(SHAPE, "gyroid") | {"pass": "fwd", "family": provider.split("-")[0]}
    interval = (ratio - 0.01, ratio + 0.01)
    return Outcome(f"{provider} fwd", verdict, ratio, interval, 1.0, ratio, verdict == "slower", verdict, tags)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three studies of two shapes and two workloads, and a comparison."""
    eight = SHAPE.model_copy(update={"heads": 16, "head_dim": 64})
    newer = GPU.model_copy(update={"torch": "2.13.0", "fingerprint": "ffffffffffff"})
    records = gpu_sweep(tokens=(8192, 16384, 131072))
    records += [
        timed("ssa-triton", 8192, "fwd", 1.0, shape=eight),
        timed("dense-sdpa-flash", 8192, "fwd", 3.0, shape=eight),
    ]
    records += [timed("ssa-triton", 8192, "fwd", 2.0, workload=workload(8192, name="sphere"), environment=newer)]
    outcomes = [compared("dense-sdpa-flash", 1.0, "equivalent"), compared("ssa-triton", 1.1, "slower")]
    regressions = Regressions("1 regression in 2 measurements", ["BASE: 1", "HEAD: 2"], GPU, newer, 0.02, outcomes)
    report = Report("Speed", [chapter(study) for study in group(records)], regressions)
    index = tmp_path_factory.mktemp("page") / "index.html"
    index.write_text(to_html(report), encoding="utf-8")
    return index


@pytest.fixture
def visit(browser: Browser, path: Path) -> Iterator[Open]:
    """Opens the page, with a hash if given; afterwards it must have been silent and asked for no other file."""
    heard: list[str] = []
    asked: list[str] = []

    def open_page(state: str = "", **context: Any) -> Page:
        page = browser.new_context(
            viewport=context.pop("viewport", {"width": 1280, "height": 900}), **context
        ).new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.route(re.compile("^(?!file:)"), lambda route: route.abort())
        page.goto(path.as_uri() + state)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert heard == []
    assert {url.split("#")[0] for url in asked if not url.startswith("data:")} == {path.as_uri()}


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SSABENCH_ARTIFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def studies(page: Page) -> list[str]:
    """The ids of those shown."""
    return [study.get_attribute("id") or "" for study in page.query_selector_all(".study:visible")]


def drawn(page: Page, chart: str = TIME) -> set[str]:
    """The names of the traces that a chart shows, once it is drawn."""
    page.locator(f"[id='{chart}'] .main-svg").first.wait_for()
    found: list[str] = page.evaluate(
        "id => document.getElementById(id).data.filter(t => t.name && t.visible !== false).map(t => t.name)", chart
    )
    return set(found)


def unfold(page: Page, study: str = "study-1") -> None:
    page.locator(f"#{study} > details > summary").click()


def column(page: Page, position: int) -> list[str]:
    """The text of a column of the overview, in the order shown."""
    cells = page.locator(f"#overview tbody tr > :nth-child({position})")
    return [text.split("\n")[0] for text in cells.all_inner_texts()]


def test_the_overview_comes_first_and_studies_are_folded(visit: Open, artifacts: Path) -> None:
    page = visit()
    assert studies(page) == ["study-1", "study-2", "study-3"]
    assert page.locator(".study details[open]").count() == 0
    assert page.locator(".filters output").inner_text() == "3 of 3 studies"
    page.screenshot(path=artifacts / "page.png", full_page=True)


def test_a_chart_is_drawn_when_it_is_seen_and_answers_to_its_legend(visit: Open) -> None:
    page = visit()
    assert page.evaluate("id => document.getElementById(id).data === undefined", TIME)
    unfold(page)
    page.locator(f"[id='{TIME}']").scroll_into_view_if_needed()
    assert {"SSA Triton", "FlashAttention-2"} <= drawn(page)
    page.locator(f"[id='{TIME}'] .legendtoggle").first.click()
    page.wait_for_function("id => document.getElementById(id).data.some(t => t.visible === 'legendonly')", arg=TIME)


def test_hovering_shows_numbers_implementation_and_check(visit: Open) -> None:
    page = visit("#at=study-1")
    chart = page.locator(f"[id='{TIME}']")
    chart.scroll_into_view_if_needed()
    drawn(page)
    chart.locator(".scatterlayer .point").first.hover(force=True)
    label = chart.locator(".hoverlayer .hovertext")
    label.wait_for()
    text = label.text_content() or ""
    for expected in ("tokens", " ms (p20 ", "ran: triton", "check passed"):
        assert expected in text


def test_filters_narrow_studies_rows_columns_and_charts_and_stand_in_the_address(visit: Open) -> None:
    page = visit()
    page.get_by_text("32 × 32", exact=True).first.click()
    page.get_by_text("gyroid", exact=True).first.click()
    assert studies(page) == ["study-1"]
    assert page.locator("#overview tbody tr:visible").count() == 1
    assert page.locator("#study-1 > details[open]").count() == 1  # the only one left opens
    page.get_by_text("dense", exact=True).first.click()
    page.get_by_text("fwd", exact=True).first.click()
    page.locator(f"[id='{TIME}']").scroll_into_view_if_needed()
    assert drawn(page) == {"FlashAttention-2", "cuDNN attention", "dense math"}
    assert not page.locator(f"[id='{TIME.replace('fwd', 'bwd')}']").is_visible()
    assert not page.locator("#study-1 th", has_text="nsa-triton").first.is_visible()
    assert page.locator("#overview th:visible", has_text="bwd").count() == 0
    assert page.url.endswith("#shape=32+%C3%97+32&workload=gyroid&pass=fwd&family=dense")
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelectorAll('.study:not([hidden])').length === 3")
    assert "SSA Triton" in drawn(page)
    assert page.url.endswith("#")


def test_an_address_restores_what_it_says(visit: Open) -> None:
    page = visit("#workload=sphere&pass=fwd")
    assert studies(page) == ["study-3"]
    assert page.get_by_label("sphere").is_checked()
    assert page.locator(".filters output").inner_text() == "1 of 3 studies"


def test_the_overview_leads_to_a_study_and_keeps_the_filters(visit: Open) -> None:
    page = visit("#pass=fwd")
    page.locator("#overview a[href='#study-2']").click()
    assert page.locator("#study-2 > details[open]").count() == 1
    assert page.url.endswith("#pass=fwd&at=study-2")
    assert page.get_by_label("fwd", exact=True).is_checked()


def test_a_click_on_a_header_sorts_by_number_and_back(visit: Open) -> None:
    page = visit()
    header = page.locator("#overview thead th").nth(1)
    original = column(page, 2)
    assert original == ["128K", "8K", "8K"]
    header.get_by_role("button").click()
    assert (column(page, 2), header.get_attribute("aria-sort")) == (["8K", "8K", "128K"], "ascending")
    header.get_by_role("button").press("Enter")
    assert (column(page, 2), header.get_attribute("aria-sort")) == (["128K", "8K", "8K"], "descending")
    header.get_by_role("button").press("Enter")
    assert (column(page, 2), header.get_attribute("aria-sort")) == (original, None)


def test_gaps_are_last_whichever_way_a_column_is_sorted(visit: Open) -> None:
    page = visit()
    headers = page.locator("#overview thead th")
    position = headers.all_inner_texts().index("fwd over fastest") + 1
    header = headers.nth(position - 1)
    for _ in range(2):
        header.get_by_role("button").click()
        assert column(page, position)[-1] == "–"


def test_regressions_come_with_a_forest_that_filters_close(visit: Open) -> None:
    page = visit()
    chart = "regressions-forest"
    assert drawn(page, chart) == {"slower", "equivalent"}
    rows = page.locator("#regressions .table").first.locator("tbody tr:visible")
    assert rows.first.inner_text().startswith("ssa-triton fwd")  # the worst first
    page.get_by_text("dense", exact=True).first.click()
    assert drawn(page, chart) == {"equivalent"}
    assert rows.count() == 1
    assert page.evaluate("id => document.getElementById(id).data.find(t => t.visible !== false).y", chart) == [0]
    page.get_by_text("16 × 64", exact=True).first.click()
    assert not page.locator(f"#{chart}").is_visible()
    effects = page.locator("#regressions tr", has_text="PyTorch").inner_text()
    assert effects.split("\t")[1:] == ["2.9.1", "2.13.0", "not comparable"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(visit: Open, artifacts: Path, scheme: str) -> None:
    page = visit(
        "#at=study-1", viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    for section in page.query_selector_all("#study-1 figure"):
        section.scroll_into_view_if_needed()
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(".filters details[open]").count() == 0
    ink = page.locator(f"[id='{TIME}'] .xtitle").evaluate("e => getComputedStyle(e).fill")
    assert ink == {"light": "rgb(27, 33, 39)", "dark": "rgb(227, 231, 234)"}[scheme]
    page.screenshot(path=artifacts / f"phone-{scheme}.png", full_page=True)


def test_a_print_is_whole_on_white_and_leaves_the_page_as_it_was(visit: Open, artifacts: Path) -> None:
    page = visit("#shape=16+%C3%97+64", color_scheme="dark")
    unfold(page, "study-2")  # folds what the filter had opened
    page.evaluate("addEventListener('afterprint', () => { window.printed = true; })")
    page.evaluate(
        "addEventListener('beforeprint', () => { window.drawn = [...document.querySelectorAll('#study-2 .chart')]"
        ".map(c => [!!c.querySelector('.main-svg'), c.layout.width, c.layout.template.layout.font.color]); })"
    )
    content = page.pdf(path=artifacts / "page.pdf", format="A4")
    assert content.startswith(b"%PDF")
    assert page.evaluate("window.drawn").count([True, 325, "#1b2127"]) == page.locator("#study-2 .chart").count()
    page.wait_for_function("window.printed")
    assert page.locator("#study-2 > details[open]").count() == 0
    unfold(page, "study-2")
    page.wait_for_function(
        "[...document.querySelectorAll('#study-2 .chart')].every(c => c._fullLayout.width === c.clientWidth)"
    )


def test_without_scripts_the_page_still_says_everything(browser: Browser, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert not page.locator(".filters").is_visible()
    unfold(page)
    assert page.get_by_alt_text("Time against tokens, forward").first.is_visible()
    context.close()
