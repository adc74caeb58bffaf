"""What the cover says: the headline results and each notebook's answer, from artefacts alone.

Every number is read from an artefact. Where a full run has left one it counts, for it has more
seeds; where none is there, the cover says less.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat

from firetv.artefacts import Artefact, format_interval, load_artefact, project_root
from firetv.notebooks import failure

FULL = "full"  # folder of the full run, below that of a default run
OF_MODELS = "03_lightfm_vs_implicit"  # the notebooks whose results are the headlines
OF_PARTS = "07_offline_ab_evaluation"
SPLIT = "published_table"
METRICS = {"ndcg@": "nDCG@", "map@": "MAP@", "recall@": "recall@"}  # beginnings, as they are read
GAIN = re.compile(r"(?P<row>.+): (?P<part>.+) finds more than the base")
INTERVAL = re.compile(r"-?[\d.]+ \[[^\]]+\]")
ANSWER = re.compile(r"\| \[[^\]]+\]\(notebooks/(?P<name>\w+)\.ipynb\) \| [^|]+ \| (?P<text>.+) \|")


@dataclass(frozen=True)
class Picture:
    """A picture on a page.

    Attributes
    ----------
    png : str
        Base64.
    alt, caption : str
        What it shows, in place of it and below it.
    """

    png: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Headline:
    """One result that the cover shows as a table.

    Attributes
    ----------
    title : str
    basis : str
        Data, split and seeds.
    columns : sequence of str
        Heads, without that of the rows.
    rows : mapping of str to sequence of str
        Cells by the name of their row.
    link : str
        The page with everything about it, if it is there; empty otherwise.
    figure : Picture or None
    """

    title: str
    basis: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]
    link: str
    figure: Picture | None = None


def best_artefact(name: str, folder: Path) -> Artefact | None:
    """Load a notebook's artefact: the full run's, or else the folder's own, or None.

    Beside a notebook that failed, it is from an earlier run, and does not count.
    """
    for place in (folder / FULL, folder):
        if (place / f"{name}.json").is_file() and not _failed(place / f"{name}.ipynb"):
            return load_artefact(name, place)
    return None


def _failed(executed: Path) -> bool:
    return executed.is_file() and failure(nbformat.read(executed, as_version=4)) is not None


def headlines(folder: Path) -> list[Headline]:
    """Read what the cover shows of the artefacts in a folder: none, one or two tables."""
    found = (_models(folder), _parts(folder))
    return [headline for headline in found if headline is not None]


def _models(folder: Path) -> Headline | None:
    """The models under the published protocol, best first."""
    artefact = best_artefact(OF_MODELS, folder)
    rows = None if artefact is None else artefact.results.query("split == @SPLIT")
    if rows is None or rows.empty:
        return None
    names = {
        metric: shown + metric.removeprefix(start)
        for start, shown in METRICS.items()
        for metric in rows["metric"].unique()
        if metric.startswith(start)
    }
    if not names:
        return None
    first = next(iter(names))
    rows = rows[rows["metric"].isin(names)]
    rows = rows[rows.groupby("model")["metric"].transform("nunique") == len(names)]
    table = rows.set_index(["model", "metric"])[["value", "low", "high"]]
    ranked = rows[rows["metric"] == first].sort_values("value", ascending=False, kind="stable")
    cells = {
        model: [format_interval(*table.loc[(model, metric)]) for metric in names]
        for model in ranked["model"]
    }
    about = (
        f"{artefact.data['name']}, published protocol: of every user a random share of the ratings "
        "must be found again, so what is learned from looks into the future. Means of "
        f"{rows['n'].max()} users, {_seeds(rows['seeds'].max())}; 95 % intervals over users."
    )
    return Headline(
        "Models, and their blend",
        about,
        list(names.values()),
        cells,
        _page(OF_MODELS, folder),
        _drawn(folder, names[first]),
    )


def _drawn(folder: Path, metric: str) -> Picture | None:
    """The models' figure; its run need not be the table's, so that its caption counts seeds."""
    for place in (folder / FULL, folder):
        image, artefact = place / "figures/03_published_table.png", place / f"{OF_MODELS}.json"
        if image.is_file() and artefact.is_file():
            rows = load_artefact(OF_MODELS, place).results.query("split == @SPLIT")
            return Picture(
                base64.b64encode(image.read_bytes()).decode(),
                f"{metric} of each model with its interval, beside published values",
                f"{metric} beside published values. Drawn from {_seeds(rows['seeds'].max())}.",
            )
    return None


def _parts(folder: Path) -> Headline | None:
    """What each part of the system adds to the base model, as the claims say it."""
    artefact = best_artefact(OF_PARTS, folder)
    claims = () if artefact is None else artefact.claims
    gains = {
        (found["row"], found["part"]): f"{claim.interval}{' *' * claim.holds}"
        for claim in claims
        if (found := GAIN.fullmatch(claim.text))
    }
    if not gains or not {"k", "seeds"} <= artefact.params.keys():
        return None
    rows, parts = (list(dict.fromkeys(names)) for names in zip(*gains, strict=True))
    data_sets = list(dict.fromkeys(row.partition(", ")[0] for row in rows))
    rows.sort(key=lambda row: data_sets.index(row.partition(", ")[0]))
    order = ["+ context", "+ friends", "+ both", "personal", "placebo"]
    parts.sort(key=lambda part: order.index(part) if part in order else len(order))
    about = (
        f"{artefact.data['name']}. The base model with and without each part: difference in "
        f"nDCG@{artefact.params['k']} over held-out events, each asked in its own moment; "
        f"{_seeds(len(artefact.params['seeds']))}, 95 % intervals over people. An asterisk: it "
        f"survives Holm's correction for all {len(gains)} comparisons. Personal: strengths of each "
        "user's own; placebo: moments shuffled, friends replaced."
    )
    cells = {row: [gains.get((row, part), "") for part in parts] for row in rows}
    return Headline("What each part adds", about, parts, cells, _page(OF_PARTS, folder))


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _page(name: str, folder: Path) -> str:
    return f"{name}.html" if (folder / f"{name}.ipynb").is_file() else ""


def answers(folder: Path) -> dict[str, str]:
    """Read the answers of the README's table whose numbers the artefacts of a folder bear out.

    Parameters
    ----------
    folder : Path
        Of the artefacts.

    Returns
    -------
    dict
        Markdown by notebook; an answer that cites an interval which no claim of
        :func:`best_artefact` has is left out.
    """
    readme = project_root() / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    said = {row["name"]: row["text"] for row in ANSWER.finditer(text)}
    return {name: answer for name, answer in said.items() if _borne_out(answer, name, folder)}


def _borne_out(answer: str, name: str, folder: Path) -> bool:
    artefact = best_artefact(name, folder)
    claims = () if artefact is None else artefact.claims
    return set(INTERVAL.findall(answer)) <= {claim.interval for claim in claims}
