"""The explorer in a browser: Voila serves notebook 09, and somebody uses it by keyboard.

``FIRETV_SCREENSHOTS=FOLDER pytest tests/test_explorer_page.py`` keeps what it sees. With
``FIRETV_EXPLORER=http://127.0.0.1:8866/`` it looks at a page that runs already: README's figure is
that of ``make explore``.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import papermill
import pytest
from conftest import make_rich_tables
from playwright.sync_api import Browser, Page, expect

from firetv.data import write_tables

ROOT = Path(__file__).resolve().parents[1]
SERVED = ROOT / "firetv/templates/explorer"
PARAMETERS = {"zone": "UTC", "date": "2024-03-30", "base": "ease", "dataset": "rich"}
STARTS, ANSWERS = 60_000, 5_000  # ms at most: everything, and one change on a busy machine
NARROW, WIDE = {"width": 400, "height": 900}, {"width": 1400, "height": 1000}

# Contrast (WCAG 2) of every text with the nearest background that is not transparent.
CONTRAST = """() => {
  const of = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = of(getComputedStyle(node).backgroundColor);
      if (color[3] === undefined || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const mixed = (ink, paper) => ink.slice(0, 3)
    .map((v, n) => v * (ink[3] ?? 1) + paper[n] * (1 - (ink[3] ?? 1)));
  const found = [];
  for (const node of document.querySelectorAll(".explorer *, h1")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || node.closest("select, script, style, .changed") || !node.offsetParent) continue;
    const paper = behind(node), ink = mixed(of(getComputedStyle(node).color), paper);
    const [low, high] = [light(ink), light(paper)].sort((a, b) => a - b);
    const faint = node.closest(":has(> [disabled])");  // what cannot be used may be faint
    if (!faint && (high + 0.05) / (low + 0.05) < 4.5)
      found.push(`${node.className} ${node.textContent.trim().slice(0, 30)}: ${ink} on ${paper}`);
  }
  return found;
}"""
OVERFLOW = "() => document.documentElement.scrollWidth - window.innerWidth"
# Milliseconds from a control's event until the list is another one.
TIMED = """() => {
  window.begun = null; window.took = [];
  document.addEventListener("change", () => { window.begun = performance.now(); }, true);
  new MutationObserver((changes) => {
    if (window.begun === null) return;
    if (changes.some((c) => c.target.closest?.(".listed")?.querySelector(".view"))) {
      window.took.push(performance.now() - window.begun); window.begun = null;
    }
  }).observe(document.querySelector(".explorer"), {childList: true, subtree: true});
}"""


@dataclass
class Seen:
    """What a page asked for, and what it complained of."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def address(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Voila on a free port, with the notebook on a small world; needs a browser to be of use."""
    if running := os.environ.get("FIRETV_EXPLORER"):
        yield running
        return
    root = tmp_path_factory.mktemp("page")
    tables = replace(make_rich_tables(), manifest={"name": "rich", "seed": 0})
    write_tables(tables, root / "data/rich")
    notebook, served = ROOT / "notebooks/09_explorer.ipynb", root / "09_explorer.ipynb"
    papermill.execute_notebook(
        notebook, served, PARAMETERS, prepare_only=True, progress_bar=False, log_output=False
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"JUPYTER_PATH": str(SERVED), "JUPYTER_CONFIG_PATH": str(SERVED)}
    places |= {"FIRETV_ROOT": str(root), "JUPYTER_DATA_DIR": str(root / "jupyter")}
    command = [sys.executable, "-m", "voila", "09_explorer.ipynb", "--no-browser"]
    server = subprocess.Popen(
        [*command, f"--port={port}"],
        cwd=root,
        env=os.environ | places,
        stdout=subprocess.DEVNULL,
        stderr=(root / "log").open("w"),
    )
    try:
        wait_for(port, server, root / "log")
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(10)


def wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    """Return once somebody listens."""
    for _ in range(STARTS // 100):
        assert server.poll() is None, log.read_text()
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"Voila did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def opened(browser: Browser, address: str) -> Iterator[tuple[Page, Seen]]:
    """The page, once its list and notifications are there."""
    page, seen = browser.new_page(viewport=WIDE), Seen()
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    page.goto(address, timeout=STARTS)
    page.wait_for_selector(".explorer .news", timeout=STARTS)
    page.evaluate(TIMED)
    yield page, seen
    page.close()


@pytest.fixture
def page(opened: tuple[Page, Seen]) -> Page:
    return opened[0]


def titles(page: Page) -> list[str]:
    return page.locator(".explorer .rows .title").all_inner_texts()


def status(page: Page) -> str:
    return page.locator(".explorer .status").inner_text()


def keep(page: Page, name: str) -> None:
    """Keep a screenshot where somebody wants to look at it."""
    if folder := os.environ.get("FIRETV_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_the_page_shows_a_list_and_no_code(page: Page) -> None:
    assert page.locator("h1").inner_text().rstrip("¶").endswith("?")
    assert len(titles(page)) == 10
    assert "import " not in page.locator("body").inner_text()
    assert "## " not in page.locator("body").inner_text()
    expect(page.locator(".explorer .news h3")).to_contain_text("would be told now")
    keep(page, "09_explorer")


def test_every_control_is_reached_by_tab_in_order_and_has_a_label(page: Page) -> None:
    controls = page.locator(".explorer .controls :is(select, input):not([disabled])")
    labels = controls.evaluate_all("nodes => nodes.map(n => n.labels[0]?.innerText.trim() ?? '')")
    assert labels[0] == "Examples"
    assert "" not in labels
    assert len(set(labels)) == len(labels)
    controls.first.focus()
    reached = []
    for _ in range(30):  # a date has several stops
        label = page.evaluate("document.activeElement.labels?.[0]?.innerText.trim()")
        reached += [label] if label and label not in reached else []
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert label is None or outline == "3px"
        page.keyboard.press("Tab")
    assert reached == labels


def test_hour_and_weather_change_the_list_by_keyboard(page: Page) -> None:
    live = page.locator(".explorer .status")
    assert live.get_attribute("role") == "status"
    for label, keys in {"Hour": ["End", "Home"], "Weather": ["ArrowUp", "ArrowUp"]}.items():
        shown = page.locator(".explorer .rows").inner_text()
        page.get_by_label(label, exact=True).focus()
        for key in keys:
            said = status(page)
            page.keyboard.press(key)
            expect(live).not_to_have_text(said, timeout=ANSWERS)
        assert page.locator(".explorer .rows").inner_text() != shown
        assert len(titles(page)) == 10
    assert "night" in status(page)
    assert "sunny" in status(page)
    took = page.evaluate("window.took")
    print(f"from a key to the list: {', '.join(f'{ms:.0f}' for ms in took)} ms")
    assert len(took) == 4
    assert max(took) < ANSWERS


def test_a_group_sees_how_well_each_is_served(page: Page) -> None:
    page.get_by_label("Examples").focus()
    page.keyboard.press("End")
    expect(page.locator(".explorer .members li")).to_have_count(4, timeout=ANSWERS)
    shares = page.locator(".explorer .members .share").all_inner_texts()
    assert all(re.match(r"\d+% of their own best list; counts 25%", text) for text in shares)
    page.get_by_label("activity").focus()
    page.keyboard.press("Space")
    expect(page.locator(".explorer .members .share").first).not_to_contain_text("25%")
    keep(page, "group")


def test_a_slip_is_told(page: Page) -> None:
    before = titles(page)
    people = page.get_by_label(re.compile("People"))
    said = people.input_value()
    people.fill("somebody")
    people.press("Enter")
    expect(page.locator(".explorer .status .wrong")).to_contain_text("somebody: not among")
    assert titles(page) == before
    people.fill(said)
    people.press("Enter")
    expect(page.locator(".explorer .status .wrong")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_is_read_in_every_light_and_width(page: Page, scheme: str, size: dict) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(size)
    page.wait_for_timeout(200)  # bars move there
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(OVERFLOW) <= 0
    keep(page, f"{scheme}-{size['width']}")


def test_it_asks_nobody_else_and_complains_of_nothing(opened: tuple[Page, Seen]) -> None:
    page, seen = opened
    page.wait_for_timeout(500)  # for notifications, which follow
    assert seen.errors == []
    own = re.compile(r"(http|ws)://127\.0\.0\.1:\d+/|data:|blob:")
    assert [url for url in seen.requests if not own.match(url)] == []
    assert len(seen.requests) > 3
