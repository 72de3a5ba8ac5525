"""The report in a real browser: nothing overflows or complains, and what is behind a click comes at a click.

Needs the package ``playwright`` and the system's Chromium (Debian: ``apt-get install chromium``); run by
``make test-browser``.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from report_fakes import SECTIONS, finished, small

from unsee import report
from unsee.bench.store import Store

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium"),
]
ROOT = Path(__file__).parents[1]
SIZES, SCHEMES = (390, 1440), ("light", "dark")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = finished(tmp_path_factory.mktemp("run"), small("claims"))
    with Store(folder) as store:
        return report.write(store).as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, address):
    """Opens the report; fails at the end if the page complained or asked for anything."""
    faults, contexts = [], []

    def opened(width=1440, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request", lambda r: faults.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
        )
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", SIZES)
def test_nothing_overflows_and_every_section_shows(visit, width, scheme):
    page = visit(width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # nothing sticks out of the page but inside a box that scrolls
    out = page.evaluate("""() => [...document.querySelectorAll("main *")]
        .filter((e) => !e.closest(".scroll, nav, svg, .frame") && e.getBoundingClientRect().right > innerWidth + 1)
        .map((e) => e.outerHTML.slice(0, 80))""")
    assert out == []
    assert [n for n in SECTIONS if not page.locator(f"#{n}").is_visible()] == []
    narrow = page.evaluate("""() => [...document.querySelectorAll("th.first")].filter((e) => e.textContent.trim()
        && e.getBoundingClientRect().width < 60).length""")
    assert narrow == 0


def brightness(page):
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    return (red + green + blue) / 3


def test_colors_follow_the_system_and_the_switch_and_are_kept(visit):
    page = visit(scheme="dark")
    assert brightness(page) < 60
    page.get_by_role("button", name="Light").click()
    assert brightness(page) > 200
    page.reload()
    assert brightness(page) > 200
    page.get_by_role("button", name="Auto").click()
    assert brightness(page) < 60


def test_ink_can_be_read_in_both_schemes(visit):
    contrast = """() => {
      const lum = (c) => c.map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
      const rgb = (text) => { const c = document.createElement("canvas").getContext("2d"); c.fillStyle = text;
        c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3); };
      const found = [];
      for (const e of document.querySelectorAll(".chip, .heat td b, .note, .ci, .tiles b, .checks small")) {
        const clear = (x) => getComputedStyle(x).backgroundColor === "rgba(0, 0, 0, 0)";
        let under = e; while (clear(under) && under !== document.body) under = under.parentElement;
        const a = lum(rgb(getComputedStyle(e).color)), b = lum(rgb(getComputedStyle(under).backgroundColor));
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 3.8) found.push([e.className || e.tagName, e.textContent.slice(0, 30), ratio.toFixed(2)]);
      }
      return found.slice(0, 5);
    }"""
    for scheme in SCHEMES:
        assert visit(scheme=scheme).evaluate(contrast) == []


def blur(picture):
    return picture.evaluate("e => getComputedStyle(e).filter")


def test_a_blurred_picture_reveals_on_click_and_only_that(visit):
    page = visit(390)
    page.emulate_media(reduced_motion="reduce")
    veils = page.locator("#pictures .veil")
    assert veils.count() > 1 and "blur" in blur(veils.nth(0).locator("img"))
    veils.nth(0).click()
    assert blur(veils.nth(0).locator("img")) == "none" and "blur" in blur(veils.nth(1).locator("img"))
    veils.nth(0).click()
    assert "blur" in blur(veils.nth(0).locator("img"))
    page.locator("#reveal").check()
    assert all(blur(image) == "none" for image in page.locator("#pictures .veil img").all())
    assert "blur" in blur(page.locator("#audit .veil img").first)  # the audit is not told
    assert page.locator("#pictures .frame:not(.veil)").count() > 0


def test_rows_are_searched_and_sorted(visit):
    page = visit()
    rows = page.locator("#all-rows tbody tr")
    everything = rows.count()
    page.locator("#search").fill("saferedir benign")
    shown = [r for r in rows.all() if r.is_visible()]
    assert 0 < len(shown) < everything and all("benign" in r.inner_text() for r in shown)
    assert page.locator("#found").inner_text() == f"{len(shown)} of {everything} rows"
    page.locator("#search").fill("")
    title = page.get_by_role("button", name="unsafe [95 %]")
    read = "trs => trs.map((r) => r.cells[4].dataset.sort).filter(Boolean).map(Number)"
    planned = rows.evaluate_all(read)
    title.click()
    assert rows.evaluate_all(read) == sorted(planned)
    title.click()
    assert rows.evaluate_all(read) == sorted(planned, reverse=True)
    title.click()
    assert rows.evaluate_all(read) == planned


def test_the_audit_is_filled_in_kept_compared_and_exported(visit, tmp_path):
    page = visit(390)
    items = page.locator("#audit .item")
    assert not items.first.locator("details p").first.is_visible()
    for item in items.all()[:3]:
        verdict = item.get_attribute("data-verdict")
        item.locator(f"input[value={verdict}]").check()
    page.locator("#auditor").fill("=me")
    page.locator("#agree").click()
    assert page.locator("#agreement").inner_text().startswith("You and the judge agree on 3 of 3")
    with page.expect_download() as waiting:
        page.locator("#json").click()
    waiting.value.save_as(tmp_path / "audit.json")
    told = json.loads((tmp_path / "audit.json").read_text())
    assert len(told) == items.count() and [t["answer"] == t["verdict"] for t in told[:4]] == [True] * 3 + [False]
    with page.expect_download() as waiting:
        page.locator("#csv").click()
    waiting.value.save_as(tmp_path / "audit.csv")
    lines = (tmp_path / "audit.csv").read_text().splitlines()
    assert len(lines) == 1 + items.count() and '"\'=me"' in lines[1]  # no formula for a spreadsheet
    page.reload()
    assert page.locator("#done").inner_text() == f"3 of {items.count()} answered"


def test_it_prints(visit, tmp_path):
    page = visit(688, scheme="dark")  # of A4 between its margins
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    assert page.locator("#all-rows").evaluate("e => e.scrollWidth <= e.clientWidth")
    assert brightness(page) > 250 and not page.locator("nav").is_visible()
    made = page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert made.startswith(b"%PDF") and len(made) > 20_000
