"""Reports in a real browser, where one is installed: every figure is there, nothing is fetched, nothing scrolls."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import HOSTILE, make_run, record, resumed_line, train_line

from warmup import report

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    lines = [*map(train_line, range(1, 401)), resumed_line(100), resumed_line(200, world_size=1)]
    runs = [
        make_run(folder / "resumed", lines),
        make_run(folder / "hostile", evaluation={"evaluations": [record(HOSTILE)]}),
        make_run(folder / ("a very long name of a run " * 6)),
    ]
    pages = {run.name: report.write_page([report.load(run)], run / "report.html") for run in runs[:2]}
    return pages | {"three": report.write_page([report.load(run) for run in runs], folder / "three.html")}


_OUTSIDE = """() => [...document.querySelectorAll("svg text, td, th, dd, dt, h1, h2, p")].filter(element => {
    const box = element.getBoundingClientRect(), card = element.closest("svg, .card, .tiles div, main");
    const around = card.getBoundingClientRect();
    return box.width && (box.left < around.left - 2 || box.right > around.right + 2 || box.bottom > around.bottom + 2
        || box.top < around.top - 2);
}).map(element => element.textContent)"""
"""Texts that do not stay within their card or figure."""
_OVERLAPS = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
    const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([one, a], index) => boxes.slice(index + 1).filter(([_, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3).map(([other, _]) => one + " | " + other));
})"""
"""Pairs of texts in a figure that cover each other."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["resumed", "hostile", "three"])
def test_a_page(browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, messages, fetched = context.new_page(), [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(pages[name].as_uri())
    assert (messages, fetched) == ([], [pages[name].as_uri()])
    boxes = [figure.bounding_box() for figure in page.query_selector_all("figure svg")]
    assert len(boxes) >= 3 and all(box["width"] > 250 and box["height"] > 150 for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_OUTSIDE) == []
    assert page.evaluate(_OVERLAPS) == []
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    line = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert abs(brightness(line) - brightness(paper)) > 90  # letters in figures follow too
    context.close()


def brightness(css: str) -> float:
    """The mean of red, green and blue of a colour such as rgb(1, 2, 3)."""
    return sum(map(int, css[4:-1].split(","))) / 3
