"""What the explorer shows is what the recommender does, to the last digit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag

from firetv import explorer as explorers
from firetv import widgets
from firetv.data import Dataset
from firetv.explorer import Choice, Explorer, prepared
from firetv.explorer_html import as_html, news_html, segments, style
from firetv.explorer_view import Part, Row, View
from firetv.moments import Clock
from firetv.recommender import Recommender

ZONE = "America/New_York"
# Of sums with and without weights, of logarithms, of votes, by turns, and with one score for all.
KINDS = ("nash", "ep-fuzzda", "multiplicative", "approval", "turns", "copeland")
AT = pd.Timestamp("2024-12-24T20:00", tz=ZONE).to_pydatetime()
ALONE = Choice(("user0",), AT, weather="rainy", companion="family")
GROUP = replace(ALONE, people=("user0", "user28"))  # of the other nothing but a profile is known


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explorer")


@pytest.fixture(scope="module")
def explorer(rich: Dataset, folder: Path) -> Explorer:
    return prepared(rich, folder, clock=Clock(zone=ZONE, country="US"))


# What is shown


def test_a_person_sees_their_own_list(explorer: Explorer) -> None:
    view = explorer.view(ALONE)
    told = explorer.recommender.recommend(["user0"], ALONE.context, explain=True).to_frame()
    assert [row.content_id for row in view.rows] == told["content_id"].tolist()
    assert [row.why for row in view.rows] == told["why"].tolist()
    assert [row.rank for row in view.rows] == list(range(1, 11))


def test_segments_sum_to_the_distance_from_the_mean_of_what_is_unseen(explorer: Explorer) -> None:
    view = explorer.view(ALONE)
    everything = explorer.recommender.recommend(["user0"], ALONE.context, k=100).to_frame()
    expected = everything["score"][:10] - everything["score"].mean()
    assert [row.score for row in view.rows] == pytest.approx(expected, abs=1e-5)
    for row in view.rows:
        assert sum(part.value for part in row.parts) == pytest.approx(row.score)
        assert [part.name for part in row.parts][:3] == ["taste", "moment", "friends"]


@pytest.mark.parametrize("strategy", KINDS)
def test_a_group_sees_its_list(explorer: Explorer, strategy: str) -> None:
    choice = replace(GROUP, strategy=strategy, weights=("activity",))
    found = explorer.recommender.recommend_group(
        GROUP.people, GROUP.context, strategy=strategy, weights=["activity"]
    )
    view = explorer.view(choice)
    assert [row.title for row in view.rows] == found.table["title"].tolist()
    assert [row.why for row in view.rows] == found.table["why"].tolist()
    places = found.table.iloc[:, 3:].to_numpy().tolist()
    assert [list(row.places) for row in view.rows] == places
    dealt = found.lists.parts.get("turn", np.zeros(1))
    scores = sum(part[0] for name, part in found.lists.parts.items() if name != "turn")
    assert [row.score for row in view.rows] == pytest.approx(scores[: len(view.rows)], abs=1e-5)
    assert ("turns" in view.scale) == bool(dealt.any())


def test_members_are_served_by_their_share_of_the_best_they_could_have(explorer: Explorer) -> None:
    view = explorer.view(GROUP)
    assert [member.name for member in view.members] == list(view.names)
    assert sum(member.weight for member in view.members) == pytest.approx(1)
    assert all(0 < member.satisfaction <= 1 for member in view.members)
    for number, member in enumerate(view.members):
        assert member.satisfaction == pytest.approx(share(explorer, number), abs=1e-4)


def share(explorer: Explorer, number: int) -> float:
    """A member's opinions of the list, over the best ten that the group could have had."""
    found = explorer.recommender.recommend_group(GROUP.people, GROUP.context, k=100).views
    theirs = found[found["member"] == number + 1].set_index("item")["opinion"]
    listed = [
        int(explorer.data.item_ids.get_loc(row.content_id)) for row in explorer.view(GROUP).rows
    ]
    return theirs[listed].sum() / theirs.nlargest(10).sum()


def test_a_group_of_one_is_a_person(explorer: Explorer) -> None:
    twice = explorer.view(replace(ALONE, people=("user0", "user0")))
    assert twice == explorer.view(ALONE)
    assert not twice.members


@pytest.mark.parametrize("choice", [ALONE, GROUP], ids=["person", "group"])
def test_what_moved_is_told_against_the_list_without_the_moment(
    explorer: Explorer, choice: Choice
) -> None:
    now = explorer.view(choice)
    without = explorer.view(replace(choice, moment=0))
    was = {row.content_id: row.rank for row in without.rows}
    titles = {row.title for row in now.rows}
    assert any(row.before != row.rank for row in now.rows)
    for row in now.rows:
        assert was.get(row.content_id, row.before) == row.before
        assert row.content_id in was or row.before is None or row.before > 10
        assert row.because or row.before == row.rank
    assert [(left.title, left.before) for left in now.left] == [
        (row.title, row.rank) for row in without.rows if row.title not in titles
    ]
    assert all(row.before == row.rank for row in without.rows)
    assert "nothing moved" in without.headline


def test_what_counts_nothing_has_no_part(explorer: Explorer) -> None:
    view = explorer.view(replace(ALONE, moment=0, friends=0))
    assert all(part.value == 0 for row in view.rows for part in row.parts if part.name != "taste")
    more = explorer.view(replace(ALONE, friends=4))
    lifted = [part.value for row in more.rows for part in row.parts if part.name == "friends"]
    once = explorer.view(ALONE)
    before = [part.value for row in once.rows for part in row.parts if part.name == "friends"]
    assert max(lifted) > max(before)


def test_the_moment_is_told_as_it_was_understood(explorer: Explorer) -> None:
    assert explorer.view(ALONE).moment == "evening, weekday, winter, rainy, Christmas, family"
    plain = explorer.view(replace(ALONE, at=AT.replace(month=11, day=5, hour=9)))
    assert plain.moment == "morning, weekday, autumn, rainy, family"


def test_what_is_simulated_is_said(explorer: Explorer, rich: Dataset) -> None:
    assert explorer.view(ALONE).notes == ()
    (early,) = explorer.view(replace(ALONE, at=AT.replace(year=2023))).notes
    assert f"until {rich.end:%Y-%m-%d}" in early
    kinds = {"watch_history": {"weather": "simulated"}, "user_connections": {"u": "simulated"}}
    drawn = replace(rich, manifest={"columns": kinds})
    told = Explorer(replace(explorer.recommender, data=drawn))
    assert [note.split()[0] for note in told.view(ALONE).notes] == ["Friends", "The"]
    assert "rules written by hand" in told.view(ALONE).notes[1]
    assert "friends (simulated)" in [part.name for part in told.view(ALONE).rows[0].parts]
    assert "simulated" in news_html(told.news(ALONE))


def test_news_are_those_of_the_first_person(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = (explorer.data.end + pd.Timedelta(hours=1)).tz_convert(ZONE).replace(hour=19)
    found = explorer.recommender.notifications(list(explorer.data.user_ids), at).rows
    first = found["user_id"].iloc[0]
    rows = found[found["user_id"] == first]
    choice = replace(GROUP, people=(first, "user28"), at=at)
    news = explorer.news(choice)
    assert news.lines == tuple(zip(rows["text"], rows["title"], strict=True))
    assert str(len(rows)) in news.summary
    monkeypatch.setattr(Recommender, "notifications", None)  # it is remembered
    assert explorer.news(replace(choice, weather="sunny")) is news


def test_examples_are_friends(explorer: Explorer) -> None:
    found = explorer.examples(explorer.data.end)
    assert list(found) == ["one person", "with a friend", "with three friends"]
    codes = explorer.data.user_ids.get_indexer(list(found["with three friends"]))
    assert (explorer.data.friends[[codes[0]]].toarray()[0][codes[1:]] > 0).all()
    lonely = replace(explorer.data, friends=None)
    assert len(Explorer(replace(explorer.recommender, data=lonely)).examples(AT)) == 1


# What cannot be shown


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"people": ()}, "1 to 50 people, not 0"),
        ({"people": ("nobody", "user1")}, "nobody: not among 30 people"),
        ({"weather": "foggy"}, "'foggy' is not a known weather"),
        ({"strategy": "vote"}, "vote"),
        ({"weights": ("height",)}, "height"),
        ({"friends": -1.0}, "below 0"),
        ({"at": AT.replace(tzinfo=None)}, "offset"),
    ],
)
def test_what_is_wrong_is_named(explorer: Explorer, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explorer.view(replace(ALONE, **wrong))


def test_a_recommender_without_context_is_refused(explorer: Explorer) -> None:
    with pytest.raises(ValueError, match="no moments to explore"):
        Explorer(replace(explorer.recommender, context=None))


# A recommender to look at


def test_what_fits_is_loaded_and_what_does_not_is_trained(
    rich: Dataset, folder: Path, explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(zone=ZONE, country="US")
    before = (folder / "recommender.json").read_bytes()
    trained = []
    train = Recommender.train
    monkeypatch.setattr(Recommender, "train", lambda *rest: trained.append(1) or train(*rest))
    assert prepared(rich, folder, clock=clock).view(ALONE) == explorer.view(ALONE)
    assert not trained
    assert (folder / "recommender.json").read_bytes() == before
    monkeypatch.setattr(explorers, "version", lambda _: "another")
    prepared(rich, folder, clock=clock)
    assert len(trained) == 1
    prepared(replace(rich, reactions=rich.reactions[1:]), folder, clock=clock)
    assert len(trained) == 2
    (folder / "recommender.json").write_text("{}")
    prepared(rich, folder, clock=clock)
    assert len(trained) == 3


# HTML


def row(*values: float, title: str = "A & <b>") -> Row:
    parts = tuple(Part(f"p{n}", n, value=value) for n, value in enumerate(values))
    return Row(1, "content1", title, parts, sum(values), "why", 2, "because")


def test_segments_are_stacked_from_zero_both_ways() -> None:
    zero, (first, second) = segments([row(2.0, -1.0, 1.0), row(-1.0, 3.0, -1.0)])
    assert zero == pytest.approx(40)
    assert [(s.start, s.width) for s in first] == [
        pytest.approx(where) for where in [(40, 40), (20, 20), (80, 20)]
    ]
    assert [(s.start, s.width) for s in second] == [
        pytest.approx(where) for where in [(20, 20), (40, 60), (0, 20)]
    ]
    assert segments([row(0.0)])[0] == 0


def soup(view: View) -> Tag:
    return BeautifulSoup(as_html(view), "html.parser")


def test_text_of_the_data_is_escaped() -> None:
    page = soup(View(("<i>Ann",), "evening", (row(1.0),), (), (), "scale"))
    assert page.select_one(".row .title").text == "A & <b>"
    assert page.h2.text == "<i>Ann"
    assert not page.find(["b", "i"])


@pytest.mark.parametrize("choice", [ALONE, GROUP], ids=["person", "group"])
def test_a_page_says_without_colour_what_it_shows(explorer: Explorer, choice: Choice) -> None:
    view = explorer.view(choice)
    page = soup(view)
    rows = page.select("ol > li.row")
    assert [each.select_one(".title").text for each in rows] == [r.title for r in view.rows]
    for each, shown in zip(rows, view.rows, strict=True):
        label = each.select_one("[role=img]")["aria-label"]
        assert [float(n) for n in re.findall(r"[+-]\d+\.\d+", label)] == pytest.approx(
            [*(part.value for part in shown.parts), shown.score], abs=0.006
        )
        assert shown.why in each.select_one(".why").text
        moved = each.select_one(".move").text
        steps = (shown.before or 99) - shown.rank
        expected = f"▲up {steps}" if steps > 0 else f"▼down {-steps}" if steps else "=stayed"
        assert moved == ("new" if shown.before is None or shown.before > 10 else expected)
    served = [each.text for each in page.select(".members .share")]
    assert len(served) == len(view.members)
    for text, member in zip(served, view.members, strict=True):
        assert f"{member.satisfaction:.0%} of their own" in text


def test_the_style_touches_nothing_else() -> None:
    plain = re.sub(r"/\*.*?\*/|@(?:media|container)[^{]*", "", style(), flags=re.DOTALL)
    selectors = [each.strip() for each in re.findall(r"([^{}]+)\{", plain)]
    assert [each for each in selectors if each and ".explorer" not in each] == []


# Controls


def control(box: ipywidgets.Widget, label: str) -> ipywidgets.Widget:
    """The control of a label, wherever in the box."""
    if getattr(box, "description", None) == label:
        return box
    inner = (control(child, label) for child in getattr(box, "children", ()))
    return next(filter(None, inner), None)


def shown(box: ipywidgets.Widget, name: str) -> str:
    """What the HTML of a class, or within it, says."""
    if name in box._dom_classes and hasattr(box, "value"):
        return box.value
    found = (shown(child, name) for child in getattr(box, "children", ()))
    return next(filter(None, found), "")


def test_controls_show_what_they_say(explorer: Explorer) -> None:
    box = widgets.explore(explorer, ALONE, {"a few": GROUP.people})
    assert explorer.view(ALONE).headline in shown(box, "status").replace("&#x27;", "'")
    assert shown(box, "told") == news_html(explorer.news(ALONE))
    listed = control(box, "Hour")
    listed.value = 8
    control(box, "Weather").value = "sunny"
    control(box, "Company").value = ""
    morning = Choice(("user0",), AT.replace(hour=8, tzinfo=ZoneInfo(ZONE)), weather="sunny")
    assert explorer.view(morning).headline in shown(box, "status").replace("&#x27;", "'")
    assert control(box, "activity").disabled
    control(box, "Examples").value = ", ".join(GROUP.people)
    assert control(box, "People, by id, separated by commas").value == ", ".join(GROUP.people)
    assert not control(box, "activity").disabled


def test_a_slip_is_told_and_the_list_stays(explorer: Explorer) -> None:
    box = widgets.explore(explorer, ALONE)
    people = control(box, "People, by id, separated by commas")
    people.value = "<user0>"
    assert "&lt;user0&gt;: not among" in shown(box, "status")
    control(box, "Date").value = None
    people.value = "user0"
    assert "choose a date" in shown(box, "status")


def test_without_a_front_end_the_view_alone_is_displayed(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    displayed = []
    monkeypatch.setattr(widgets, "display", lambda *things: displayed.extend(things))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    widgets.show(explorer, ALONE)
    (page,) = displayed
    assert as_html(explorer.view(ALONE)) in page.data
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5")
    widgets.show(explorer, ALONE)
    assert isinstance(displayed[-1], ipywidgets.Box)
