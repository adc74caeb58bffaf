"""Figures: names that never overlap, nothing cut off, colours that stay apart, and the plots."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from firetv import figures, report
from firetv.benchmark_plots import plot_growth

# How people without red, green or blue cones see linear RGB, at full severity: Machado, Oliveira
# and Fernandes (2009), A physiologically-based model for simulation of color vision deficiency.
VISION = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], LUMINANCE, [0.0193, 0.1192, 0.9503]])
LEAST_APART = 15  # CIE76; a difference of about 2 can just be seen side by side
LEAST_CONTRAST = 4.5  # of text on white: WCAG 2, level AA
NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with plt.rc_context():
        report.use_style()
        yield
    plt.close("all")


def linear(color: str) -> np.ndarray:
    """Red, green and blue of a colour as amounts of light (the sRGB standard)."""
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """Light in CIE L*a*b*, where colours are about as far apart as they look."""
    share = TO_XYZ @ light.clip(0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def least_apart(colors: tuple[str, ...], vision: str) -> float:
    seen = [lab(VISION[vision] @ linear(color)) for color in colors]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


def ticks(axis: Axis) -> list[Text]:
    """Labels of ticks that are in view."""
    low, high = sorted(axis.get_view_interval())
    pairs = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
    return [label for at, label in pairs if low <= at <= high]


def texts(figure: Figure) -> list[Text]:
    """Every text that is printed."""
    found = list(figure.texts)
    for ax in figure.axes:
        found += [child for child in ax.get_children() if isinstance(child, Text)]
        found += [ax.xaxis.label, ax.yaxis.label, *ticks(ax.xaxis), *ticks(ax.yaxis)]
    return [text for text in found if text.get_visible() and text.get_text()]


def overlaps(found: list[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other by more than half a pixel."""
    boxes = [(text.get_text(), Text.get_window_extent(text).padded(-0.5)) for text in found]
    pairs = itertools.combinations(boxes, 2)
    return [(one, other) for (one, a), (other, b) in pairs if a.overlaps(b)]


def cut_off(figure: Figure) -> list[str]:
    """Texts that reach over the edge of the figure."""
    page = figure.bbox.padded(0.5)
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts(figure)]
    return [
        text
        for text, box in boxes
        if box.x0 < page.x0 or box.x1 > page.x1 or box.y0 < page.y0 or box.y1 > page.y1
    ]


# Colours


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_everybody(vision: str) -> None:
    assert least_apart(figures.PALETTE, vision) >= LEAST_APART


def test_colours_that_do_not_stay_apart_would_be_seen() -> None:
    green_and_brown = ("#5a7d00", "#8a6d00")
    assert least_apart(green_and_brown, "all cones") >= LEAST_APART
    assert least_apart(green_and_brown, "deuteranopia") < LEAST_APART


@pytest.mark.parametrize("color", figures.PALETTE)
def test_every_colour_can_be_read_on_white(color: str) -> None:
    assert 1.05 / (0.05 + LUMINANCE @ linear(color)) >= LEAST_CONTRAST


def test_there_is_a_mark_for_each_colour() -> None:
    assert len(set(figures.MARKS)) == len(set(figures.PALETTE)) == len(figures.PALETTE)


# Headings and names


def test_a_heading_is_broken_into_lines_above_the_panels() -> None:
    figure, ax = plt.subplots(figsize=(figures.WIDTH, 4))
    figures.heading(figure, "A finding " * 10, "data, split, seeds " * 8)
    ax.set_title("panel")
    figure.draw_without_rendering()
    lines = [text.get_text() for text in figure.texts]
    assert " ".join(lines) == " ".join(["A finding"] * 10 + ["data, split, seeds"] * 8)
    assert len(lines) == 4
    assert cut_off(figure) == []
    lowest = min(text.get_window_extent().y0 for text in figure.texts)
    assert ax.title.get_window_extent().y1 < lowest


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([], []),
        ([0.9, 0.1], [0.9, 0.1]),  # apart already
        ([0.5, 0.5], [0.45, 0.55]),  # half of the gap each
        ([0.5, 0.52, 0.9], [0.46, 0.56, 0.9]),
        ([1.0, 1.0], [0.9, 1.0]),
        ([-2.0, -2.0, 3.0], [0.0, 0.1, 1.0]),
    ],
)
def test_numbers_are_spread_with_least_moves(targets: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(figures.spread(targets, 0.1), expected, atol=1e-12)


def test_too_many_numbers_keep_their_gap_beyond_the_bound() -> None:
    places = np.sort(figures.spread([0.9] * 20, 0.1))
    np.testing.assert_allclose(np.diff(places), 0.1)
    assert places[0] == 0


@pytest.mark.parametrize("inverted", [False, True])
def test_lines_are_named_at_their_right_end_and_no_name_covers_another(inverted: bool) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 3))
    for ax in axes:
        for number in range(8):
            ax.plot([0, 1, 2], [number, 1 + number / 100, np.nan], label=f"line {number}")
        ax.axhline(0.5)
        if inverted:
            ax.invert_xaxis()
    figures.label_lines(*axes)
    figure.draw_without_rendering()
    for ax in axes:
        assert [t.get_text() for t in ax.texts] == [f"line {number}" for number in range(8)]
        assert [t.get_color() for t in ax.texts] == [line.get_color() for line in ax.lines[:8]]
        right = ax.get_window_extent().x1
        assert all(Text.get_window_extent(text).x0 > right for text in ax.texts)
        heights = [text.xy[1] for text in ax.texts]
        expected = range(8) if inverted else 1 + np.arange(8) / 100
        np.testing.assert_allclose(heights, expected)
    assert overlaps(texts(figure)) == []
    assert cut_off(figure) == []


def test_names_of_points_cover_no_mark_and_no_other_name() -> None:
    figure, ax = plt.subplots(figsize=(figures.WIDTH, 4))
    rng = np.random.default_rng(0)
    spots = {f"model {n}": rng.normal(size=2) for n in range(7)}
    for name, (x, y) in spots.items():
        ax.scatter(x, y, color="0.2", label=name)
    ax.plot([-2, 2], [0, 0], label="a line")
    figures.label_points(ax)
    figure.draw_without_rendering()
    assert [text.get_text() for text in ax.texts] == [*spots, "a line"]
    assert overlaps(ax.texts) == []
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    pixels = ax.transData.transform(list(spots.values()))
    assert not any(box.contains(*pixel) for box in boxes for pixel in pixels)
    frame = ax.get_window_extent()
    assert all(frame.contains(*corner) for box in boxes for corner in box.get_points())


# Plots

RESULTS = pd.DataFrame(
    {"model": ["EASE", "ALS", "Popular"], "value": [0.3, 0.29, 0.1]}
    | {"low": [0.28, np.nan, 0.08], "high": [0.32, np.nan, 0.12]}
)
METRICS = pd.DataFrame(
    {"x": [1.0, 2.0, 3.0, 1.5], "y": [0.3, 0.25, 0.1, 0.2]},
    index=["Nash", "Average", "Least misery", "Borda"],
)
SWEEP = pd.DataFrame(
    {
        "by": [1, 10, 100] * 3,
        "line": np.repeat(["EASE, folded in", "ALS, folded in", "LightFM"], 3),
        "value": [0.1, 0.2, 0.3, 0.1, 0.19, 0.3, 0.12, 0.21, 0.29],
    }
).assign(low=lambda t: t["value"] - 0.02, high=lambda t: t["value"] + 0.02)
GROWTH = pd.DataFrame(
    {"stage": np.repeat(["read", "score", "evaluate"], 3), "users": [1000, 2000, 4000] * 3}
    | {"seconds": [1.0, 2, 4, 1.1, 2.2, 4.1, 0.9, 2, 4.2]}
)
LIFTS = pd.DataFrame(
    {"value": ["alone"] * 2 + ["partner"] * 2, "attribute": ["genre:News", "genre:Drama"] * 2}
    | {"log_lift": [0.4, -0.1, -0.3, 0.05], "low": [0.2, -0.3, -0.5, -0.2]}
    | {"high": [0.6, 0.1, -0.1, 0.3], "n": [40, 12, 31, 9]}
)
MOVES = pd.DataFrame(
    {
        "rank": pd.array([*range(1, 11), None], "Int64"),
        "before": pd.array([3, 2, 1, 5, 4, 7, 8, 19, 6, 10, 9], "Int64"),
        "title": ["A title much longer than the figure has room for"] * 11,
        "reason": ["evening: Drama ×1.06, weekday: Comedy ×1.03"] * 11,
    }
)


def intervals(ax: Axes) -> None:
    report.plot_intervals(RESULTS, xlabel="nDCG@10", reference={"A (published)": 0.2}, ax=ax)


def sweep(ax: Axes) -> None:
    report.plot_sweep(SWEEP, xlabel="titles", ylabel="nDCG@10", ax=ax)
    report.label_lines(ax)


def growth(ax: Axes) -> None:
    plot_growth(GROWTH, "users", ax=ax)
    report.label_lines(ax)


def front(ax: Axes) -> None:
    report.plot_front(METRICS, "x", "y", ["Nash", "Average"], ax=ax)
    report.label_points(ax)


def tradeoffs(ax: Axes) -> None:
    lines = {"MMR": ["Nash", "Average", "Least misery"]}
    report.plot_tradeoffs(METRICS, "x", "y", ["Nash", "Borda"], lines, ax=ax)
    report.label_points(ax)


def lifts(ax: Axes) -> None:
    report.plot_lifts(LIFTS, ax=ax)


def moves(ax: Axes) -> None:
    report.plot_moves(MOVES, "ordinary day", "Christmas", ax=ax)


PLOTS = [intervals, sweep, growth, front, tradeoffs, lifts, moves]


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_a_figure_is_readable_and_the_same_bytes_again(
    plot: Callable[[Axes], None], tmp_path: Path
) -> None:
    files = []
    for name in ("one.png", "two.png"):
        figure, ax = plt.subplots(figsize=(figures.WIDTH, 4))
        report.heading(figure, "What is seen", "toy data, seeds [0]; 95 % intervals over people")
        plot(ax)
        files.append(report.write_figure(figure, tmp_path / name).read_bytes())
        figure.draw_without_rendering()
        assert overlaps(texts(figure)) == []
        assert cut_off(figure) == []
        assert figure.legends == [] and ax.get_legend() is None
    assert files[0] == files[1]
    assert len(files[0]) < 200_000


def test_rows_keep_an_order_and_leave_out_what_was_not_measured() -> None:
    ax = report.plot_intervals(RESULTS, order=["Popular", "Random", "EASE"])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["EASE", "Random", "Popular"]
    assert [(t.get_text(), t.xy[1]) for t in ax.texts] == [("0.300", 0), ("0.100", 2)]
    with_one = report.plot_intervals(RESULTS, order=["EASE", "A"], reference={"A": 0.2})
    ticks_ = [tick.label1 for tick in with_one.yaxis.get_major_ticks()]
    assert [(t.get_text(), t.get_color()) for t in ticks_] == [("A", "0.45"), ("EASE", "0.15")]
    bare = report.plot_intervals(RESULTS, values=False)
    assert list(bare.texts) == []


def test_a_sweep_draws_values_where_they_are_and_intervals_side_by_side() -> None:
    ax = report.plot_sweep(SWEEP)
    assert ax.get_xscale() == "log"
    assert [line.get_label() for line in ax.lines] == list(SWEEP["line"].unique())
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[1, 0.1], [10, 0.2], [100, 0.3]])
    ends = [line.get_transform().transform(line.get_xydata()[0])[0] for line in ax.lines]
    assert np.diff(ends) == pytest.approx(4 / 72 * ax.figure.dpi)
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in ax.lines]
    assert all(len(set(each)) == 3 for each in zip(*looks, strict=True))
    low, high = ax.get_ylim()
    assert low < 0.08
    assert high > 0.32


def test_levels_are_joined_in_their_order_and_words_are_not() -> None:
    levels = pd.Categorical(["0", "10", "all"] * 3, ["0", "10", "all"], ordered=True)
    ax = report.plot_sweep(SWEEP.assign(by=levels))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "10", "all"]
    assert ax.lines[0].get_linestyle() == "-"
    words = report.plot_sweep(SWEEP.assign(by=["warp", "bpr", "logistic"] * 3))
    assert [t.get_text() for t in words.get_xticklabels()] == ["bpr", "logistic", "warp"]
    assert {line.get_linestyle() for line in words.lines} == {"None"}


def test_the_front_joins_what_no_other_beats_in_both() -> None:
    _, ax = plt.subplots()
    report.plot_front(METRICS, "x", "y", ["Nash"], ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), METRICS.loc[METRICS.index[:3], ["x", "y"]])
    assert [c.get_label() for c in ax.collections if c.get_label()[0] != "_"] == ["Nash"]


# What notebooks draw


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_saved_figure_has_a_heading_and_the_one_style(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    drawn = [cell.source for cell in cells if "report.save_figure(" in cell.source]
    assert drawn
    for source in drawn:
        assert source.count("report.heading(") == source.count("report.save_figure(")
        assert "report.WIDTH" in source
        for other in ("suptitle(", "tight_layout("):
            assert other not in source
