from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from firetv.data import Dataset, Tables
from firetv.moments import UTC_CLOCK, VALUES
from firetv.multipliers import (
    FEWEST,
    Learning,
    Multipliers,
    attribute_shares,
    rule_multipliers,
)
from firetv.rules import Rule, Rules
from firetv.slate import cells

NO_RULES = Rules(())


def rule(value: str, level: str, times: float, family: str = "genre") -> Rule:
    return Rule("weather", value, family, level, times, "because")


def shop(
    genres: Sequence[Sequence[str]],
    items: Sequence[int],
    weather: Sequence[str | None],
    users: Sequence[int] | None = None,
) -> Dataset:
    """Events an hour apart in some weather; all even titles are films and the others series."""
    user = np.zeros(len(items), int) if users is None else np.asarray(users)
    n_users, n_items = user.max(initial=0) + 1, len(genres)
    hours = pd.to_timedelta(np.arange(len(items)), unit="h")
    history = pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in user],
            "content_id": [f"c{i}" for i in items],
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC") + hours,
            "weather": pd.array(list(weather), dtype="str"),
        }
    )
    content = pd.DataFrame(
        {
            "content_id": [f"c{i}" for i in range(n_items)],
            "genres": [list(each) for each in genres],
            "content_type": np.where(np.arange(n_items) % 2, "series", "movie"),
        }
    )
    people = pd.DataFrame({"user_id": [f"u{u}" for u in range(n_users)]})
    return Dataset.from_tables(Tables(history, content=content, users=people))


GENRES = (("Drama",), ("Sci-Fi",), ("Drama", "Sci-Fi"), (), ("Drama", "News", "Sci-Fi"), ("Opera",))


@pytest.fixture(scope="module")
def even() -> Dataset:
    """Every title but the last is watched 24 times, in sunny and rainy weather alike."""
    items = np.tile(np.arange(5), 24)
    weather = np.repeat(["sunny", "rainy"], 60)
    return shop(GENRES, [*items, 5], [*weather, "sunny"], np.arange(121) % 8)


def learned(
    data: Dataset,
    rules: Rules = NO_RULES,
    *,
    families: Sequence[str] = ("genre",),
    items: float | bool = False,
    personal: bool = False,
) -> Multipliers | None:
    learning = Learning.of(data, UTC_CLOCK, families, rules)
    return learning.multipliers("weather", items=items, personal=personal)


def tastes(seed: int = 0, events: int = 3000, lift: float = 0.8) -> Dataset:
    """Two genres, of which Drama suits the rain, and twenty titles."""
    rng = np.random.default_rng(seed)
    drama, rainy = rng.integers(2, size=events), rng.random(events)
    chance = 1 / (1 + np.exp(-lift * (2 * drama - 1)))
    item = drama + 2 * rng.integers(10, size=events)
    weather = np.where(rainy < chance, "rainy", "sunny")
    genres = [("Drama",) if i % 2 else ("News",) for i in range(20)]
    return shop(genres, item, weather, rng.integers(100, size=events))


# Attributes


def test_shares_of_a_family_sum_to_one_or_to_zero(even: Dataset) -> None:
    shares = attribute_shares(even, NO_RULES)
    assert set(shares.families) == {"genre", "type"}
    genre = shares.matrix[:, np.flatnonzero(shares.families == "genre")].toarray()
    np.testing.assert_allclose(genre.sum(axis=1), [1, 1, 1, 0, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(genre[4], 1 / 3, rtol=1e-6)


def test_rare_attributes_are_left_out_unless_a_rule_names_them(even: Dataset) -> None:
    assert "genre:Opera" not in attribute_shares(even, NO_RULES).names
    ruled = attribute_shares(even, Rules((rule("rainy", "OPERA", 2.0),)))
    assert "genre:Opera" in ruled.names
    assert ruled.matrix[5, ruled.names.index("genre:Opera")] == 1


def test_what_every_event_has_is_left_out_unless_a_rule_names_it(even: Dataset) -> None:
    films = even.keep(even.interactions["item"].to_numpy() % 2 == 0)
    assert "type:movie" not in attribute_shares(films, NO_RULES).names
    ruled = Rules((rule("rainy", "movie", 2.0, "type"),))
    assert "type:movie" in attribute_shares(films, ruled).names


def test_only_the_families_asked_for_have_attributes(even: Dataset) -> None:
    assert set(attribute_shares(even, NO_RULES, ("type",)).families) == {"type"}


def test_a_family_that_the_catalogue_lacks_is_named(even: Dataset) -> None:
    with pytest.raises(ValueError, match="no attributes \\['genres'\\]: the content table gives"):
        attribute_shares(even, Rules(()), ["genre", "genres"])


def test_a_catalogue_without_attributes_has_no_shares(even: Dataset) -> None:
    bare = replace(even, content=even.content[["content_id"]])
    shares = attribute_shares(bare, NO_RULES)
    assert (shares.names, shares.matrix.shape) == ((), (6, 0))


# Rules


def test_a_title_takes_the_geometric_mean_of_its_genres_and_the_product_of_families(
    even: Dataset,
) -> None:
    sun = (rule("sunny", "Drama", 1.1),)
    rain = (rule("rainy", "Sci-Fi", 1.4), rule("rainy", "News", 0.5), rule("rainy", "Opera", 3.0))
    rules = Rules((*sun, *rain, rule("rainy", "movie", 1.2, "type")))
    found = rule_multipliers("weather", rules, attribute_shares(even, rules))
    assert found.values == VALUES["weather"]
    assert found.table.shape == (len(found.values) + 1, 6)
    table = dict(zip(found.values, np.exp(found.table), strict=False))
    expected = [1.2, 1.4, 1.2 * 1.4**0.5, 1, 1.2 * (1.4 * 0.5) ** (1 / 3), 3]
    np.testing.assert_allclose(table["rainy"], expected, rtol=1e-6)
    np.testing.assert_allclose(table["sunny"], [1.1, 1, 1.1**0.5, 1, 1.1 ** (1 / 3), 1], rtol=1e-6)
    np.testing.assert_array_equal(table["snowy"], 1)
    np.testing.assert_array_equal(found.table[-1], 0)


def test_the_reasons_are_the_rules(even: Dataset) -> None:
    rules = Rules((rule("rainy", "Sci-Fi", 1.4), rule("rainy", "Ballet", 1.4)))
    reasons = rule_multipliers("weather", rules, attribute_shares(even, rules)).reasons
    assert reasons[["value", "attribute"]].to_numpy().tolist() == [["rainy", "genre:Sci-Fi"]]
    assert reasons["log_lift"].item() == pytest.approx(np.log(1.4))
    assert reasons[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("rules", [NO_RULES, Rules((rule("rainy", "Ballet", 2.0),))])
def test_rules_that_do_not_fit_the_catalogue_give_nothing(even: Dataset, rules: Rules) -> None:
    assert rule_multipliers("weather", rules, attribute_shares(even, rules)) is None


def test_rules_may_be_about_values_of_ones_own(even: Dataset) -> None:
    rules = Rules((rule("foggy", "Sci-Fi", 1.5),))
    found = rule_multipliers("weather", rules, attribute_shares(even, rules))
    foggy = found.table[found.codes(pd.DataFrame({"weather": ["foggy"]}))]
    np.testing.assert_allclose(np.exp(foggy[0, 1]), 1.5, rtol=1e-6)


def test_unknown_context_has_the_last_row(even: Dataset) -> None:
    rules = Rules((rule("rainy", "Sci-Fi", 1.4),))
    found = rule_multipliers("weather", rules, attribute_shares(even, rules))
    weather = pd.Series(["rainy", None, "hail", "sunny"], dtype="str")
    codes = found.codes(pd.DataFrame({"weather": weather}))
    assert codes.tolist() == [found.values.index("rainy"), 5, 5, found.values.index("sunny")]


def test_cells_are_the_same_for_shared_and_for_own_candidates() -> None:
    table, rows = np.arange(12.0).reshape(3, 4), np.array([2, 0])
    items = np.array([3, 1])
    np.testing.assert_array_equal(cells(table, rows, items), [[11, 9], [3, 1]])
    np.testing.assert_array_equal(cells(table, rows, np.tile(items, (2, 1))), [[11, 9], [3, 1]])


# Learned


@pytest.mark.parametrize("known", [FEWEST - 1, FEWEST])
def test_a_dimension_is_learned_from_enough_events_only(known: int) -> None:
    weather = np.where(np.arange(60) < known, np.tile(["sunny", "rainy"], 30), None)
    data = shop(GENRES, np.arange(60) % 5, list(weather))
    assert (learned(data) is None) == (known < FEWEST)


def test_a_single_value_teaches_nothing() -> None:
    assert learned(shop(GENRES, np.arange(60) % 5, ["sunny"] * 60)) is None


def test_values_come_in_the_usual_order_and_then_ones_own() -> None:
    weather = np.tile(["zephyr", "rainy", "hail", "sunny"], 15)
    assert learned(shop(GENRES, np.arange(60) % 5, weather)).values == (
        "sunny",
        "rainy",
        "hail",
        "zephyr",
    )


def test_a_planted_lift_is_learned_and_has_its_reason() -> None:
    found = learned(tastes())
    table = dict(zip(found.values, found.table, strict=False))
    np.testing.assert_allclose(table["rainy"][1::2], np.log(2 / (1 + np.exp(-0.8))), atol=0.06)
    np.testing.assert_allclose(table["rainy"][::2], np.log(2 / (1 + np.exp(0.8))), atol=0.1)
    np.testing.assert_array_equal(found.table[-1], 0)
    reasons = found.reasons.set_index(["value", "attribute"]).loc[("rainy", "genre:Drama")]
    assert 0 < reasons["low"] < reasons["log_lift"] < reasons["high"]


def test_events_of_unknown_context_teach_nothing() -> None:
    data = tastes()
    known = np.arange(3000) % 3 > 0
    gaps = data.interactions.assign(weather=data.interactions["weather"].where(known))
    a, b = learned(replace(data, interactions=gaps)), learned(data.keep(known))
    np.testing.assert_array_equal(a.table, b.table)


def test_families_add_up_to_the_logit() -> None:
    data = tastes()
    learning = Learning.of(data, UTC_CLOCK, (), NO_RULES)
    found, lifts = learning.multipliers("weather"), learning.lifts("weather")[0]
    assert set(found.families) == {"genre", "type"}
    total = sum(found.families.values())
    np.testing.assert_array_equal(total[-1], 0)
    np.testing.assert_allclose(lifts.share @ total[:-1], 0, atol=1e-6)
    weight = np.exp(lifts.coefficients[:, :1] + total[:-1])
    lift = weight / weight.sum(axis=0) / lifts.usual[:, None]
    np.testing.assert_allclose(np.exp(found.table[:-1]), lift, rtol=1e-5)


def test_titles_have_lifts_of_their_own_pulled_towards_their_counts() -> None:
    data = tastes()
    events = data.interactions
    rainy = np.where(events["item"] == 0, "rainy", events["weather"])  # news, yet of the rain
    data = replace(data, interactions=events.assign(weather=pd.array(rainy, dtype="str")))
    plain, own = learned(data), learned(data, items=5.0)
    row = plain.values.index("rainy")
    share = data.interactions["weather"].value_counts(normalize=True)["rainy"]
    count = (events["item"] == 0).sum()
    expected = np.exp(plain.table[row, 0]) * share * count
    pull = np.log((5 + count) / (5 + expected))
    assert pull > 0.3
    assert own.table[row, 0] == pytest.approx(plain.table[row, 0] + pull, abs=1e-5)
    np.testing.assert_allclose(own.families["item"] + plain.table, own.table, atol=1e-6)
    stiff = learned(data, items=1e9)
    np.testing.assert_allclose(stiff.table, plain.table, atol=1e-5)


def test_titles_that_follow_their_genre_have_hardly_a_lift_of_their_own() -> None:
    own = learned(tastes(), items=True).families["item"]
    assert np.abs(own).max() < 0.1


def test_people_with_a_pattern_of_their_own_have_lifts_of_their_own() -> None:
    """To most people Drama suits the rain, and to the first ten it suits the sun."""
    data = tastes(lift=1.2)
    events = data.interactions.assign(user=data.interactions["user"] % 40)
    turned = {"rainy": "sunny", "sunny": "rainy"}
    contrary = events["user"] < 10
    weather = events["weather"].mask(contrary, events["weather"].map(turned))
    data = replace(data, interactions=events.assign(weather=weather))
    found = learned(data, personal=True)
    names = attribute_shares(data, NO_RULES, ("genre",)).names
    own = found.personal.toarray().reshape(-1, len(found.values), len(names))
    assert own.shape[0] == data.shape[0]
    rainy = found.values.index("rainy")
    drama = own[:, rainy, names.index("genre:Drama")]
    assert (drama[:10] < -0.2).all()
    assert np.median(drama[10:40]) > 0.1
    np.testing.assert_array_equal(own[40:], 0)  # they have no events left
    assert (own[:10, 1 - rainy, names.index("genre:Drama")] > 0.2).all()


def test_a_habit_of_context_is_no_personal_lift() -> None:
    """User 0 watches in the rain only, whatever it is."""
    data = tastes(lift=0.0)
    events = data.interactions
    first = np.arange(len(events)) < 100
    weather = np.where(first, "rainy", events["weather"])
    user = np.where(first, 0, np.maximum(events["user"], 1)).astype(np.int32)
    events = events.assign(user=user, weather=pd.array(weather, dtype="str"))
    found = learned(replace(data, interactions=events), personal=True)
    assert np.abs(found.personal[: len(found.values)].toarray()).max() < 0.1


@pytest.mark.parametrize("items", [False, True])
def test_titles_of_which_nothing_is_known_can_be_learned_about(even: Dataset, items: bool) -> None:
    bare = replace(even, content=even.content[["content_id"]])
    found = learned(bare, items=items, personal=True)
    assert found.table.shape == (3, 6)
    assert np.isfinite(found.table).all()
    assert found.reasons.empty
