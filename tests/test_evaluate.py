from __future__ import annotations

import pickle
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from joblib import Parallel, delayed
from lightfm import LightFM, evaluation

from firetv import evaluate
from firetv.abtest import Interval, difference_interval, mean_interval
from firetv.data import Dataset
from firetv.diversity import MMR
from firetv.evaluate import Once, Variant
from firetv.models import ALS, EASE, Popular, Random
from firetv.moments import DIMENSIONS
from firetv.ranking import Average, Choices, LambdaMART, Logit, Ranker, Scorer
from firetv.slate import EMPTY, ExcludeSeen, Step, chain, top, with_seed
from firetv.splits import Split, cold_items, each_event, random_split
from firetv.steps import FactorStep


def test_lists_hold_unseen_candidates_only(data: Dataset) -> None:
    split = random_split(data, seed=0)
    for each in evaluate.run_all({"als": ALS(4), "popular": Popular()}, split):
        assert set(np.unique(each.items)) <= {EMPTY, *split.candidates}
        seen = split.train.matrix().toarray()[split.requests["user"]]
        rows, slots = np.nonzero(each.items != EMPTY)
        assert not seen[rows, each.items[rows, slots]].any()


def test_same_seed_same_table_whatever_the_number_of_jobs(data: Dataset) -> None:
    split = random_split(data, seed=0)
    models = {"als": ALS(4), "random": Random()}
    tables = []
    for n_jobs in (1, 2):
        runs = evaluate.run_all(models, split, seeds=(0, 1), n_jobs=n_jobs)
        tables.append(evaluate.summarise(evaluate.measure(runs, ["ndcg", "map"])))
    pd.testing.assert_frame_equal(*tables)
    assert (tables[0]["seeds"] == 2).all()


def test_lists_are_described_beyond_accuracy(data: Dataset) -> None:
    split = random_split(data, seed=0)
    runs = evaluate.run_all({"popular": Popular(), "random": Random()}, split, seeds=(0, 1), k=5)
    means = evaluate.measure_lists(runs).groupby(["metric", "model"])["value"].mean().unstack()
    assert means.loc["novelty@5", "random"] > means.loc["novelty@5", "popular"]
    assert means.loc["popularity@5", "popular"] > means.loc["popularity@5", "random"]
    assert means.notna().all(axis=None)
    covered = evaluate.coverage(runs).set_index("model")
    shown = [len(set(r.items[r.items >= 0])) / len(split.candidates) for r in runs[:2]]
    assert covered.loc["popular", "value"] == pytest.approx(np.mean(shown))
    assert covered.loc["random", "value"] > 0.9
    assert (covered["seeds"] == 2).all()


def test_ties_are_not_broken_by_the_order_of_the_catalogue(data: Dataset) -> None:
    split = cold_items(data, seed=0)
    lists = [evaluate.run("popular", Popular(), split, seed).items for seed in (0, 1)]
    assert (lists[0] != lists[1]).any()


def test_comparison_is_paired_by_user_over_seeds() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    rows = [
        {"model": model, "seed": seed, "user": user, "known": True, "metric": "ndcg@10", "value": v}
        for seed in (0, 1)
        for user in range(200)
        for model, v in (("a", base[user]), ("b", base[user] + 0.01 * (1 + seed)))
    ]
    values = pd.DataFrame(rows)
    gap = evaluate.compare(values, "a").iloc[0]
    assert (gap["model"], gap["n"], gap["seeds"]) == ("b", 200, 2)
    assert gap["value"] == pytest.approx(0.015)
    assert gap["high"] - gap["low"] < 1e-9  # the users' own spread cancels
    wide = evaluate.summarise(values).query("model == 'b'").iloc[0]
    assert wide["high"] - wide["low"] > 0.05
    with pytest.raises(KeyError, match="among the models: a, b"):
        evaluate.compare(values, "c")


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for repeat in range(300):
        interval = mean_interval(rng.beta(0.5, 2, size=80), seed=repeat, resamples=500)
        covered += interval.low <= 0.2 <= interval.high
    assert 0.91 <= covered / 300 <= 0.98


def test_a_comparison_of_equals_rejects_about_one_time_in_twenty() -> None:
    rng = np.random.default_rng(2)
    rejected = sum(
        difference_interval(rng.random(60), rng.random(60), seed=repeat).excludes_zero
        for repeat in range(300)
    )
    assert 0.02 <= rejected / 300 <= 0.09


def test_intervals_are_seeded_and_skip_the_undefined() -> None:
    values = np.array([0.1, 0.4, np.nan, 0.3, 0.9])
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1).n == 4
    assert mean_interval(np.ones(5), seed=0) == Interval(1.0, 1.0, 1.0, 5)
    assert not difference_interval(values, values, seed=0).excludes_zero
    with pytest.raises(ValueError, match="at least 2 values, not 1"):
        mean_interval(np.array([1.0, np.nan]), seed=0)


def test_requests_count_once_each_and_users_are_resampled() -> None:
    """A heavy user outweighs light ones in a mean of requests, not in a mean of users."""
    rows = [
        {"model": m, "seed": 0, "split": "s", "request": r, "user": u, "metric": "ndcg", "value": v}
        for m, gain in (("a", 0.0), ("b", 1.0))
        for r, u in enumerate([0] * 30 + list(range(1, 11)))
        for v in (gain if u == 0 else 0.0,)
    ]
    values = pd.DataFrame(rows)
    by_request = evaluate.compare(values, "a", unit="request").iloc[0]
    by_user = evaluate.compare(values, "a").iloc[0]
    assert by_request["value"] == pytest.approx(30 / 40)
    assert by_user["value"] == pytest.approx(1 / 11)
    assert by_request["n"] == by_user["n"] == 11
    assert by_request["low"] < 0.1  # one witness, however often it speaks


def test_permuted_moments_keep_who_met_what_and_lose_what_went_with_which_item(
    data: Dataset,
) -> None:
    clocked = evaluate.with_moments(data)
    events = clocked.interactions
    assert set(events["daypart"].dropna()) == {"morning", "afternoon", "evening", "night"}
    shuffled = evaluate.permuted_moments(clocked, seed=0).interactions
    kept = ["user", "item", "timestamp"]
    pd.testing.assert_frame_equal(shuffled[kept], events[kept])
    for columns in (["user", "daypart"], ["user", "daypart", "daytype", "season"]):
        met = [each.groupby(columns).size() for each in (events, shuffled)]
        pd.testing.assert_series_equal(*met)
    assert (shuffled["daypart"] != events["daypart"]).mean() > 0.3


def test_variants_use_the_features_they_name(data: Dataset) -> None:
    clocked = evaluate.with_moments(data)
    late = clocked.interactions["timestamp"] >= data.interactions["timestamp"].quantile(0.8)
    split = each_event("late", clocked.keep(~late), clocked.interactions[late])
    ranker = Ranker({"popularity": Popular(), "ease": EASE(reg=10)}, folds=2)
    variants = {
        "both": Variant(Logit(), ("popularity", "ease")),
        "popularity": Variant(Logit(), ("pop",)),
    }
    alone, together = (
        evaluate.run_variants(ranker, variants, [split], [0], n_jobs=n) for n in (1, 2)
    )
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.items, other.items)
    popular = evaluate.run("popularity", Popular(), split, seed=0)
    ndcg = evaluate.measure([*alone, popular]).groupby("model")["value"].mean()
    assert ndcg["both"] > ndcg["popularity"]
    np.testing.assert_array_equal(np.sort(alone[1].items), np.sort(popular.items))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Dataset]:
    """What popularity was learned from, one after the other."""
    told, fit = [], Popular.fit

    def noted(self: Popular, data: Dataset) -> Step:
        told.append(data)
        time.sleep(0.02)  # so that another thread asks meanwhile
        return fit(self, data)

    monkeypatch.setattr(Popular, "fit", noted)
    return told


def test_pipelines_that_share_a_base_fit_it_once_whoever_asks_first(
    data: Dataset, fits: list[Dataset]
) -> None:
    base, split = Once(Popular()), random_split(data, seed=0)
    ways = {"alone": base, "chained": chain(base), "unseen": chain(base, ExcludeSeen())}
    runs = evaluate.run_all(ways, split, n_jobs=3)
    assert len(fits) == 1
    own = evaluate.run("own", Popular(), split, seed=0)
    for each in runs:
        np.testing.assert_array_equal(each.items, own.items)


def test_data_are_the_same_if_what_they_hold_is(data: Dataset, fits: list[Dataset]) -> None:
    base = Once(Popular())
    cut = data.interactions["timestamp"].quantile(0.5)
    assert base.fit(data.until(cut)) is base.fit(data.until(cut))
    heavy = replace(data, weights=data.matrix() * np.float32(2))
    alone, clocked = replace(data, friends=None), evaluate.with_moments(data)
    changed = [data.until(cut), data, heavy, alone, clocked]
    assert len({id(base.fit(each)) for each in changed}) == len(changed) == len(fits)


def test_another_seed_or_model_is_another_fit(data: Dataset) -> None:
    base = Once(ALS(2), seed=1)
    one, other = base.fit(data), with_seed(base, 2).fit(data)
    np.testing.assert_array_equal(one.item_factors, ALS(2, seed=1).fit(data).item_factors)
    np.testing.assert_array_equal(other.item_factors, ALS(2, seed=2).fit(data).item_factors)
    assert replace(base, model=ALS(3)).fit(data).item_factors.shape[1] == 3
    assert base.fit(data) is one


def test_what_a_model_is_not_told_makes_no_difference(data: Dataset, fits: list[Dataset]) -> None:
    base, clocked = Once(Popular(), untold=["friends", *DIMENSIONS]), evaluate.with_moments(data)
    blind = evaluate.permuted_moments(replace(clocked, friends=data.friends * 2), 0)
    assert base.fit(clocked) is base.fit(blind) is base.fit(data)
    (told,) = fits
    assert told.friends is None
    pd.testing.assert_frame_equal(told.interactions, data.interactions)


def test_threads_wait_for_a_fit_that_has_begun(data: Dataset, fits: list[Dataset]) -> None:
    base = Once(Popular())
    asked = Parallel(4, backend="threading")(delayed(base.fit)(data) for _ in range(8))
    assert len(fits) == 1
    assert all(step is asked[0] for step in asked)


def test_other_processes_fit_for_themselves(data: Dataset) -> None:
    base = Once(ALS(2), untold=["friends"], seed=3)
    step = base.fit(data)
    sent = pickle.loads(pickle.dumps(base))
    assert sent == base
    assert sent.fits == {}
    np.testing.assert_array_equal(sent.fit(data).item_factors, step.item_factors)


@pytest.fixture
def late(data: Dataset) -> Split:
    clocked = evaluate.with_moments(data)
    late = clocked.interactions["timestamp"] >= data.interactions["timestamp"].quantile(0.8)
    return each_event("late", clocked.keep(~late), clocked.interactions[late])


TREES = LambdaMART(trees=5, min_leaf=5)
VARIANTS = {
    "mean": Variant(Average((Logit(), TREES)), ("popularity", "ease")),
    "logit": Variant(Logit(), ("popularity", "ease")),
    "trees": Variant(TREES, ("popularity", "ease")),
    "popularity": Variant(Logit(), ("pop",)),
}


def test_variants_are_what_each_is_by_itself(late: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = Ranker({"popularity": Popular(), "ease": EASE(reg=10)}, folds=2, keep=15, seed=4)
    prepared = ranker.prepare(late.train)
    monkeypatch.setattr(evaluate, "CHUNK_CELLS", 7 * len(late.candidates))
    runs = evaluate.run_variants(ranker, VARIANTS, [late], [4], k=5)
    for each, variant in zip(runs, VARIANTS.values(), strict=True):
        step = prepared.learn(with_seed(variant.learner, 4), variant.chosen(["popularity", "ease"]))
        alone = evaluate.run("alone", step, late, seed=4, k=5)
        np.testing.assert_array_equal(each.items, alone.items)


def test_variants_fit_the_same_learner_of_the_same_features_once(
    late: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned, fit = [], Logit.fit

    def noted(self: Logit, choices: Choices) -> Scorer:
        learned.append(choices.names)
        return fit(self, choices)

    monkeypatch.setattr(Logit, "fit", noted)
    ranker = Ranker({"popularity": Popular(), "ease": EASE(reg=10)}, folds=2)
    evaluate.run_variants(ranker, VARIANTS, [late], [0])
    assert learned == [("popularity", "ease"), ("popularity",)]


def test_a_variant_may_be_re_ranked(late: Split) -> None:
    ranker = Ranker({"popularity": Popular(), "ease": EASE(reg=10)}, folds=2, keep=15)
    plain = Variant(Logit(), ("popularity", "ease"))
    again = Variant(plain.learner, plain.use, then=(MMR(0.9, k=5),))
    runs = evaluate.run_variants(ranker, {"plain": plain, "again": again}, [late], [0], k=5)
    step = ranker.prepare(late.train).learn(plain.learner)
    alone = evaluate.run("alone", chain(step, *again.then), late, seed=0, k=5)
    np.testing.assert_array_equal(runs[1].items, alone.items)
    assert (runs[0].items != runs[1].items).any()


@pytest.mark.parametrize("chunk_cells", [100, 1_000_000])
def test_ranks_are_worth_what_lightfm_says(data: Dataset, chunk_cells: int) -> None:
    split, k = random_split(data, seed=0), 5
    split = replace(split, candidates=np.arange(data.shape[1]))
    train = sp.csr_matrix(split.train.matrix() > 0, dtype=np.float32)
    users = split.requests["user"].to_numpy()
    pairs = np.repeat(users, split.n_relevant), split.relevant.indices
    test = sp.csr_matrix((np.ones(split.relevant.nnz, np.float32), pairs), shape=data.shape)
    model = LightFM(8, random_state=0).fit(train, epochs=3)
    ones = [np.ones((n, 1), np.float32) for n in data.shape]
    step = FactorStep(
        np.hstack([model.user_embeddings, model.user_biases[:, None], ones[0]]),
        np.hstack([model.item_embeddings, ones[1], model.item_biases[:, None]]),
        np.ones(data.shape[0], bool),
        np.zeros(data.shape[1], np.float32),
    )
    found = evaluate.ranks(step, split, chunk_cells)
    expected = model.predict_rank(test, train_interactions=train)[users]
    np.testing.assert_array_equal(found.ranks.toarray(), expected.toarray())
    told = {"train_interactions": train}
    for value, theirs in (
        (found.precision(k), evaluation.precision_at_k(model, test, k=k, **told)),
        (found.recall(k), evaluation.recall_at_k(model, test, k=k, **told)),
        (found.auc(), evaluation.auc_score(model, test, **told)),
        (found.reciprocal_rank(), evaluation.reciprocal_rank(model, test, **told)),
    ):
        np.testing.assert_allclose(value, theirs, atol=1e-6)


def test_what_is_no_candidate_ranks_last(data: Dataset) -> None:
    split = random_split(data, seed=0)
    lost = split.relevant.indices[0]
    found = evaluate.ranks(
        Popular().fit(split.train), replace(split, candidates=np.setdiff1d(split.candidates, lost))
    )
    of_lost = found.ranks.indices == lost
    last = found.n_candidates[found.requests] - 1
    assert (found.ranks.data[of_lost] == last[of_lost]).all()
    assert (found.ranks.data <= last).all()


def test_ranks_want_all_candidates_scored(data: Dataset) -> None:
    split = random_split(data, seed=0)
    with pytest.raises(ValueError, match="leave top"):
        evaluate.ranks(chain(Popular(), top(3)).fit(split.train), split)
