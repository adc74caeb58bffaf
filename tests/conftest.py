from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, sync_playwright

from firetv.choices import Choices
from firetv.data import Dataset, Tables

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# No GPU, no sandbox (of which a container has none), and nothing that calls home.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

GENRES = ("Comedy", "Drama", "News", "Sci-Fi")


def make_tables(users: int = 30, items: int = 40, events: int = 600, seed: int = 0) -> Tables:
    """A small world with two tastes: even users lean to even items, odd users to odd ones."""
    rng = np.random.default_rng(seed)
    user = rng.integers(users, size=events)
    item = rng.integers(items // 2, size=events) * 2
    item += (user + (rng.random(events) < 0.2)) % 2
    seconds = np.sort(rng.integers(0, 90 * 86_400, size=events))
    times = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(seconds, unit="s")
    user_id = np.array([f"user{u}" for u in range(users)])
    content_id = np.array([f"content{i}" for i in range(items)])
    history = pd.DataFrame(
        {
            "user_id": user_id[user],
            "content_id": content_id[item],
            "timestamp": times.astype("datetime64[us, UTC]"),
            "completion": rng.random(events),
        }
    )
    reactions = history[["user_id", "content_id", "timestamp"]].assign(
        rating=rng.integers(1, 6, size=events).astype(float)
    )
    return Tables(
        watch_history=history,
        content_reactions=reactions[::2].reset_index(drop=True),
        users=pd.DataFrame(
            {
                "user_id": user_id,
                "age": pd.array(rng.integers(10, 80, size=users), "Int64"),
                "gender": np.where(np.arange(users) % 2, "f", "m"),
                "region": rng.choice(["north", "south"], size=users),
            }
        ),
        content=pd.DataFrame(
            {
                "content_id": content_id,
                "title": [f"Title {i}" for i in range(items)],
                "content_type": np.where(np.arange(items) % 5 == 0, "series", "movie"),
                "genres": [
                    [GENRES[i % 2], GENRES[2 + i % 2]][: 1 + i % 3 % 2] for i in range(items)
                ],
                "release_year": pd.array(1970 + np.arange(items), "Int64"),
                "duration_minutes": rng.integers(20, 150, size=items).astype(float),
            }
        ),
        user_connections=pd.DataFrame(
            {
                "user_id": ["user0", "user0", "user1", "user2"],
                "friend_id": ["user2", "user2", "user0", "user2"],
                "strength": [0.2, 0.7, 1.0, 0.5],
            }
        ),
        groups=pd.DataFrame({"group_id": ["g1", "g1"], "user_id": ["user0", "user1"]}),
        manifest={"name": "tiny"},
    )


@pytest.fixture(scope="session")
def tables() -> Tables:
    return make_tables()


@pytest.fixture(scope="session")
def data(tables: Tables) -> Dataset:
    return Dataset.from_tables(tables)


def planted(
    weights: list[float], choices: int = 3000, slots: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Random features of shape (R, K, D), and the slot that each request chooses by them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(choices, slots, len(weights))).astype(np.float32)
    return x, (x @ weights + rng.gumbel(size=(choices, slots))).argmax(axis=1)


def chosen_first(x: np.ndarray, chosen: np.ndarray) -> Choices:
    """All slots, the chosen one in front."""
    order = np.argsort(np.arange(x.shape[1]) != chosen[:, None], axis=1, kind="stable")
    x = np.take_along_axis(x, order[:, :, None], axis=1)
    names = tuple(f"feature{n}" for n in range(x.shape[2]))
    return Choices(x, np.ones(x.shape[:2], bool), names)


def make_rich_tables(users: int = 30, items: int = 40, events: int = 700) -> Tables:
    """The small world with all that a recommender reads.

    The last three users and the last four titles have no events; of the very last user no profile
    is known, and of the very last title nothing but its name. User 4 shares nothing.
    """
    rng, tables = np.random.default_rng(1), make_tables(users, items, events)
    late_user, late_item = f"user{users - 1}", f"content{items - 1}"
    gone = {f"user{users - n}" for n in (1, 2, 3)} | {f"content{items - n}" for n in (1, 2, 3, 4)}
    history, said = (
        frame[~frame["user_id"].isin(gone) & ~frame["content_id"].isin(gone)]
        for frame in (tables.watch_history, tables.content_reactions)
    )
    people = tables.users.assign(
        name=[f"Person {n}" for n in range(users)],
        sharing=np.where(np.arange(users) == 4, "off", "on"),
        plan=np.where(np.arange(users) % 3, "basic", "gold"),
    )
    people.loc[3, "name"] = None
    people.loc[people["user_id"] == late_user, ["age", "gender", "region", "plan"]] = None
    content = tables.content.copy()
    bare = (content["content_id"] == late_item).to_numpy()
    columns = ["content_type", "release_year", "duration_minutes"]
    content.loc[bare, columns] = None
    content["genres"] = [
        [] if none else own for own, none in zip(content["genres"], bare, strict=True)
    ]
    tied = (rng.random((users, users)) < 0.2) & ~np.eye(users, dtype=bool)
    one, other = np.nonzero(tied)
    return Tables(
        watch_history=history.assign(
            weather=rng.choice(["rainy", "sunny"], len(history)),
            companion=rng.choice(["alone", "family"], len(history)),
        ).reset_index(drop=True),
        content_reactions=said.assign(
            reaction=rng.choice(["love", "like", "dislike", None], len(said))
        ).reset_index(drop=True),
        users=people,
        content=content,
        user_connections=pd.DataFrame(
            {
                "user_id": [f"user{n}" for n in one],
                "friend_id": [f"user{n}" for n in other],
                "strength": rng.uniform(0.1, 1, len(one)),
            }
        ),
        manifest={"name": "rich"},
    )


@pytest.fixture(scope="session")
def rich() -> Dataset:
    return Dataset.from_tables(make_rich_tables())


@contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    """Answer requests in a thread for a while."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")  # while it is open, no other test can run an event loop
def browser() -> Iterator[Browser]:
    """A headless Chromium, if the machine has one."""
    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is on PATH")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=executable, args=QUIET)
        yield found
        found.close()
