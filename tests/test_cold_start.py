"""Curves of accuracy by what is known of new people, against loops and closed cases."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from firetv.cold_start import Questions, ask_all, curve
from firetv.data import Dataset
from firetv.evaluate import Run, compare, run, summarise
from firetv.models import ALS, EASE, ItemKNN, LightFM, Popular, Random
from firetv.newcomers import LIKED, Newcomers
from firetv.slate import Stage, Step, recommend
from firetv.splits import Split, cold_users, random_split

SEED, COUNTS, K = 7, (0, 1, 3, 5), 6
FACTORS = {
    "als": Newcomers(ALS(components=4, reg=1.0, epochs=5)),
    "lightfm": Newcomers(LightFM(components=4, epochs=5, use_user_features=True)),
}
TOLD = {**FACTORS, "ease": Newcomers(EASE(reg=10)), "itemknn": Newcomers(ItemKNN(neighbours=5))}
DEAF = {"popular": Popular(), "random": Random(), "ease, not wrapped": EASE(reg=10)}
MODELS = {**TOLD, **DEAF}


@pytest.fixture(scope="module")
def split(data: Dataset) -> Split:
    return cold_users(data, seed=0)


@pytest.fixture(scope="module")
def questions(split: Split) -> Questions:
    return Questions.of(split, COUNTS, SEED)


@pytest.fixture(scope="module")
def runs(split: Split) -> dict[str, list[Run]]:
    found = ask_all(MODELS, [split], [SEED], COUNTS, K)
    return {name: [each for each in found if each.model == name] for name in MODELS}


@pytest.fixture(scope="module")
def values(data: Dataset) -> pd.DataFrame:
    splits = [cold_users(data, seed) for seed in (0, 1)]
    return curve(MODELS, splits, (0, 1), COUNTS, K)


def by_hand(data: Dataset, *titles: tuple[int, ...]) -> Split:
    """Users 0, 1, ... are new, and have these titles."""
    train = data.keep(data.interactions["user"].to_numpy() >= len(titles))
    dense = np.zeros((len(titles), data.shape[1]), np.float32)
    for user, own in enumerate(titles):
        dense[user, list(own)] = 1
    requests = pd.DataFrame({"user": np.arange(len(titles), dtype=np.int32), "known": False})
    candidates = np.flatnonzero(train.item_counts)
    return Split("by hand", train, requests, sparse.csr_array(dense), candidates)


def rows(table: sparse.csr_array) -> list[set[int]]:
    return [set(np.flatnonzero(row).tolist()) for row in table.toarray()]


def told(questions: Questions) -> list[list[tuple[int, ...]]]:
    """Titles known of each person, by count."""
    return [list(split.requests[LIKED]) for split in questions.splits]


def reserved(questions: Questions) -> list[set[int]]:
    return rows(questions.reserved[questions.splits[0].requests["user"].to_numpy()])


# Who is asked, what is told


def test_training_holds_nothing_of_those_asked(questions: Questions) -> None:
    for split in questions.splits:
        users = split.requests["user"]
        assert split.train.user_counts[users].sum() == 0
        assert not split.train.interactions["user"].isin(users).any()
        assert not split.train.reactions["user"].isin(users).any()


@pytest.mark.parametrize(("most", "people"), [(0, [0, 1, 2]), (2, [0, 2]), (3, [0])])
def test_those_with_more_titles_than_the_highest_count_are_asked(
    most: int, people: list[int], data: Dataset
) -> None:
    split = by_hand(data, (1, 5, 9, 20), (3, 4), (0, 2, 8))
    asked = Questions.of(split, range(most + 1)).splits[0]
    assert asked.requests["user"].tolist() == people
    assert asked.n_relevant.tolist() == [split.n_relevant[user] - most for user in people]


def test_titles_are_told_or_to_be_found(split: Split, questions: Questions) -> None:
    own = dict(zip(split.requests["user"], rows(split.relevant), strict=True))
    last = questions.splits[-1]
    first = told(questions)[-1]
    for user, known, wanted in zip(last.requests["user"], first, rows(last.relevant), strict=True):
        assert len(known) == len(set(known)) == COUNTS[-1]
        assert set(known) | wanted == own[user]
        assert not set(known) & wanted


def test_only_what_is_known_changes_with_the_count(split: Split, questions: Questions) -> None:
    first = questions.splits[0]
    for count, each in zip(COUNTS, questions.splits, strict=True):
        assert each.name == f"{count} known"
        assert each.train is split.train
        np.testing.assert_array_equal(each.candidates, split.candidates)
        np.testing.assert_array_equal(each.relevant.toarray(), first.relevant.toarray())
        pd.testing.assert_frame_equal(
            each.requests.drop(columns=[LIKED, "known"]),
            first.requests.drop(columns=[LIKED, "known"]),
        )
        assert (each.requests["known"] == (count > 0)).all()


def test_what_is_known_begins_what_is_known_later(questions: Questions) -> None:
    by_count = told(questions)
    for count, known in zip(COUNTS, by_count, strict=True):
        assert known == [whole[:count] for whole in by_count[-1]]
    assert reserved(questions) == [set(whole) for whole in by_count[-1]]


def test_the_order_does_not_depend_on_the_counts(split: Split, questions: Questions) -> None:
    fewer = Questions.of(split, (0, 3), SEED)
    users = questions.splits[0].requests["user"]
    known = fewer.splits[1].requests.set_index("user")[LIKED]
    assert list(known[users]) == told(questions)[2]


def test_every_title_is_as_likely_to_come_first(data: Dataset) -> None:
    split = by_hand(data, (1, 5, 9, 20), (3, 4, 7))
    first = np.array([told(Questions.of(split, (2,), seed))[0] for seed in range(300)])
    for user, titles in enumerate(((1, 5, 9, 20), (3, 4, 7))):
        for place in range(2):
            found, count = np.unique(first[:, user, place], return_counts=True)
            assert found.tolist() == list(titles)
            assert np.abs(count - 300 / len(titles)).max() < 35  # over four standard deviations


def test_another_seed_tells_other_titles(split: Split, questions: Questions) -> None:
    assert told(Questions.of(split, COUNTS, SEED)) == told(questions)
    assert told(Questions.of(split, COUNTS, SEED + 1))[-1] != told(questions)[-1]


def test_the_split_stays_as_it_was(split: Split, data: Dataset) -> None:
    again = cold_users(data, seed=0)
    pd.testing.assert_frame_equal(split.requests, again.requests)
    np.testing.assert_array_equal(split.relevant.toarray(), again.relevant.toarray())


# Lists


@pytest.mark.parametrize("name", MODELS)
def test_nothing_that_is_or_will_be_told_is_listed(
    name: str, runs: dict[str, list[Run]], questions: Questions
) -> None:
    for each in runs[name]:
        assert each.items.shape == (len(questions.splits[0].requests), K)
        for listed, never in zip(each.items.tolist(), reserved(questions), strict=True):
            assert len(set(listed)) == K
            assert set(listed) <= set(each.split.candidates) - never


def test_everything_else_can_be_listed(split: Split, questions: Questions) -> None:
    everything = len(split.candidates)
    for each in questions.ask("popular", Popular(), SEED, everything):
        for listed, never in zip(each.items.tolist(), reserved(questions), strict=True):
            assert set(listed) - {-1} == set(split.candidates) - never


@pytest.mark.parametrize("name", TOLD)
def test_what_is_told_changes_the_list(name: str, runs: dict[str, list[Run]]) -> None:
    none, *some = (each.items for each in runs[name])
    assert all((each != none).any() for each in some)
    assert (some[-1] != none).any(axis=1).all()  # everybody's


@pytest.mark.parametrize("name", DEAF)
def test_a_model_that_is_told_nothing_answers_alike(name: str, runs: dict[str, list[Run]]) -> None:
    first, *others = runs[name]
    for each in others:
        np.testing.assert_array_equal(each.items, first.items)


@pytest.mark.parametrize("name", FACTORS)
def test_of_no_title_the_profile_alone_is_left(
    name: str, runs: dict[str, list[Run]], questions: Questions
) -> None:
    first = questions.splits[0]
    requests = first.requests.drop(columns=LIKED)
    step = replace(FACTORS[name], seed=SEED).fit(first.train)
    candidates = np.random.default_rng(SEED).permutation(first.candidates)
    slate = recommend(step, requests, candidates)
    assert list(slate.parts) == ["taste"]
    never = questions.reserved[requests["user"].to_numpy()][:, candidates].toarray() > 0
    best = np.argsort(np.where(never, np.inf, -slate.scores), axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(runs[name][0].items, candidates[best])


@pytest.mark.parametrize("name", ["ease", "itemknn"])
def test_of_no_title_a_linear_model_gives_the_popular_list(
    name: str, runs: dict[str, list[Run]]
) -> None:
    np.testing.assert_array_equal(runs[name][0].items, runs["popular"][0].items)


@pytest.mark.parametrize("name", ["als", "popular"])
def test_where_nothing_is_reserved_it_is_the_usual_run(name: str, split: Split) -> None:
    asked = Questions.of(split, (0,), SEED).ask(name, MODELS[name], SEED, K)
    usual = run(name, MODELS[name], split, SEED, K)
    np.testing.assert_array_equal(asked[0].items, usual.items)  # with its order of ties


def test_a_title_that_training_does_not_hold_tells_nothing(data: Dataset) -> None:
    whole = by_hand(data, (1, 5, 9, 20, 22), (3, 4, 7, 8))
    liked = [each[0] for each in told(Questions.of(whole, (0, 1), SEED))[1]]
    events = whole.train.interactions["item"].to_numpy()
    poor = replace(whole, train=whole.train.keep(events != liked[0]))
    poor = replace(poor, candidates=np.flatnonzero(poor.train.item_counts))
    none, one = ask_all({"ease": Newcomers(EASE(reg=10))}, [poor], [SEED], (0, 1), K)
    assert one.split.requests[LIKED].tolist() == [(each,) for each in liked]
    np.testing.assert_array_equal(none.items[0], one.items[0])
    assert (none.items[1] != one.items[1]).any()


# Values


def test_values_are_those_of_a_loop(split: Split, questions: Questions) -> None:
    found = curve({"ease": TOLD["ease"]}, [split], [SEED], COUNTS[1:], K)
    weights = EASE(reg=10).fit(split.train).weights.astype(float)
    expected = []
    for known in told(questions)[1:]:
        for own, never, wanted in zip(
            known, reserved(questions), rows(questions.splits[0].relevant), strict=True
        ):
            choice = sorted(set(split.candidates.tolist()) - never)
            best = sorted(choice, key=lambda item: -weights[list(own), item].sum())[:K]
            gain = sum(1 / np.log2(2 + n) for n, item in enumerate(best) if item in wanted)
            ideal = sum(1 / np.log2(2 + n) for n in range(min(K, len(wanted))))
            expected.append(gain / ideal)
    np.testing.assert_allclose(found["value"], expected)


def test_the_table_is_tidy(values: pd.DataFrame) -> None:
    names = ["model", "seed", "split", "request", "user", "known", "metric", "value"]
    assert list(values) == names
    assert list(dict.fromkeys(values["model"])) == list(MODELS)
    assert list(dict.fromkeys(values["split"])) == [f"{count} known" for count in COUNTS]
    assert set(values["metric"]) == {f"ndcg@{K}"}
    assert not values.duplicated(["model", "seed", "split", "user"]).any()
    people = values.groupby(["model", "seed", "split"])["user"].agg(tuple).groupby("seed")
    assert (people.nunique() == 1).all()


@pytest.mark.parametrize("name", DEAF)
def test_the_curve_of_such_a_model_is_flat(name: str, values: pd.DataFrame) -> None:
    table = values[values["model"] == name].pivot(
        index=["seed", "user"], columns="split", values="value"
    )
    assert (table.nunique(axis=1) == 1).all()


def test_telling_more_helps_where_tastes_are_planted(values: pd.DataFrame) -> None:
    rows = values[values["model"] == "ease"]
    gain = compare(rows.assign(model=rows["split"]), "0 known")
    assert gain["model"].tolist() == ["1 known", "3 known", "5 known"]
    assert gain["low"].iloc[-1] > 0


def test_models_are_compared_at_a_count(values: pd.DataFrame) -> None:
    five = values[values["split"] == "5 known"]
    mean = summarise(five).set_index("model")["value"]
    gain = compare(five, "popular").set_index("model")["value"]
    assert gain["ease"] == pytest.approx(mean["ease"] - mean["popular"])
    assert list(mean.index) == list(MODELS)


def test_other_metrics_can_be_asked_for(split: Split) -> None:
    found = curve({"popular": Popular()}, [split], [0], (0, 2), K, names=("recall", "hr"))
    assert set(found["metric"]) == {f"recall@{K}", f"hr@{K}"}


def test_results_depend_neither_on_jobs_nor_on_the_run(data: Dataset, values: pd.DataFrame) -> None:
    splits = [cold_users(data, seed) for seed in (0, 1)]
    again = curve(MODELS, splits, (0, 1), COUNTS, K, n_jobs=2)
    pd.testing.assert_frame_equal(again, values, check_exact=True)


@dataclass(frozen=True)
class Counted:
    """Popular, which notes the seed of each of its fits."""

    fits: list[int] = field(default_factory=list)
    seed: int = -1

    def fit(self, data: Dataset) -> Step:
        self.fits.append(self.seed)
        return Popular().fit(data)


def test_a_model_is_fitted_once_for_each_split_with_its_seed(data: Dataset) -> None:
    model, splits = Counted(), [cold_users(data, seed) for seed in (3, 4)]
    found = ask_all({"counted": model}, splits, (3, 4), COUNTS, K)
    assert sorted(model.fits) == [3, 4]
    assert [each.seed for each in found] == [3] * 4 + [4] * 4
    assert [each.split.name for each in found[:4]] == [f"{count} known" for count in COUNTS]
    assert len({each.fit_seconds for each in found[:4]}) == 1
    for number, seed in enumerate((3, 4)):
        last, alone = found[4 * number + 3], Questions.of(splits[number], COUNTS, seed)
        assert last.split.requests[LIKED].tolist() == told(alone)[-1]


# Errors


@pytest.mark.parametrize("counts", [(), (-1, 2), (2, 1), (1, 1), (0, 1.5), (True,), 3])
def test_counts_ascend_from_zero_up(counts: tuple[int, ...], split: Split) -> None:
    with pytest.raises(ValueError, match="are not ascending whole numbers from 0 up"):
        Questions.of(split, counts)


def test_somebody_has_enough_titles(data: Dataset) -> None:
    split = by_hand(data, (1, 5, 9, 20), (3, 4))
    with pytest.raises(ValueError, match="nobody has more than 4 titles, the most is 4: lower"):
        Questions.of(split, (0, 4))


def test_people_whom_training_knows_are_not_new(data: Dataset) -> None:
    with pytest.raises(ValueError, match=r"random split trains on \d+ of the \d+ people"):
        Questions.of(random_split(data, 0), (0, 1))


def test_people_are_asked_for_once(data: Dataset) -> None:
    split = by_hand(data, (1, 5, 9), (3, 4, 6))
    twice = replace(split, requests=split.requests.assign(user=0))
    with pytest.raises(ValueError, match="1 requests of the by hand split are of people asked"):
        Questions.of(twice, (0, 1))


@pytest.mark.parametrize(("models", "seeds"), [({}, [0]), (DEAF, []), (DEAF, [0, 1])])
def test_models_and_a_seed_for_each_split_are_needed(
    models: dict[str, Stage], seeds: list[int], split: Split
) -> None:
    with pytest.raises(ValueError, match="a seed for each split"):
        ask_all(models, [split], seeds, COUNTS)
