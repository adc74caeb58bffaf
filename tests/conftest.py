from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from firetv.choices import Choices
from firetv.data import Dataset, Tables

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
