from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from firetv import features
from firetv.data import Dataset, Tables
from firetv.features import Features, Profiles, user_features


def column(block: Features, name: str) -> np.ndarray:
    return block.matrix[:, [block.names.index(name)]].toarray().ravel()


def test_every_family_is_there(data: Dataset) -> None:
    assert set(features.item_features(data).families) == {"genre", "type", "decade", "minutes"}
    assert set(features.user_features(data).families) == {"age", "gender", "region"}
    np.testing.assert_array_equal(
        column(features.user_features(data), "gender:f"), data.users["gender"] == "f"
    )
    decade = data.content["release_year"] // 10 == 198
    np.testing.assert_array_equal(column(features.item_features(data), "decade:1980s"), decade)


def test_bands_cover_their_bounds_and_leave_the_unknown_empty() -> None:
    ages = pd.Series([0, 17, 18, 120, None], dtype="Int64")
    block = features.banded(ages, features.AGE_BANDS, "age")
    assert block.names == ("age:0-17", "age:18-24", "age:65-120")
    np.testing.assert_array_equal(
        block.matrix.toarray(), [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    )


def test_extra_columns_become_features_but_identifiers_do_not(data: Dataset) -> None:
    n = data.shape[0]
    users = data.users.assign(
        plan=np.where(np.arange(n) % 3, "basic", "gold"),
        income=np.arange(n, dtype=float),
        email=[f"{i}@example.org" for i in range(n)],
    )
    users.loc[0, "income"] = None
    wide = pd.concat([users] * 5, ignore_index=True)
    wide["email"] = [f"{i}@example.org" for i in range(len(wide))]
    ids = pd.Index([f"u{i}" for i in range(len(wide))])
    block = features.user_features(replace(data, users=wide, user_ids=ids))
    assert set(block.families) == {"age", "gender", "region", "plan", "income"}
    income = block.matrix[:, np.flatnonzero(block.families == "income")].toarray()
    assert income.shape[1] == 4
    assert income[0].sum() == 0
    assert income[1].sum() == 1


def test_flags_and_codes_keep_their_values(data: Dataset) -> None:
    n = data.shape[1]
    content = data.content.assign(
        premium=[1] * 4 + [0] * (n - 4), stars=np.arange(n) % 5, type="x", score=np.inf
    )
    block = features.item_features(replace(data, content=content))
    assert len(set(block.names)) == len(block.names)
    assert column(block, "premium:1").sum() == 4
    assert (block.families == "stars").sum() == 5
    assert "extra-type:x" in block.names


def test_normalised_rows_sum_to_one_or_stay_empty(data: Dataset) -> None:
    users = replace(data, users=data.users.assign(age=pd.NA, gender=None, region=None))
    users.users.loc[0, "gender"] = "f"
    sums = features.user_features(users).normalised().matrix.sum(axis=1)
    np.testing.assert_allclose(sums, [1] + [0] * (data.shape[0] - 1))


def test_tables_without_profiles_give_no_features(tables: Tables) -> None:
    data = Dataset.from_tables(Tables(tables.watch_history))
    assert features.user_features(data).matrix.shape == (data.shape[0], 0)
    assert features.item_features(data).matrix.shape == (data.shape[1], 0)


def test_genre_preferences_agree_with_counting_by_hand(data: Dataset) -> None:
    block = features.genre_preferences(data)
    user = int(data.interactions["user"].iloc[0])
    share: dict[str, float] = {}
    seen = data.interactions.query("user == @user")["item"].unique()
    for item in seen:
        for genre in data.content["genres"].iloc[item]:
            share[genre] = share.get(genre, 0) + 1 / len(data.content["genres"].iloc[item])
    for genre, amount in share.items():
        expected = amount / sum(share.values())
        assert column(block, f"likes:{genre}")[user] == pytest.approx(expected, rel=1e-5)


def test_hours_are_read_in_the_given_zone(data: Dataset) -> None:
    noon = data.interactions.assign(timestamp=pd.Timestamp("2024-07-01T12:00Z"))
    block = features.time_profile(replace(data, interactions=noon), zone="America/New_York")
    viewers = data.user_counts > 0
    np.testing.assert_array_equal(column(block, "hour:08"), viewers)


def test_a_prior_pulls_thin_time_profiles_to_everybodys(data: Dataset) -> None:
    raw = features.time_profile(data).matrix.toarray()
    pulled = features.time_profile(data, prior=50).matrix.toarray()
    everybody = raw.T @ data.interactions["user"].value_counts().sort_index() / 600
    assert np.abs(pulled - everybody).sum() < 0.5 * np.abs(raw - everybody).sum()


@pytest.mark.parametrize(
    "make",
    [
        features.user_features,
        features.item_features,
        features.genre_preferences,
        features.time_profile,
    ],
)
def test_no_feature_sees_an_event_after_the_cut(
    make: Callable[[Dataset], Features], data: Dataset
) -> None:
    cut = data.interactions["timestamp"].quantile(0.5)
    late = data.interactions["timestamp"] >= cut
    rng = np.random.default_rng(0)
    other = data.interactions.copy()
    other.loc[late, "item"] = rng.integers(data.shape[1], size=late.sum(), dtype=np.int32)
    other.loc[late, "timestamp"] += pd.to_timedelta(rng.integers(24, size=late.sum()), unit="h")
    changed = replace(data, interactions=other, reactions=data.reactions.iloc[:0])
    a, b = make(data.until(cut)), make(changed.until(cut))
    assert a.names == b.names
    np.testing.assert_array_equal(a.matrix.toarray(), b.matrix.toarray())


# Profiles of people who are not in the data


@pytest.fixture(scope="module")
def described(data: Dataset) -> Dataset:
    """Users with columns of every kind, and cells missing in each."""
    n, rng = data.shape[0], np.random.default_rng(0)
    users = data.users.assign(
        name=[f"Person {i}" for i in range(n)],
        plan=np.where(np.arange(n) % 3, "basic", "gold"),
        premium=(np.arange(n) % 2).astype(float),
        children=pd.array(rng.integers(0, 4, size=n), "Int64"),
        income=rng.lognormal(size=n),
        visits=np.where(
            np.arange(n) < n // 2, 0.0, np.arange(n)
        ),  # its first quartile is its least
        score=np.minimum(np.arange(n, dtype=float), n // 2),  # its last quartile is its most
        debts=np.where(np.arange(n) < n - 12, 0.0, np.arange(n)),
        hour=rng.integers(0, 9, size=n),
        likes=np.where(np.arange(n) % 4, "a:b", "c"),
    )
    users.loc[::7, ["plan", "premium", "children", "income", "visits", "age", "gender"]] = None
    return replace(data, users=users)


def test_a_profile_has_the_traits_of_that_very_person(described: Dataset) -> None:
    features, profiles = user_features(described), Profiles.of(described)
    assert profiles.names == features.names
    families = {"age", "gender", "region", "plan", "premium", "children", "income", "visits",
                "score", "debts", "extra-hour", "extra-likes"}  # fmt: skip
    assert set(features.families) == families
    for row in range(described.shape[0]):
        person = described.users.iloc[row]
        known = {c: person[c] for c in profiles.columns if pd.notna(person[c])}
        traits = sorted(profiles.traits(known))
        assert traits == sorted(features.matrix[[row]].indices.tolist())


def test_a_profile_may_give_what_nobody_had(described: Dataset) -> None:
    profiles = Profiles.of(described)

    def named(**profile: object) -> list[str]:
        return [profiles.names[trait] for trait in profiles.traits(profile)]

    assert named(plan="silver", gender=None, age=None, income=None) == []
    assert named(income=-5) == ["income:q1"]
    assert named(income="1e9") == ["income:q4"]
    assert named(visits=1e9) == ["visits:q3"]
    assert named(age=400) == named(age=-1) == []
    assert named(premium=1) == named(premium="1") == named(premium=1.0) == ["premium:1.0"]
    assert named(children=2.0) == named(children="2") == ["children:2"]
    assert named(hour="3") == named(hour=3.0) == ["extra-hour:3"]


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"shoes": 1, "plan": "gold"}, "a profile has no shoes: the columns are age, gender"),
        ({"name": "Ana"}, "a profile has no name"),
        ({"user_id": "user1"}, "a profile has no user_id"),
        ({"age": "old"}, "age 'old' is not a number"),
        ({"age": []}, r"age \[\] is not a number"),
        ({"income": "much"}, "income 'much' is not a number"),
        ({"income": "nan"}, "income 'nan' is not a finite number"),
        ({"age": np.inf}, "age inf is not a finite number"),
    ],
)
def test_profiles_that_cannot_be_read_are_refused(
    profile: dict[str, object], message: str, described: Dataset
) -> None:
    with pytest.raises(ValueError, match=message):
        Profiles.of(described).traits(profile)


def test_without_a_users_table_a_profile_has_no_columns(tables: Tables) -> None:
    profiles = Profiles.of(Dataset.from_tables(Tables(tables.watch_history)))
    assert profiles.traits({}) == ()
    with pytest.raises(ValueError, match="a profile has no age: the columns are none"):
        profiles.traits({"age": 3})
