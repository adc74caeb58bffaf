"""Metrics of lists by RecTools, timed: run by a benchmark in an environment that has it.

``python rectools_metrics.py lists.npz repeats`` reads ``items``, the (R, k) lists with -1 for an
empty slot, and ``indptr, indices``, the CSR rows of relevant items. It prints JSON: the mean of
each metric and the seconds of each repetition, for the evaluation alone and for building the data
frames from the arrays.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.metrics import MAP, MRR, NDCG, Precision, Recall, calc_metrics


def frames(
    items: np.ndarray, indptr: np.ndarray, indices: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Recommendations and interactions as RecTools wants them."""
    user, slot = np.nonzero(items >= 0)
    lists = pd.DataFrame(
        {Columns.User: user, Columns.Item: items[user, slot], Columns.Rank: slot + 1}
    )
    relevant = pd.DataFrame(
        {Columns.User: np.repeat(np.arange(len(items)), np.diff(indptr)), Columns.Item: indices}
    )
    return lists, relevant


def main(path: str, repeats: int) -> dict:
    """Warm up once, then build and evaluate so many times."""
    with np.load(path, allow_pickle=False) as file:
        arrays = [file[name] for name in ("items", "indptr", "indices")]
    k = arrays[0].shape[1]
    metrics = {
        "ndcg": NDCG(k, divide_by_achievable=True),
        "map": MAP(k),
        "precision": Precision(k),
        "recall": Recall(k),
        "mrr": MRR(k),
    }
    values, build, evaluate = {}, [], []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        lists, relevant = frames(*arrays)
        built = time.perf_counter()
        values = calc_metrics(metrics, reco=lists, interactions=relevant)
        evaluate.append(time.perf_counter() - built)
        build.append(built - start)
    values = {name: float(value) for name, value in values.items()}
    return {"values": values, "evaluate_seconds": evaluate[1:], "build_seconds": build[1:]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
