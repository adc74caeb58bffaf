from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firetv.moments import FESTIVALS, NO_FESTIVAL, VALUES
from firetv.rules import MOST_BYTES, Rules, read_rules
from firetv.schema import DataError

LINE = '{genre: Sci-Fi, times: 1.5, why: "a fine reason"}'


def file_of(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "own.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def night(line: str) -> str:
    return f"daypart:\n  night:\n    - {line}\n"


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rules(path)
    return str(caught.value)


def multiplier(rules: Rules, dimension: str, value: str, name: str) -> float:
    return float(np.exp(rules.log_multipliers(dimension, [value], [name])[0, 0]))


# The packaged rules


@pytest.mark.parametrize(
    ("dimension", "value", "name"),
    [
        ("daypart", "night", "genre:Sci-Fi"),
        ("daypart", "morning", "type:news"),
        ("daypart", "morning", "genre:News"),
        ("weather", "rainy", "genre:Family"),
        ("weather", "rainy", "genre:Children's"),
        ("festival", "Halloween", "genre:Horror"),
    ],
)
def test_packaged_rules_lift_what_one_expects(dimension: str, value: str, name: str) -> None:
    assert multiplier(read_rules(), dimension, value, name) > 1


def test_packaged_rules_are_mild_and_have_reasons() -> None:
    rules = read_rules().to_frame()
    assert rules["multiplier"].between(0.5, 2).all()
    assert (rules["multiplier"] != 1).all()
    assert (rules["why"].str.len() >= 10).all()


@pytest.mark.parametrize("dimension", VALUES)
def test_packaged_rules_say_something_of_every_value(dimension: str) -> None:
    rules = read_rules().to_frame()
    said = rules.loc[rules["dimension"] == dimension, "value"]
    assert set(said) == set(VALUES[dimension]) - {NO_FESTIVAL}


@pytest.mark.parametrize("festival", [festival.name for festival in FESTIVALS])
def test_every_festival_has_themes(festival: str) -> None:
    assert read_rules().themes(festival)


# Looking rules up


def test_log_multipliers_have_a_row_per_value_and_a_column_per_feature(tmp_path: Path) -> None:
    text = night("{genre: [Sci-Fi, Drama], times: 2, why: why not}")
    text += "    - {type: news, times: 0.5, why: why not}\nweather:\n  rainy:\n    - " + LINE
    rules = read_rules(file_of(tmp_path, text), packaged=False)
    names = ["genre:sci-fi", "genre:War", "TYPE:News", "genre:news", "genre:Drama"]
    logs = rules.log_multipliers("daypart", ["morning", "Night", "night"], names)
    expected = np.log([[1, 1, 1, 1, 1], [2, 1, 0.5, 1, 2], [2, 1, 0.5, 1, 2]])
    np.testing.assert_allclose(logs, expected)
    assert logs.dtype == np.float64
    assert rules.log_multipliers("daypart", [], names).shape == (0, 5)
    assert rules.log_multipliers("daypart", ["night"], []).shape == (1, 0)
    assert not rules.log_multipliers("daypart", ["siesta"], names).any()


def test_an_unknown_dimension_is_named() -> None:
    with pytest.raises(DataError, match=r"'mood' is not a dimension\. Use one of .*daypart"):
        read_rules().log_multipliers("mood", ["bad"], ["genre:Comedy"])


def test_themes_are_what_is_lifted_strongest_first(tmp_path: Path) -> None:
    text = (
        "festival:\n  holi:\n"
        "    - {genre: Comedy, times: 1.1, why: x}\n"
        "    - {genre: War, times: 0.5, why: x}\n"
        "    - {genre: Drama, times: 1, why: x}\n"
        "    - {genre: [Musical, Romance], times: 1.4, why: x}\n"
    )
    rules = read_rules(file_of(tmp_path, text), packaged=False)
    assert rules.themes("HOLI") == ("Musical", "Romance", "Comedy")
    assert rules.themes("Eid") == ()


def test_a_frame_has_the_columns_of_a_rule() -> None:
    columns = ["dimension", "value", "family", "level", "multiplier", "why"]
    rules = read_rules()
    frame = rules.to_frame()
    assert list(frame.columns) == columns
    assert len(frame) == len(rules.rules)
    empty = read_rules(packaged=False).to_frame()
    assert (empty.dtypes == frame.dtypes).all()
    assert empty.empty


# A file of one's own


def test_own_lines_replace_packaged_ones_and_add_new_ones(tmp_path: Path) -> None:
    text = "Daypart:\n  NIGHT:\n    - {genre: sci-fi, times: 3, why: we love it}\n"
    text += "    - {decade: 1970s, times: 1.2, why: a retro channel}\n"
    packaged, rules = read_rules(), read_rules(file_of(tmp_path, text))
    assert multiplier(rules, "daypart", "night", "genre:Sci-Fi") == pytest.approx(3)
    assert multiplier(rules, "daypart", "night", "decade:1970s") == pytest.approx(1.2)
    assert len(rules.rules) == len(packaged.rules) + 1
    untouched = set(packaged.rules) & set(rules.rules)
    assert len(untouched) == len(packaged.rules) - 1


def test_times_one_switches_a_line_off(tmp_path: Path) -> None:
    path = file_of(tmp_path, night("{genre: Sci-Fi, times: 1, why: not with us}"))
    assert multiplier(read_rules(path), "daypart", "night", "genre:Sci-Fi") == 1


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "daypart:\n", "daypart:\n  night:\n"])
def test_a_file_without_lines_changes_nothing(tmp_path: Path, text: str) -> None:
    path = file_of(tmp_path, text)
    assert read_rules(path) == read_rules()
    assert read_rules(path, packaged=False).rules == ()


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"\xef\xbb\xbf" + night(LINE).encode())
    assert len(read_rules(path, packaged=False).rules) == 1


def test_dayparts_may_have_names_of_their_own(tmp_path: Path) -> None:
    path = file_of(tmp_path, night(LINE).replace("night", "siesta"))
    rules = read_rules(path, dayparts=("siesta", "fiesta"))
    assert multiplier(rules, "daypart", "siesta", "genre:Sci-Fi") == pytest.approx(1.5)
    assert "'siesta': is not a known value" in complaint(path)
    with pytest.raises(DataError, match=r"'night': is not a known value\. Use siesta, fiesta\."):
        read_rules(file_of(tmp_path, night(LINE)), dayparts=("siesta", "fiesta"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (night("{genre: ["), ["own.yaml: is not YAML", "line 4", "Write UTF-8"]),
        (b"daypart: caf\xe9\n", ["own.yaml: is not YAML"]),
        ("a: 2026-02-31\n", ["own.yaml: is not YAML"]),
        ("[" * 10_000, ["own.yaml: is not YAML"]),
        ("a: 1\n---\nb: 2\n", ["own.yaml: is not YAML"]),
        ("#" * (MOST_BYTES + 1), ["own.yaml: is bigger than 1,000,000 bytes"]),
        ("- daypart\n", ["own.yaml: is not of the form `dimension: ...`. Use daypart"]),
        ("daypart: night\n", ["own.yaml, daypart: is not of the form `value: ...`. Use morning"]),
        ("mood:\n  bad: []\n", ["own.yaml, 'mood': is not a known dimension. Use daypart"]),
        ("weather:\n  wet: []\n", ["own.yaml, weather, 'wet': is not a known value. Use sunny"]),
        ("weather:\n  no: []\n", ["own.yaml, weather, False: is not a known value"]),
        ("daypart:\n  night: " + LINE, ["own.yaml, daypart/night: is not a list of lines"]),
        (night("Sci-Fi"), ["own.yaml, daypart/night, 'Sci-Fi': is not a line of a rule", "{genre"]),
        (
            night("{genre: War, times: a lot, why: x}"),
            [
                "own.yaml, daypart/night, {'genre': 'War', 'times': 'a lot', 'why': 'x'}: ",
                "has times 'a lot'. Give a number from 0.1 to 10",
            ],
        ),
        (night("{genre: War, times: yes, why: x}"), ["has times True. Give a number"]),
        (night("{genre: War, times: .nan, why: x}"), ["has times nan. Give a number"]),
        (night("{genre: War, times: 0, why: x}"), ["has times 0. Give a number"]),
        (night("{genre: War, times: -1, why: x}"), ["has times -1. Give a number"]),
        (night("{genre: War, times: 0.09, why: x}"), ["has times 0.09. Give a number"]),
        (night("{genre: War, times: 10.1, why: x}"), ["has times 10.1. Give a number"]),
        (night("{genre: War, why: x}"), ["has no times. Give a number"]),
        (night("{genre: War, times: 2}"), ["does not say why. Give a source or a reason"]),
        (night("{genre: War, times: 2, why: ' '}"), ["does not say why"]),
        (night("{times: 2, why: x}"), ["names 0 attributes. Name one of genre, type"]),
        (night("{genre: War, type: news, times: 2, why: x}"), ["names 2 attributes"]),
        (
            night("{gnre: War, times: 2, why: x}"),
            ["has the unknown key 'gnre'. Use genre, type, decade, minutes, times, why."],
        ),
        (night("{genre: [], times: 2, why: x}"), ["has a genre that is not text"]),
        (night("{decade: 1990, times: 2, why: x}"), ["has a decade that is not text", "quote"]),
        (night("{genre: [[War]], times: 2, why: x}"), ["has a genre that is not text"]),
        (
            night(LINE) + "    - {genre: [War, SCI-FI], times: 2, why: x}\n",
            ["own.yaml, daypart/night, genre Sci-Fi: is there 2 times. Keep one."],
        ),
        (
            night(LINE) + "daypart:\n  morning: []\n",
            ["own.yaml, line 4, daypart: is there twice. Join the two"],
        ),
        (
            night("{genre: War, times: 2, times: 3, why: x}"),
            ["own.yaml, line 3, times: is there twice"],
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, expected: list[str]) -> None:
    message = complaint(file_of(tmp_path, text))
    for part in expected:
        assert part in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("times", ["0.1", "10"])
def test_the_bounds_of_a_multiplier_are_allowed(tmp_path: Path, times: str) -> None:
    path = file_of(tmp_path, night(LINE.replace("1.5", times)))
    rules = read_rules(path)
    assert multiplier(rules, "daypart", "night", "genre:Sci-Fi") == pytest.approx(float(times))


def test_all_problems_come_together(tmp_path: Path) -> None:
    text = night("{gnre: War, times: 20}") + "    - " + LINE + "\n    - " + LINE + "\n"
    text += "weather:\n  wet: []\nmood: 1\n"
    assert len(complaint(file_of(tmp_path, text)).splitlines()) == 6


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    message = complaint(tmp_path / "none.yaml")
    assert "none.yaml: cannot be read, No such file" in message
    assert "cannot be read" in complaint(tmp_path)


def test_tags_do_not_run_code(tmp_path: Path) -> None:
    message = complaint(file_of(tmp_path, 'a: !!python/object/apply:os.system ["false"]\n'))
    assert "own.yaml: is not YAML" in message


def test_nested_aliases_are_quoted_briefly(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x]\n"
    for n in range(20):
        text += f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 8)}]\n"
    assert len(complaint(file_of(tmp_path, text + night("*a20")))) < 10_000
    assert len(complaint(file_of(tmp_path, night("&loop [*loop]")))) < 1_000
