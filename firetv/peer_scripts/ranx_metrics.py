"""Metrics of lists by ranx, timed: run by a benchmark in an environment that has it.

``python ranx_metrics.py lists.npz repeats threads`` reads ``items``, the (R, k) lists with -1 for
an empty slot, and ``indptr, indices``, the CSR rows of relevant items. It prints JSON: the mean of
each metric and the seconds of each repetition, for the evaluation alone, and of building the
``Qrels`` and the ``Run`` from the arrays once. ranx compiles in a repetition that is not counted.
"""

from __future__ import annotations

import itertools
import json
import sys
import time

import numpy as np
from ranx import Qrels, Run, evaluate

METRICS = ("ndcg", "map", "precision", "recall", "mrr")


def inputs(items: np.ndarray, indptr: np.ndarray, indices: np.ndarray) -> tuple[Qrels, Run]:
    """Relevant items and lists as ranx wants them, through its dictionaries."""
    codes, bounds = indices.astype("str").tolist(), indptr.tolist()
    relevant = {
        str(user): dict.fromkeys(codes[first:last], 1)
        for user, (first, last) in enumerate(itertools.pairwise(bounds))
    }
    lists = {
        str(user): {str(item): float(-slot) for slot, item in enumerate(row) if item >= 0}
        for user, row in enumerate(items.tolist())
    }
    return Qrels(relevant), Run(lists)


def main(path: str, repeats: int, threads: int) -> dict:
    """Build once, warm up, then evaluate so many times."""
    with np.load(path, allow_pickle=False) as file:
        arrays = [file[name] for name in ("items", "indptr", "indices")]
    names = [f"{name}@{arrays[0].shape[1]}" for name in METRICS]
    inputs(arrays[0][:20], arrays[1][:21], arrays[2])  # compile what builds them
    start = time.perf_counter()
    relevant, lists = inputs(*arrays)
    build = [time.perf_counter() - start]
    values, seconds = {}, []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        values = evaluate(relevant, lists, names, threads=threads, save_results_in_run=False)
        seconds.append(time.perf_counter() - start)
    found = {name.split("@")[0]: float(value) for name, value in values.items()}
    return {"values": found, "evaluate_seconds": seconds[1:], "build_seconds": build}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
