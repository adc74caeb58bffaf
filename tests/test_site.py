"""The whole site, as a browser shows it from disk; the API reference of the whole package."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from executed import write_executed, write_found
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

import firetv.abtest
from firetv.cli import app
from firetv.cover import OF_MODELS, SPLIT
from firetv.pages import write_page
from firetv.site import write_changes, write_comparison

MODULES = [found.name for found in pkgutil.iter_modules(firetv.__path__)]
SHOWN = ("index", "01_toy", "changes", "sweeps/01_toy/comparison", "api/index", "api/abtest")
PHONE, DESKTOP = 390, 1280
# Elements that stick out to the right, except within what scrolls by itself.
OUTSIDE = """() => [...document.querySelectorAll("main *")].filter(
    e => !e.closest(".scroll, pre, .highlight") && e.getBoundingClientRect().right > innerWidth + 1
).map(e => e.outerHTML.slice(0, 80))"""
# Text whose contrast to what lies below it is under 4.5 : 1.
FAINT = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => parse(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const below = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if ((parse(c)[3] ?? 1) === 1) return c;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(0,0,0)" : "rgb(255,255,255)";
  };
  return [...document.querySelectorAll("body *")].filter(
    e => e.checkVisibility({opacityProperty: true})
      && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
  ).filter(e => {
      const [a, b] = [light(getComputedStyle(e).color), light(below(e))].sort((x, y) => x - y);
      return (b + 0.05) / (a + 0.05) < 4.5;
    }).map(e => e.outerHTML.slice(0, 80));
}"""


def sweep_table(folder: Path, metrics: int = 2, sets: int = 3) -> Path:
    """A sweep's folder with its table; one of the sets has a page."""
    rows = [
        {"params.rate": rate, "section": "s", "model": "EASE", "split": "t", "metric": f"m{n}@10"}
        | {"value": rate / 10, "low": 0.0, "high": rate, "n": 7, "seeds": 1, "seconds": 1.0}
        | {"notebook": f"rate={rate}/01_toy.ipynb", "status": "done", "error": ""}
        for rate in range(1, sets + 1)
        for n in range(metrics)
    ]
    (folder / "rate=1").mkdir(parents=True)
    (folder / "rate=1/01_toy.html").write_text("<title>a set</title>")
    pd.DataFrame(rows).to_csv(folder / "sweep.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The site of a small project, with the real API reference."""
    root = tmp_path_factory.mktemp("my project")
    folder = root / "reports"
    (root / "CHANGELOG.md").write_text("# Changes\n\n- See [what it is](README.md#it).\n")
    (root / "README.md").write_text("| [01](notebooks/01_toy.ipynb) | q | By *much*. |\n")
    write_page(write_executed(folder / "01_toy.ipynb"))
    write_found(folder / "01_toy.json")
    rows = pd.DataFrame({"model": ["EASE"], "split": SPLIT, "value": [0.2]})
    write_found(folder / f"{OF_MODELS}.json", rows)
    sweep_table(folder / "sweeps/01_toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRETV_ROOT", str(root))
        patch.delenv("FIRETV_REPORTS", raising=False)
        done = CliRunner().invoke(app, ["site"], catch_exceptions=False)
    assert done.output == f"Open {folder / 'index.html'}\n"
    yield folder


# In a browser


@pytest.fixture(params=[(PHONE, "dark"), (DESKTOP, "light")], ids=["phone", "desktop"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    width, scheme = request.param
    with browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme
    ) as context:
        yield context.new_page()


def test_pages_open_from_disk_fit_and_can_be_read(site: Path, page: Page) -> None:
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    for name in SHOWN:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate(OUTSIDE) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate(FAINT) == [], name
        assert page.locator("main").count() == page.locator("h1").count() == 1
    bad = "color: #777; background: #777; width: 2000px"
    page.set_content(f"<main><p style='{bad}'>grey and wide</p></main>")
    assert len(page.evaluate(FAINT)) == len(page.evaluate(OUTSIDE)) == 1  # they can fail
    assert said == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert len(asked) >= len(SHOWN)


def test_code_is_folded_and_contents_lead_to_headings(site: Path, page: Page) -> None:
    page.goto((site / "01_toy.html").as_uri())
    code = page.get_by_text("show(wide)")
    assert not code.is_visible()
    page.get_by_text("Code [2]").click()
    assert code.is_visible()
    heading = page.locator("#What-we-learned")
    if page.viewport_size["width"] == PHONE:
        page.locator("nav summary").click()
    page.locator("nav a:visible", has_text="What we learned").click()
    page.wait_for_function("document.querySelector('#What-we-learned').matches(':target')")
    assert heading.bounding_box()["y"] < 800
    wide = page.locator(".scroll").first
    assert wide.evaluate("e => e.scrollWidth > e.clientWidth")


def test_paper_has_neither_code_nor_contents(site: Path, page: Page) -> None:
    page.goto((site / "01_toy.html").as_uri())
    page.emulate_media(media="print", color_scheme="light")
    assert page.locator("details.code:visible, nav:visible").count() == 0
    colors = "e => getComputedStyle(e).color"
    link = page.locator("main p a").first.evaluate(colors)
    assert link == page.locator("main p").first.evaluate(colors)


# Links, landmarks, headings


@cache
def text_of(page: Path) -> str:
    return page.read_text("utf-8")


@cache
def ids(page: Path) -> list[str]:
    """The ids of a page; quotes in its text are written as entities."""
    return re.findall(r'<[^>]+ id="([^"]+)"', text_of(page))


def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(text_of(page), "html.parser")


def broken(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to no element of it."""
    found = []
    for link in re.findall(r'<a [^>]*href="([^"]+)"', text_of(page)):
        path, _, anchor = unquote(link).partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        if path.startswith("https://"):
            continue
        if not target.is_file() or (
            anchor and target.suffix == ".html" and anchor not in ids(target)
        ):
            found.append(link)
    return found


def test_every_link_leads_somewhere(site: Path) -> None:
    assert {page.stem for page in (site / "api").glob("*.html")} == {"index", *MODULES}
    assert broken(site / "changes.html") == []
    pages = sorted(site.rglob("*.html"))
    assert {page.name: links for page in pages if (links := broken(page))} == {}
    bad = site.parent / "bad.html"
    bad.write_text('<a href="no.html">1</a><a href="reports/index.html#no">2</a>')
    assert broken(bad) == ["no.html", "reports/index.html#no"]  # it can fail


def test_headings_skip_no_level_and_ids_are_unique(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.parent.name == "rate=1":
            continue
        levels = [int(level) for level in re.findall(r"<h([1-6])\b", text_of(page))]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), page
        assert len(ids(page)) == len(set(ids(page))), page
        assert '<html lang="en">' in text_of(page)
        assert all(' alt="' in image for image in re.findall(r"<img [^>]+>", text_of(page)))


# Reference


def test_the_reference_has_every_public_function_and_class(site: Path) -> None:
    missing = []
    for name in MODULES:
        module = importlib.import_module(f"firetv.{name}")
        own = {
            member
            for member, value in vars(module).items()
            if (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == module.__name__
            and not member.startswith("_")
        }
        missing += [(name, member) for member in own - set(ids(site / f"api/{name}.html"))]
    assert missing == []


def test_the_reference_lists_each_module_with_its_first_line(site: Path) -> None:
    listed = {
        term.get_text(): term.find_next_sibling("dd").get_text()
        for term in soup(site / "api/index.html").select("dt")
    }
    assert listed.keys() == set(MODULES)
    assert listed["abtest"] == inspect.getdoc(firetv.abtest).splitlines()[0]


def test_the_reference_shows_how_things_are_called(site: Path) -> None:
    text = soup(site / "api/abtest.html").get_text()
    assert "Interval(value: float, low: float, high: float, n: int)" in text
    assert "Annotated" not in text_of(site / "api/cli.html")
    assert (
        "self" not in soup(site / "api/models.html").select_one("#Random ~ .signature").get_text()
    )
    pages = [text_of(page) for page in (site / "api").glob("*.html")]
    assert not any(re.search(r"object at 0x|:(class|func|meth|mod):", page) for page in pages)


# Sweeps and changes


def test_a_comparison_shows_metrics_best_first(site: Path) -> None:
    page = soup(site / "sweeps/01_toy/comparison.html")
    assert [h.get_text() for h in page.select("section h2")] == ["m0@10 by rate", "m1@10 by rate"]
    first = page.select_one("tbody tr").get_text(" ")
    assert first == "EASE 3 0.300 [0.000, 3.000]"
    assert [link["href"] for link in page.select("main li a")] == ["rate=1/01_toy.html"]


def test_of_many_metrics_the_rest_is_named_and_the_page_is_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firetv.site.MOST_METRICS", 1)
    folder = sweep_table(tmp_path / "sweep", metrics=3, sets=2)
    page = write_comparison(folder)
    text = page.read_text("utf-8")
    assert "Not drawn: m1@10, m2@10." in text
    assert write_comparison(folder).read_text("utf-8") == text


def test_a_sweep_without_results_has_no_page(tmp_path: Path) -> None:
    folder = sweep_table(tmp_path / "sweep")
    write_comparison(folder)
    table = pd.read_csv(folder / "sweep.csv").assign(metric=None, value=None, status="failed")
    table.to_csv(folder / "sweep.csv", index=False)
    assert write_comparison(folder) is None
    assert not (folder / "comparison.html").exists()


def test_links_of_the_change_log_start_from_the_page(site: Path) -> None:
    link = soup(site / "changes.html").select_one("main li a")
    assert link["href"] == "../README.md#it"


def test_without_a_change_log_there_is_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRETV_ROOT", str(tmp_path))
    (tmp_path / "changes.html").touch()
    assert write_changes(tmp_path) is None
    assert not (tmp_path / "changes.html").exists()


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["site", "--out", str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "does not exist. Run the notebooks: firetv run" in done.output
