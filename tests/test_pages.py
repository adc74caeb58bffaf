"""Pages of executed notebooks, and the cover before them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from executed import PNG, write_executed, write_found
from nbformat.v4 import new_code_cell, new_output

from firetv.artefacts import Claim
from firetv.cover import OF_MODELS, OF_PARTS, SPLIT, answers, headlines
from firetv.pages import write_index, write_page

REQUEST = re.compile(
    r"""<(?:script|iframe|object|embed)\b
    | <link\b
    | \bsrc(?:set)?\s*=\s*(?!["']?data:)
    | @import
    | url\(""",
    flags=re.VERBOSE | re.IGNORECASE,
)
WIDGET = "application/vnd.jupyter.widget-view+json"


def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reports of a project with one executed notebook and what it found."""
    monkeypatch.setenv("FIRETV_ROOT", str(tmp_path))
    write_executed(tmp_path / "reports/01_toy.ipynb")
    write_found(tmp_path / "reports/01_toy.json")
    return tmp_path / "reports"


@pytest.fixture
def models() -> pd.DataFrame:
    """Results under the published protocol, worst first."""
    frame = pd.DataFrame({"model": ["Popular", "EASE"], "value": [0.25, 0.5], "seeds": 3})
    low_high = frame.assign(low=frame["value"] - 0.01, high=frame["value"] + 0.01, split=SPLIT)
    rows = [low_high.assign(metric=metric) for metric in ("map@5", "ndcg@5", "novelty@5")]
    return pd.concat(rows, ignore_index=True)


# Pages


def test_a_page_shows_prose_code_table_and_figure(folder: Path) -> None:
    page = soup(write_page(folder / "01_toy.ipynb"))
    assert page.title.get_text() == "Does EASE win?"
    codes = page.select("details.code")
    assert [code.has_attr("open") for code in codes] == [True, False]  # parameters, and the rest
    assert [image["alt"] for image in page.select("main img")] == ["Figure: Result"]
    tables = [table.parent for table in page.select("table")]
    assert [around["class"] for around in tables] == [["scroll"]] * 2
    assert [around["aria-label"] for around in tables] == ["Table: Result", "Table: By segment"]


def test_contents_are_listed_folded_and_beside(folder: Path) -> None:
    page = soup(write_page(folder / "01_toy.ipynb"))
    for which in ("details.narrow", "div.wide"):
        links = page.select(f"nav {which} a")
        assert [link["href"] for link in links] == ["#Result", "#What-we-learned"]
        assert all(page.find(id=link["href"].removeprefix("#")) for link in links)
    assert not page.select_one("details.narrow").has_attr("open")


def test_controls_are_said_to_be_missing(folder: Path) -> None:
    data = {WIDGET: {"model_id": "1"}, "text/plain": "VBox(children=())"}
    cell = new_code_cell("box", execution_count=3, outputs=[new_output("display_data", data)])
    page = soup(write_page(write_executed(folder / "01_toy.ipynb", cell)))
    assert "controls" in page.select_one("p.widget").get_text()
    assert "VBox" not in page.get_text()


def test_pages_request_nothing_and_are_the_same_again(folder: Path) -> None:
    texts = [
        [page.read_text("utf-8") for page in (write_page(folder / "01_toy.ipynb"), index)]
        for index in (write_index(folder), write_index(folder))
    ]
    assert texts[0] == texts[1]
    for text in texts[0]:
        assert REQUEST.findall(text) == []
        assert "default-src 'none'" in text
    assert REQUEST.search('<img src="https://example.org/a.png">')  # the pattern can fail


# Index


def test_the_index_has_a_card_per_notebook(folder: Path) -> None:
    write_executed(folder / "02_more.ipynb")
    page = soup(write_index(folder))
    first, second = page.select("article.card")
    assert first.h3.a.get_text() == "Does EASE win?"
    assert first.h3.a["href"] == "01_toy.html"
    assert first.img["src"] == f"data:image/png;base64,{PNG}"
    assert "ran 1 min 15 s" in first.get_text()
    assert [s.get_text() for s in first.select("summary")] == [
        "1 of 2 claims hold",
        "2 parameters",
    ]
    claims = [claim.get_text() for claim in first.select("ul.claims li")]
    assert claims[0] == "Holds: EASE beats <chance> (0.020 [0.010, 0.030])"
    assert claims[1].startswith("Does not hold: Random beats EASE")
    parameters = [code.get_text() for code in first.select("ul.parameters code")]
    assert parameters == ["rate = 0.03", "mode = '007'"]  # a default, and what was given
    assert not second.select("ul.claims")
    assert "of their 2 claims 1 hold" in page.get_text()


def test_a_failed_run_shows_neither_answer_nor_claims(folder: Path) -> None:
    (folder.parent / "README.md").write_text("| [01](notebooks/01_toy.ipynb) | q | It wins. |\n")
    assert "It wins." in soup(write_index(folder)).get_text()
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    write_executed(folder / "01_toy.ipynb", new_code_cell("1", execution_count=3, outputs=[error]))
    card = soup(write_index(folder)).select_one("article.card")
    assert "This run failed: cell [3] `1`: ValueError: no" in card.get_text()
    assert "It wins." not in card.get_text()
    assert not card.select("ul.claims")


def test_the_index_links_only_what_is_there(folder: Path) -> None:
    assert not soup(write_index(folder)).select("nav a[href='api/index.html']")
    for path in ("api/index.html", "changes.html", "sweeps/01_toy/comparison.html"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    page = soup(write_index(folder))
    links = [link["href"] for link in page.select("header nav a")]
    assert links == ["#notebooks", "#sweeps", "api/index.html", "changes.html"]
    assert page.select_one("a[href='sweeps/01_toy/comparison.html']")


# Cover


def test_without_artefacts_the_cover_says_less(folder: Path) -> None:
    assert headlines(folder) == []
    assert not soup(write_index(folder)).select("section.headline")


def test_models_are_ranked_and_the_full_run_counts(folder: Path, models: pd.DataFrame) -> None:
    write_found(folder / f"{OF_MODELS}.json", models.assign(value=0.1, low=0.0, high=0.2, seeds=1))
    write_found(folder / f"full/{OF_MODELS}.json", models)
    (found,) = headlines(folder)
    assert found.columns == ["nDCG@5", "MAP@5"]
    interval = "0.500 [0.490, 0.510]"
    assert [*found.rows] == ["EASE", "Popular"]
    assert found.rows["EASE"] == [interval, interval]
    assert found.basis.startswith("toy, published protocol")
    assert "7 users, 3 seeds" in found.basis
    assert (found.link, found.figure) == ("", None)
    assert interval in soup(write_index(folder)).select_one("section.headline").get_text()


def test_the_figure_counts_the_seeds_of_its_own_run(folder: Path, models: pd.DataFrame) -> None:
    write_found(folder / f"{OF_MODELS}.json", models.assign(seeds=1))
    write_found(folder / f"full/{OF_MODELS}.json", models)
    (folder / "figures").mkdir()
    (folder / "figures/03_published_table.png").write_bytes(b"drawn")
    (found,) = headlines(folder)
    assert found.figure.caption.endswith("Drawn from 1 seed.")
    assert "3 seeds" in found.basis


def test_parts_come_from_claims_with_groups_beside_people(folder: Path) -> None:
    gains = {
        "b (simulated), people: placebo": False,
        "a, people: + context": False,
        "b (simulated), groups: + context": True,
    }
    claims = [
        Claim(f"{text} finds more than the base", holds, 0.02, 0.01, 0.03)
        for text, holds in gains.items()
    ]
    write_found(folder / f"{OF_PARTS}.json", claims=[*claims, Claim("else", True, 1.0)])
    (found,) = headlines(folder)
    assert found.columns == ["+ context", "placebo"]
    assert {row: [*cells] for row, cells in found.rows.items()} == {
        "b (simulated), people": ["", "0.020 [0.010, 0.030]"],
        "b (simulated), groups": ["0.020 [0.010, 0.030] *", ""],
        "a, people": ["0.020 [0.010, 0.030]", ""],
    }
    assert "all 3 comparisons" in found.basis


def test_artefacts_of_another_version_make_no_headline(folder: Path, models: pd.DataFrame) -> None:
    write_found(folder / f"{OF_MODELS}.json", models.assign(metric="other " + models["metric"]))
    gain = Claim("comoda: + context finds more than the base", True, 0.1, 0.0, 0.2)
    write_found(folder / f"{OF_PARTS}.json", claims=[gain], params={"depth": 10})
    assert headlines(folder) == []


def test_of_a_failed_run_there_is_no_headline(folder: Path, models: pd.DataFrame) -> None:
    write_found(folder / f"{OF_MODELS}.json", models)
    error = new_output("error", ename="ValueError", evalue="no", traceback=["no"])
    failed = new_code_cell("raise ValueError('no')", execution_count=3, outputs=[error])
    write_executed(folder / f"{OF_MODELS}.ipynb", failed)
    assert headlines(folder) == []


def test_an_answer_whose_numbers_are_not_borne_out_is_left_out(folder: Path) -> None:
    rows = "| [01 toy](notebooks/01_toy.ipynb) | Does it? | By 0.020 [0.010, 0.030]. |\n"
    (folder.parent / "README.md").write_text(rows)
    assert answers(folder) == {"01_toy": "By 0.020 [0.010, 0.030]."}
    (folder.parent / "README.md").write_text(rows.replace("0.020", "0.040"))
    assert answers(folder) == {}


def test_this_project_has_both_headlines_and_all_answers() -> None:
    root = Path(__file__).resolve().parents[1]
    found = headlines(root / "reports")
    assert [headline.title for headline in found] == [
        "Models, and their blend",
        "What each part adds",
    ]
    notebooks = {path.stem for path in (root / "reports").glob("[0-9]*.json")}
    assert notebooks <= answers(root / "reports").keys()
