"""Laws of tables, slates and strategies on made-up input; see `made_up` for how much of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from conftest import make_tables
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_up import made_up, on_files
from scipy import sparse
from test_strategies import STRATEGIES, every_strategy, scores

from firetv.data import Dataset, Tables, read_tables, write_tables
from firetv.panels import Panel
from firetv.schema import DataError, check_table
from firetv.slate import EMPTY, ExcludeSeen, Pipeline, Slate, best, chain, recommend, top
from firetv.steps import FactorStep

# Tables

letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # no text has a NUL
text = st.text(letters, min_size=1, max_size=8).map(str.strip).filter(bool)
moments = st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31, 23, 59, 59)).map(
    lambda t: pd.Timestamp(t.replace(microsecond=0, tzinfo=UTC))
)
shares = st.none() | st.floats(0, 1)


@st.composite
def some_tables(draw: st.DrawFn) -> Tables:
    """Valid tables, with everything that a schema allows."""
    people = draw(st.lists(text, min_size=1, max_size=5, unique=True))
    titles = draw(st.lists(text, min_size=1, max_size=5, unique=True))
    of_event = (st.sampled_from(people), st.sampled_from(titles), moments, shares)
    history = draw(st.lists(st.tuples(*of_event, st.none() | text), min_size=1))
    genres = st.lists(text.filter(lambda t: "|" not in t), max_size=3)
    described = [draw(st.tuples(st.none() | text, genres)) for _ in titles]
    minutes = st.none() | st.floats(0, 1e6, exclude_min=True)
    columns = ["user_id", "content_id", "timestamp", "completion", "weather"]
    return Tables(
        watch_history=pd.DataFrame(history, columns=columns),
        users=pd.DataFrame(
            {
                "user_id": people,
                "age": [draw(st.none() | st.integers(0, 120)) for _ in people],
                "name": [draw(st.none() | text) for _ in people],
            }
        ),
        content=pd.DataFrame(
            {
                "content_id": titles,
                "title": [title for title, _ in described],
                "genres": [genres for _, genres in described],
                "duration_minutes": [draw(minutes) for _ in titles],
            }
        ),
    )


@pytest.mark.parametrize("format", ["csv", "parquet"])
@given(tables=some_tables())
@on_files
def test_valid_tables_are_read_as_they_were_written(format: str, tables: Tables) -> None:
    with TemporaryDirectory() as folder:
        write_tables(tables, folder, format)
        back = read_tables(folder).present()
        assert back.keys() == tables.present().keys()
        for name, table in tables.present().items():
            checked, problems = check_table(name, table, name)
            assert problems == []
            pd.testing.assert_frame_equal(back[name], checked, check_exact=True)
        write_tables(Tables(**back), Path(folder) / "again", format)
        for path in Path(folder).glob(f"*.{format}"):
            assert (path.parent / "again" / path.name).read_bytes() == path.read_bytes()


@given(tables=some_tables())
@made_up
def test_codes_and_ids_are_one_to_one(tables: Tables) -> None:
    data = Dataset.from_tables(tables)
    assert data.user_ids.is_unique
    assert data.item_ids.is_unique
    assert set(data.user_ids) == set(tables.users["user_id"])
    events = tables.watch_history
    assert data.user_ids[data.interactions["user"]].tolist() == events["user_id"].tolist()
    assert data.item_ids[data.interactions["item"]].tolist() == events["content_id"].tolist()


@given(tables=some_tables(), one=moments, other=moments)
@made_up
def test_the_past_grows_with_time_and_holds_no_future(
    tables: Tables, one: pd.Timestamp, other: pd.Timestamp
) -> None:
    data, (early, late) = Dataset.from_tables(tables), sorted([one, other])
    before, after = (data.until(t).interactions for t in (early, late))
    assert (before["timestamp"] < early).all()
    assert set(before.index) <= set(after.index)
    assert len(before) == (tables.watch_history["timestamp"] < early).sum()
    twice = data.until(late).until(early).interactions
    pd.testing.assert_frame_equal(twice, before)
    assert len(data.until(data.end).interactions) == len(events := tables.watch_history), events


WRONG = {
    "user_id": [None, "", "  ", ["a"], b"\xff"],
    "timestamp": [None, "soon", "2026-01-01", 3, [1], datetime(1, 1, 1), datetime.max, b"\xff"],
    "completion": [-0.1, 1.1, "half", float("inf"), [0.5], {}, 10**400, timedelta(1), b"\xff"],
    "weather": [[1], {"a": 1}, b"\xff", "a\0"],
    "extra": [[1], {"a": 1}, (1, 2)],
}


@pytest.mark.parametrize("column", WRONG)
@given(draw=st.data())
@made_up
def test_bad_cells_are_named_and_counted(column: str, draw: st.DataObject) -> None:
    table = make_tables(4, 5, 12).watch_history.assign(weather="wet", extra=1)
    rows = draw.draw(st.lists(st.integers(0, 11), min_size=1, unique=True))
    cells = table[column].astype(object).tolist()
    for row in rows:
        cells[row] = draw.draw(st.sampled_from(WRONG[column]))
    bad = table.assign(**{column: pd.Series(cells, dtype=object)})
    _, problems = check_table("watch_history", bad, "mine.csv")
    assert problems
    assert {problem.column for problem in problems} == {column}
    counted = sum(problem.rows for problem in problems)
    lists = any(problem.reason == "holds lists" for problem in problems)
    assert counted == len(rows) or (lists and counted < len(rows))
    message = str(DataError(*problems))
    assert len(message.splitlines()) == len(problems)
    assert message.startswith(f"mine.csv, column {column}: ")


# Slates

CELLS = st.sampled_from([-np.inf, -2.0, -1.0, -0.0, 0.0, 1.0, 1.5, 3.0, np.inf])


@given(
    cells=arrays.arrays(
        st.sampled_from([np.float32, np.float64]),
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=90),
        elements=CELLS,
    ),
    k=st.integers(0, 12),
)
@made_up
def test_the_best_are_those_of_a_stable_sort(cells: np.ndarray, k: int) -> None:
    expected = np.argsort(-cells, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(best(cells, k), expected)


@st.composite
def factor_cases(draw: st.DrawFn) -> tuple[FactorStep, sparse.csr_array, pd.DataFrame, np.ndarray]:
    """Whole-numbered vectors, so that scores are exact and often tie; what is seen; requests."""
    users, items = draw(st.integers(1, 6)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    step = FactorStep(
        rng.integers(-2, 3, (users, 2)).astype(np.float32),
        rng.integers(-2, 3, (items, 2)).astype(np.float32),
        rng.random(users) < 0.8,
        rng.integers(0, 4, items).astype(np.float32),
    )
    seen = sparse.csr_array((rng.random((users, items)) < rng.random()).astype(np.float32))
    requests = draw(st.lists(st.integers(-1, users - 1), min_size=1, max_size=9))
    candidates = rng.permutation(items)[: rng.integers(1, items + 1)]
    return step, seen, pd.DataFrame({"user": requests}), candidates


def unseen(seen: sparse.csr_array) -> object:
    """The step of `ExcludeSeen`, from a matrix."""
    data = Dataset.from_tables(make_tables(4, 5, 12))
    return ExcludeSeen().fit(replace(data, weights=seen))


@given(case=factor_cases(), k=st.integers(1, 12), chunk=st.integers(1, 200), draw=st.data())
@made_up
def test_lists_do_not_depend_on_the_way_they_are_made(
    case: tuple, k: int, chunk: int, draw: st.DataObject
) -> None:
    step, seen, requests, items = case
    pipeline = Pipeline((step, unseen(seen), top(k)))
    whole = recommend(pipeline, requests, items)
    dense = top(k)(unseen(seen)(step(Slate(requests, items))))
    np.testing.assert_array_equal(whole.items, dense.items)  # a list that was proposed
    np.testing.assert_array_equal(whole.scores, dense.scores)
    parts = recommend(pipeline, requests, items, chunk)
    np.testing.assert_array_equal(parts.items, whole.items)
    order = draw.draw(st.permutations(range(len(requests))))
    turned = recommend(pipeline, requests.iloc[order], items)
    np.testing.assert_array_equal(turned.items, whole.items[order])
    own = recommend(pipeline, requests, np.tile(items, (len(requests), 1)))
    np.testing.assert_array_equal(own.items, whole.items)


@given(case=factor_cases(), k=st.integers(1, 12))
@made_up
def test_lists_hold_each_unseen_candidate_at_most_once_best_first(case: tuple, k: int) -> None:
    step, seen, requests, items = case
    made = chain(step, unseen(seen), top(k)).fit(None)(Slate(requests, items))
    for user, row, values in zip(requests["user"], made.items, made.scores, strict=True):
        shown = row[row != EMPTY]
        gone = seen[[user]].indices if user >= 0 else np.array([], int)
        left = np.setdiff1d(items, gone)
        assert len(set(shown)) == len(shown) == min(k, len(left))
        assert set(shown) <= set(left)
        assert (row[len(shown) :] == EMPTY).all()
        assert (np.diff(values[: len(shown)]) <= 0).all()
    total = sum(made.parts.values())
    np.testing.assert_array_equal(made.scores, np.where(made.items == EMPTY, -np.inf, total))


# Strategies: opinions and weights in eighths, so that sums are exact and titles often tie

EXACT_SUMS = ("average", "least-misery", "most-pleasure", "copeland", "plurality", "borda")
RISES = ("average", "multiplicative", "least-misery", "most-pleasure", "borda", "copeland")
BY_VOTES = ("average", "multiplicative", "borda", "copeland", "approval-3", "gfar", "nash", "turns")


@st.composite
def panels(draw: st.DrawFn, most: int = 4) -> Panel:
    """One group, its opinions in eighths, some slots without an item."""
    size, slots = draw(st.integers(1, most)), draw(st.integers(1, 9))
    eighths = arrays.arrays(np.float32, (1, size, slots), elements=st.integers(0, 7))
    opinions = draw(eighths) / 8
    gone = draw(arrays.arrays(bool, slots))
    gone[draw(st.integers(0, slots - 1))] = False
    parts = np.array(draw(st.lists(st.integers(1, 3), min_size=size, max_size=size)))
    weights = (parts / parts.sum()).astype(np.float32)
    return Panel.of(np.where(gone, np.nan, opinions), weights[None])


@every_strategy
@given(panel=panels(), k=st.integers(0, 10))
@on_files
def test_every_list_is_full_and_has_no_title_twice(name: str, panel: Panel, k: int) -> None:
    chosen = STRATEGIES[name](panel, k)
    slots = chosen.slots[0]
    assert len(set(slots)) == len(slots) == min(k, panel.valid.shape[1])
    there = panel.valid[0][slots]
    assert there.sum() == min(k, panel.valid.sum())
    assert (there[:-1] >= there[1:]).all()
    values = scores(chosen)[0][there]
    assert np.isfinite(values).all()
    assert (np.diff(values) <= 1e-5).all()


@every_strategy
@given(panel=panels(most=1))
@on_files
def test_a_group_of_one_gets_the_list_of_its_member(name: str, panel: Panel) -> None:
    own = panel.masked(panel.opinions[:, 0])
    k = min(4, panel.valid.sum())  # as deep as the shallowest of them looks
    expected = np.argsort(-own, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(STRATEGIES[name](panel, k).slots, expected)


@pytest.mark.parametrize("name", [n for n in STRATEGIES if not n.startswith("ef")])
@given(panel=panels(), draw=st.data())
@on_files
def test_what_everybody_likes_best_comes_first(
    name: str, panel: Panel, draw: st.DataObject
) -> None:
    """But not for envy, which asks who likes a title more than others do."""
    best_of_all = draw.draw(st.sampled_from(np.flatnonzero(panel.valid[0]).tolist()))
    opinions = panel.opinions / 2
    opinions[:, :, best_of_all] = 1
    assert STRATEGIES[name](replace(panel, opinions=opinions), 3).slots[0, 0] == best_of_all


@pytest.mark.parametrize("name", EXACT_SUMS)
@given(panel=panels(), draw=st.data())
@on_files
def test_members_can_change_places(name: str, panel: Panel, draw: st.DataObject) -> None:
    size = panel.weights.shape[1]
    even = np.full((1, size), 0.25, np.float32)  # a sum of them is exact in any order
    order = draw.draw(st.permutations(range(size)))
    panel = replace(panel, weights=even)
    turned = replace(panel, opinions=panel.opinions[:, order])
    one, other = STRATEGIES[name](panel, 9), STRATEGIES[name](turned, 9)
    if name in ("borda", "plurality"):  # of which a share is no exact number
        np.testing.assert_allclose(scores(one), scores(other), atol=1e-5)
    else:
        np.testing.assert_array_equal(one.slots, other.slots)


@pytest.mark.parametrize("name", BY_VOTES)
@given(panel=panels(), draw=st.data())
@on_files
def test_a_member_who_weighs_nothing_changes_no_list(
    name: str, panel: Panel, draw: st.DataObject
) -> None:
    own = draw.draw(st.lists(st.integers(0, 8), min_size=9, max_size=9))
    guest = np.array(own[: panel.valid.shape[1]], np.float32) / 8 * panel.valid
    more = replace(
        panel,
        opinions=np.concatenate([panel.opinions, guest[None]], axis=1),
        weights=np.append(panel.weights, np.zeros((1, 1), np.float32), axis=1),
    )
    one, other = STRATEGIES[name](panel, 9), STRATEGIES[name](more, 9)
    np.testing.assert_allclose(scores(other), scores(one), atol=1e-5)
    if name in ("average", "copeland", "turns"):
        np.testing.assert_array_equal(other.slots, one.slots)


@pytest.mark.parametrize("name", RISES)
@given(panel=panels(), draw=st.data())
@on_files
def test_who_comes_to_like_a_title_more_does_not_push_it_down(
    name: str, panel: Panel, draw: st.DataObject
) -> None:
    slot = draw.draw(st.sampled_from(np.flatnonzero(panel.valid[0]).tolist()))
    member = draw.draw(st.integers(0, panel.weights.shape[1] - 1))
    liked = panel.opinions.copy()
    liked[0, member, slot] += draw.draw(st.integers(0, 8)) / 8
    before = STRATEGIES[name](panel, 9).slots[0].tolist()
    after = STRATEGIES[name](replace(panel, opinions=liked), 9).slots[0].tolist()
    assert after.index(slot) <= before.index(slot)


@given(panel=panels())
@made_up
def test_a_mean_lies_between_the_least_and_the_most(panel: Panel) -> None:
    mean = panel.mean(panel.opinions)
    assert (mean >= panel.opinions.min(axis=1) - 1e-6).all()
    assert (mean <= panel.opinions.max(axis=1) + 1e-6).all()
