"""The same seed gives the same lists: in every process, and with any number of BLAS threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rich_tables
from served import trained

from firetv.batch import lists_frame
from firetv.data import Dataset
from firetv.lists import Newcomer, Recommendations
from firetv.models import ItemKNN
from firetv.packaged import BLENDED, MODELS
from firetv.recommender import Recommender
from firetv.slate import EMPTY

# Large enough that BLAS shares a product among threads.
LISTS = """
import json, sys
from dataclasses import replace
sys.path.insert(0, sys.argv[1])
from conftest import make_rich_tables
from threadpoolctl import threadpool_info
from firetv.data import Dataset
from firetv.packaged import base_model
from firetv.recommender import Recommender

data, found = Dataset.from_tables(make_rich_tables(60, 120, 1500)), {}
for name in sys.argv[2:]:
    base = base_model(name)
    base = replace(base, folds=2) if name == "blend" else base
    recommender = Recommender.train(data, base, seed=3)
    lists = recommender.recommend([*data.user_ids, "nobody"], k=20).to_frame()
    similar = recommender.similar("content4", 20)
    found[name] = lists["content_id"].tolist() + similar["content_id"].tolist()
threads = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
print(json.dumps([sorted(threads), found]))
"""


def test_lists_repeat_with_one_thread_or_two() -> None:
    names = [*MODELS, "blend"]
    command = [sys.executable, "-c", LISTS, str(Path(__file__).parent), *names]
    running = []
    for threads in ("1", "2"):  # and with sets and dictionaries of another order
        variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, threads) | {"PYTHONHASHSEED": threads}
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    (one, once), (two, again) = (json.loads(process.communicate()[0]) for process in running)
    assert (one, max(two)) == ([1], min(2, os.cpu_count() or 1))
    assert set(BLENDED) < set(once)
    for name in names:
        assert len(set(once[name])) > 40, name
        assert once[name] == again[name], name


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    """Of few events, so that many titles are as popular as others."""
    return trained(Dataset.from_tables(make_rich_tables(events=150)), ItemKNN())


def ordered(found: Recommendations) -> int:
    """Check that each list falls by score, and by code where scores are equal; count these."""
    ties = 0
    for items, scores in zip(found.slate.grid, found.slate.scores, strict=True):
        codes, values = items[items != EMPTY], scores[items != EMPTY]
        np.testing.assert_array_equal(np.lexsort((codes, -values)), np.arange(len(codes)))
        ties += int((np.diff(values) == 0).sum())
    return ties


def test_equal_scores_come_by_code(recommender: Recommender) -> None:
    people = [*recommender.data.user_ids, "nobody", Newcomer(("content2",))]
    assert ordered(recommender.recommend(people, k=40)) > 50
    for person in people:
        ordered(recommender.recommend([person], k=7))


def test_equal_titles_come_by_code(recommender: Recommender) -> None:
    found = recommender.similar("content2", 40)
    codes = recommender.data.item_ids.get_indexer(found["content_id"])
    order = np.lexsort((codes, -found["similarity"].to_numpy()))
    np.testing.assert_array_equal(order, np.arange(len(found)))
    assert found["similarity"].duplicated().any()


def test_a_shorter_list_is_the_beginning_of_a_longer_one(recommender: Recommender) -> None:
    users = recommender.data.user_ids
    parts = tuple(recommender.recommend(list(users), k=40).slate.parts)
    long, short = (
        lists_frame(recommender.recommend(list(users), k=k), users, parts) for k in (40, 5)
    )
    first = long[long["rank"] <= 5]
    assert short["content_id"].tolist() == first["content_id"].tolist()
