from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_rich_tables
from distributed import Client
from served import trained
from typer.testing import CliRunner, Result
from workers import two_workers, wait_for

from firetv import batch as module
from firetv.batch import RECORD, Scored, _planned, part_path, score, write_part
from firetv.cli import app
from firetv.cluster import check, connect
from firetv.data import Dataset, write_tables
from firetv.recommender import Recommender
from firetv.schema import DataError

SIZE = 4  # users in a part


def firetv(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def model(rich: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    trained(rich).save(folder)
    return folder


@pytest.fixture(scope="module")
def recommender(model: Path) -> Recommender:
    return Recommender.load(model)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with two_workers(tmp_path_factory.mktemp("cluster"), "--preload", "hold") as address:
        yield address


@pytest.fixture(scope="module")
def client(scheduler: str) -> Iterator[Client]:
    with connect(scheduler) as connected:
        yield connected


@pytest.fixture(scope="module")
def one_process(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The files that one process writes."""
    out, batch = tmp_path_factory.mktemp("one"), _planned(model, 5, SIZE)
    for number in range(batch.partitions):
        write_part(number, batch, str(model), str(out))
    return [part_path(out, number).read_bytes() for number in range(batch.partitions)]


def written(out: Path) -> list[bytes]:
    assert all(path.name.startswith("part-") for path in (out / "lists").iterdir())
    return [path.read_bytes() for path in sorted((out / "lists").iterdir())]


def test_lists_are_those_of_the_recommender(
    model: Path, recommender: Recommender, client: Client, tmp_path: Path
) -> None:
    scored = score(model, tmp_path, client, k=5, partition_users=SIZE)
    found = pd.read_parquet(scored.folder)
    users = list(recommender.data.user_ids)
    asked = recommender.recommend(users, k=5)
    wanted = asked.to_frame()
    assert len(found) == scored.rows == len(wanted)
    assert found["user_id"].tolist() == [users[n] for n in wanted["request"]]
    assert found["rank"].tolist() == wanted["rank"].tolist()
    assert found["content_id"].tolist() == wanted["content_id"].tolist()
    # The size of a block may change the last digit of a product.
    assert np.allclose(found["score"], wanted["score"], rtol=1e-5, atol=1e-6)
    ledger = found.columns[4:]
    assert {"taste", "popularity", "friends"} <= set(ledger)
    assert (found[ledger].dtypes == np.float32).all()
    assert np.allclose(found[ledger].sum(axis=1), found["score"], atol=1e-5)


def test_two_workers_write_what_one_process_writes(
    model: Path, client: Client, one_process: list[bytes], tmp_path: Path
) -> None:
    scored = score(model, tmp_path, client, k=5, partition_users=SIZE)
    assert (scored.users, scored.partitions, scored.reused) == (30, 8, 0)
    assert written(tmp_path) == one_process


def test_a_killed_worker_loses_nothing(
    model: Path, client: Client, one_process: list[bytes], tmp_path: Path
) -> None:
    hold, said = tmp_path / "hold", []
    hold.touch()
    run = threading.Thread(
        target=lambda: said.append(score(model, tmp_path, client, k=5, partition_users=SIZE))
    )
    run.start()
    try:
        wait_for(lambda: len([*tmp_path.glob("held-*")]) == 2)
        killed = int(next(tmp_path.glob("held-*")).name.removeprefix("held-"))
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: killed not in client.run(os.getpid, on_error="ignore").values())
    finally:
        hold.unlink()
        run.join(timeout=120)
        client.wait_for_workers(2, timeout=120)  # its nanny starts another, for the tests to come
    assert [each.partitions for each in said] == [8]
    assert written(tmp_path) == one_process


def test_what_is_there_is_not_done_again(
    model: Path, client: Client, one_process: list[bytes], tmp_path: Path
) -> None:
    score(model, tmp_path, client, k=5, partition_users=SIZE)
    part_path(tmp_path, 3).unlink()
    part_path(tmp_path, 5).write_bytes(one_process[5][:-20])  # cut short as a machine went down
    (tmp_path / "lists" / ".part-00003.parquet.17").touch()  # of a worker that died
    before = {n: part_path(tmp_path, n).stat().st_mtime_ns for n in range(8) if n != 3}
    again = score(model, tmp_path, client, k=5, partition_users=SIZE)
    assert again.reused == 6
    after = {n: part_path(tmp_path, n).stat().st_mtime_ns for n in range(8) if n != 3}
    assert {n for n in before if before[n] != after[n]} == {5}
    assert written(tmp_path) == one_process
    assert not [*(tmp_path / "lists").glob(".*")]


def test_lists_of_another_run_are_not_mixed_in(model: Path, client: Client, tmp_path: Path) -> None:
    score(model, tmp_path, client, k=5, partition_users=SIZE)
    with pytest.raises(DataError, match="another run: k 5, not 6"):
        score(model, tmp_path, client, k=6, partition_users=SIZE)
    (tmp_path / RECORD).unlink()
    with pytest.raises(DataError, match="holds lists, but no score"):
        score(model, tmp_path, client, k=5, partition_users=SIZE)


@pytest.mark.parametrize(("k", "size"), [(0, 4), (101, 4), (5, 0)])
def test_sizes_are_checked(k: int, size: int, model: Path, client: Client, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"use 1 or more|is not of 1 to 100"):
        score(model, tmp_path, client, k=k, partition_users=size)
    assert not [*tmp_path.iterdir()]


def test_a_recommender_trained_again_meanwhile_is_refused(model: Path, tmp_path: Path) -> None:
    batch = replace(_planned(model, 5, SIZE), model="another")
    with pytest.raises(DataError, match="trained again since the run began"):
        write_part(0, batch, str(model), str(tmp_path))


def test_small_data_are_shared_out_and_big_ones_bounded(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _planned(model, 5, None).partitions == 8
    monkeypatch.setattr(module, "CHUNK_CELLS", 20)  # 4 x 20 cells hold two rows of 36 to 40
    assert _planned(model, 5, None).partition_users == 2


def test_workers_that_do_not_see_the_folder_are_named(client: Client, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.write_text("here")
    check(client, seen)
    client.run(_blind)
    try:
        with pytest.raises(ValueError, match=r"worker tcp://\S+ does not see .*share"):
            check(client, seen)
    finally:
        client.run(_seeing)


def _blind() -> None:
    from firetv import cluster

    cluster.saved, cluster._seen = cluster._seen, lambda file: ("", cluster.code_checksum())


def _seeing() -> None:
    from firetv import cluster

    cluster._seen = cluster.saved


def test_no_scheduler_is_said_plainly(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firetv.cluster.SECONDS_TO_ANSWER", 1)
    words = ("score", "--model", model, "--out", tmp_path, "--scheduler", "tcp://127.0.0.1:1")
    said = firetv(*words)
    assert said.exit_code == 2
    assert "no scheduler answers" in said.output


def test_the_command_trains_scores_and_goes_on(scheduler: str, tmp_path: Path) -> None:
    data, other, out = (tmp_path / name for name in ("data", "other", "out"))
    write_tables(make_rich_tables(), data)
    write_tables(make_rich_tables(events=650), other)
    words = ("score", "--out", out, "--base", "itemknn", "--k", 3, "--scheduler", scheduler)
    said = firetv(*words, "--data", data)
    assert said.exit_code == 0, said.output
    assert said.stdout.endswith(f"titles for 30 users in {out / 'lists'} (8 files)\n")
    assert set(json.loads((out / RECORD).read_text())) >= {"model", "data", "k", "parts"}
    before = written(out)
    again = firetv(*words, "--data", data)
    assert "(8 files, 8 of which were there)" in again.stdout
    assert written(out) == before
    wrong = firetv(*words, "--data", other)
    assert wrong.exit_code == 2
    assert "was trained on other data" in wrong.output
    changed = firetv("score", "--out", out, "--base", "ease", "--data", data)
    assert changed.exit_code == 2
    assert "recommender-itemknn" in changed.output


def test_a_local_cluster_does_the_same(
    model: Path, one_process: list[bytes], tmp_path: Path
) -> None:
    with connect() as local:
        scored: Scored = score(model, tmp_path, local, k=5, partition_users=SIZE)
    assert scored.reused == 0
    assert written(tmp_path) == one_process
