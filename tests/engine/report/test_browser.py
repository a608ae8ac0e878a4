"""The report in a real browser: what a person sees, clicks and prints, on a phone, a tablet and a desk."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_chromium
from report_runs import finished_run

from engine.report.page import PAGE, write_report

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: install one, or name it in the variable CHROMIUM"
)
WIDTHS = (360, 820, 1280)
# Elements that stick out of the page to the right, but for those in a box of their own that scrolls.
STICKING_OUT = """
[...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > document.documentElement.clientWidth + 1 &&
    !element.closest(".scroll, pre, nav ul, .skip") && getComputedStyle(element).display !== "none";
}).map((element) => element.outerHTML.slice(0, 120))
"""
VISIBLE_DIALOGS = '[...document.querySelectorAll("dialog")].filter((each) => each.checkVisibility()).length'
FIRST = "#pictures .picture:nth-child(3) a.opens"
# Luminance of text against what is behind it, as in WCAG 2.2.
CONTRAST = """
(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
      const c = part / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const low = [];
  for (const element of document.querySelectorAll("main *, header *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, .unseen")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(element.outerHTML.slice(0, 120));
  }
  return low;
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rundir, run = finished_run(tmp_path_factory.mktemp("browser"))
    write_report(rundir, run)
    return rundir.storage.local_path(PAGE)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with Browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(window: Browser, page: Path) -> Browser:
    """Return the page, newly opened on a desk."""
    window.emulate()
    window.resize(1280)
    window.open(page)
    return window


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_and_every_chart_has_a_size(browser: Browser, page: Path, width: int) -> None:
    browser.resize(width)
    browser.open(page)
    browser.run('document.querySelectorAll("details").forEach((each) => { each.open = true; })')
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(STICKING_OUT) == []
    sizes = browser.run(
        '[...document.querySelectorAll("svg.chart, svg.track, svg.share, table.heat, img.plain")]'
        ".map((each) => each.getBoundingClientRect()).map((box) => [box.width, box.height])"
    )
    assert len(sizes) > 20
    assert min(min(size) for size in sizes) >= 8
    charts = browser.run(
        '[...document.querySelectorAll("svg.chart")].map((each) => each.getBoundingClientRect().width)'
    )
    assert min(charts) >= 250
    texts = browser.run(
        '[...document.querySelectorAll("svg.chart text")].map((each) => each.getBoundingClientRect().height)'
    )
    assert min(texts) >= 9


def test_text_in_charts_is_not_cut_off(browser: Browser) -> None:
    cut = browser.run(
        '[...document.querySelectorAll("svg.chart text")].filter((text) => {'
        "  const box = text.getBoundingClientRect(), chart = text.ownerSVGElement.getBoundingClientRect();"
        "  return box.left < chart.left - 1 || box.right > chart.right + 1 || box.bottom > chart.bottom + 1;"
        "}).map((text) => text.textContent)"
    )
    assert cut == []


def test_on_a_phone_a_heat_map_is_seen_as_a_whole(browser: Browser, page: Path) -> None:
    browser.resize(360)
    browser.open(page)
    assert browser.run(
        '[...document.querySelectorAll("table.heat")].every((map) => map.parentElement.scrollWidth <= 330)'
    )
    assert browser.run('[...document.querySelectorAll("table.heat td small")].every((each) => !each.checkVisibility())')


def test_the_verdict_and_its_reasons_are_seen_before_anything_is_scrolled(browser: Browser, page: Path) -> None:
    for width in WIDTHS:
        browser.resize(width)
        browser.open(page)
        bottoms = browser.run(
            '["h1", ".why li"].map((each) => document.querySelector(each).getBoundingClientRect().bottom)'
        )
        assert max(bottoms) < 900


def test_pictures_and_charts_have_words(browser: Browser) -> None:
    assert browser.run('[...document.querySelectorAll("img")].every((each) => each.alt)')
    assert browser.run('[...document.querySelectorAll("svg[role=img]")].every((each) => each.querySelector("title"))')
    assert browser.run(
        '[...document.querySelectorAll("svg")].every((each) => each.closest("[role=img], [aria-hidden]"))'
    )
    assert browser.run('[...document.querySelectorAll("img")].every((each) => each.naturalWidth || each.loading)')


def test_a_click_opens_where_a_picture_comes_from_and_escape_closes_it(browser: Browser) -> None:
    browser.click(FIRST)
    browser.wait_for(f"({VISIBLE_DIALOGS}) === 1")
    words = browser.run('document.querySelector("dialog[open]").innerText')
    for fact in ("source key", "shard file", "tar member", "verdict", "severity", "editor seed"):
        assert fact in words
    assert re.search(r"score directional\s+0\.40", words)
    # The placebo, the edit, and the evidence before and after, each of them drawn.
    browser.wait_for('[...document.querySelectorAll("dialog[open] .large img")].every((each) => each.naturalWidth > 0)')
    assert browser.run('document.querySelectorAll("dialog[open] .large figure").length') == 4
    browser.press("Escape")
    browser.wait_for(f"({VISIBLE_DIALOGS}) === 0")
    # Focus is where it was: the next key goes on from there.
    browser.wait_for(f"document.activeElement === document.querySelector({FIRST!r})")


@pytest.mark.parametrize("key", ["Enter", " "])
def test_keys_alone_open_and_close_a_picture(browser: Browser, key: str) -> None:
    browser.run(f"document.querySelector({FIRST!r}).focus()")
    browser.press(key)
    browser.wait_for(f"({VISIBLE_DIALOGS}) === 1")
    assert browser.run('document.querySelector("dialog[open]").contains(document.activeElement)')
    # Nothing behind it can be reached.
    browser.press("Tab")
    assert browser.run('document.activeElement === document.body || !!document.activeElement.closest("dialog[open]")')
    browser.run('document.querySelector("dialog[open] .close").focus()')
    browser.press("Enter")
    browser.wait_for(f"({VISIBLE_DIALOGS}) === 0")


def test_the_close_link_and_a_click_beside_close_it_too(browser: Browser) -> None:
    browser.click(FIRST)
    browser.click("dialog[open] .close")
    browser.wait_for(f"({VISIBLE_DIALOGS}) === 0")
    browser.click(FIRST)
    browser.click_at(5, 5)
    browser.wait_for(f"({VISIBLE_DIALOGS}) === 0")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_dialog_fits_the_screen(browser: Browser, page: Path, width: int) -> None:
    browser.resize(width)
    browser.open(page)
    browser.click(FIRST)
    box = browser.run(
        '(() => { const box = document.querySelector("dialog[open]").getBoundingClientRect();'
        "return [box.left, box.right, box.top, box.bottom]; })()"
    )
    assert box[0] >= 0
    assert box[1] <= width
    assert box[2] >= 0
    assert box[3] <= 900
    assert browser.run(
        'document.querySelector("dialog[open]").scrollWidth <= document.querySelector("dialog[open]").clientWidth'
    )


def test_evidence_is_switched_on_and_off_by_a_click(browser: Browser) -> None:
    def shown() -> list[str]:
        return list(
            browser.run(
                '[...new Set([...document.querySelectorAll("#pictures .opens img.evidence")]'
                ".filter((each) => each.checkVisibility()).map((each) => each.className))]"
            )
        )

    assert shown() == []
    assert not browser.run('document.querySelector(".evidence-help").checkVisibility()')
    browser.click('input[value="patient"]')
    assert shown() == ["evidence patient"]
    assert "cells −64" in browser.run('document.querySelector("#pictures .rows").innerText')
    assert browser.run('document.querySelector(".evidence-help").checkVisibility()')
    browser.click('input[value="reinforced"]')
    assert shown() == ["evidence reinforced"]
    browser.click('input[value="none"]')
    assert shown() == []


def test_the_overlay_covers_its_picture_and_colours_it(browser: Browser) -> None:
    browser.click('input[value="patient"]')
    boxes = browser.run(
        f'[...document.querySelectorAll("{FIRST} img")].slice(0, 2)'
        ".map((each) => each.getBoundingClientRect()).map((box) => [box.x, box.y, box.width, box.height])"
    )
    assert boxes[0] == boxes[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(browser: Browser, page: Path, scheme: str) -> None:
    browser.emulate(prefers_color_scheme=scheme)
    browser.open(page)
    browser.run('document.querySelectorAll("details").forEach((each) => { each.open = true; })')
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 128) is (scheme == "dark")
    assert browser.run(CONTRAST) == []


def test_print_shows_the_results_and_no_controls(browser: Browser) -> None:
    browser.click(FIRST)
    browser.press("Escape")
    browser.emulate("print")
    browser.resize(720)
    for control in ("nav", ".switch", "dialog"):
        assert not browser.run(f'document.querySelector("{control}").checkVisibility()')
    assert browser.run('document.querySelector("table.heat").checkVisibility()')
    assert browser.run("document.documentElement.scrollWidth") <= 720
    assert browser.run('[...document.querySelectorAll(".scroll")].every((each) => each.scrollWidth <= 720)')
    assert len(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"]) > 20_000


def test_the_page_works_without_its_script(browser: Browser, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        browser.click(FIRST)
        browser.wait_for("location.hash")
        browser.wait_for(f"({VISIBLE_DIALOGS}) === 1")
        browser.click("dialog:target .close")
        browser.wait_for("location.hash === '#pictures'")
        browser.wait_for(f"({VISIBLE_DIALOGS}) === 0")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_nothing_is_asked_of_any_network_and_nothing_complains(browser: Browser, page: Path) -> None:
    browser.click(FIRST)
    browser.press("Escape")
    browser.click('input[value="patient"]')
    outside = [address for address in browser.requests() if not address.startswith("data:")]
    assert outside == [page.as_uri()]
    assert browser.complaints() == []
