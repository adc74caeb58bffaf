"""Notifications of what friends watched: which titles are worth a word, and which word.

:func:`notify` chooses what to send, and :func:`deliver` sends it, nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from firetv.data import KEYS, Dataset
from firetv.delivery import DeliveryLog, Sink, as_entries
from firetv.moments import UTC_CLOCK, Clock, Context
from firetv.proof import friend_events, social_proof
from firetv.schema import TIMESTAMP
from firetv.sentences import sentence
from firetv.slate import EMPTY, ExcludeSeen, Pipeline, Slate, Step, recommend
from firetv.social import PART

IDS = ("user_id", "content_id")


@dataclass(frozen=True)
class Policy:
    """What may be sent.

    Attributes
    ----------
    max_age : float
        Days for which what a friend did is news.
    per_day : int
        Notifications of one person in one day of their local time.
    quiet : tuple of two int
        Local hours from which and until which nothing is sent; never, if they are equal.
    least_interest : float
        Share of a person's unseen titles that must score below the one they are told of.
    names_from : int
        With fewer friends nobody is named, lest one person's evening be told.
    names_upto : int
        With more friends their number is told, not their names.

    Raises
    ------
    ValueError
        If a value is out of range; it names all that are.
    """

    max_age: float = 14.0
    per_day: int = 3
    quiet: tuple[int, int] = (22, 8)
    least_interest: float = 0.5
    names_from: int = 2
    names_upto: int = 3

    def __post_init__(self) -> None:
        rules = (
            ("max_age", "above 0 and at most 36500 days", 0 < self.max_age <= 36_500),
            ("per_day", "at least 1", self.per_day >= 1),
            ("quiet", "two hours of 0..23", [h in range(24) for h in self.quiet] == [True, True]),
            ("least_interest", "a share of 0..1", 0 <= self.least_interest <= 1),
            ("names_from", "at least 1", self.names_from >= 1),
            ("names_upto", "at least 0", self.names_upto >= 0),
        )
        wrong = [f"{n} must be {rule}, not {getattr(self, n)}" for n, rule, ok in rules if not ok]
        if wrong:
            raise ValueError("; ".join(wrong))


POLICY = Policy()


@dataclass(frozen=True)
class Notifications:
    """What is worth telling, and what is not.

    Attributes
    ----------
    rows : DataFrame
        One per notification, by user in the order asked for, best first: ``user_id``,
        ``content_id``, ``at`` (the instant they are for), ``text``, ``title``, ``content_type``,
        ``genres``, ``year``; how many friends ``watched``, ``finished`` and ``loved`` the title,
        and when the ``last`` did; ``interest``, the share of the user's unseen titles that score
        below it; ``score``, which it is ranked by; and ``counts``, how much of that is friends'
        doing, missing where the ranking has no such part. A friend is named in ``text`` or nowhere.
    dropped : DataFrame
        ``user_id``, ``content_id`` and ``reason`` of the other titles of friends.
    """

    rows: pd.DataFrame
    dropped: pd.DataFrame

    def __str__(self) -> str:
        count = len(self.rows) + len(self.dropped)
        reasons = self.dropped["reason"].value_counts().reindex(REASONS).dropna()
        told = [f"{n:.0f} {reason}" for reason, n in reasons.items()]
        told += [f"{len(self.rows)} to tell"] if count else []
        return f"{count} title{'s' * (count != 1)} of friends{': ' * bool(told)}{', '.join(told)}"

    def of(self, user_id: str) -> Notifications:
        """Return those of one user."""
        rows, dropped = (t[t["user_id"] == user_id] for t in (self.rows, self.dropped))
        return Notifications(rows.reset_index(drop=True), dropped.reset_index(drop=True))


REASONS = TOO_OLD, SEEN, DISMISSED, DELIVERED, BELOW, QUIET, OVER = (  # the first that holds
    "too old",
    "already seen",
    "dismissed",
    "already delivered",
    "below your interest",
    "in quiet hours",
    "over the day's limit",
)


def notify(
    data: Dataset,
    step: Step,
    interest: Step,
    users: np.ndarray,
    now: pd.Timestamp,
    since: pd.Timestamp | None = None,
    policy: Policy = POLICY,
    log: DeliveryLog | None = None,
    clock: Clock = UTC_CLOCK,
) -> Notifications:
    """Choose what to tell people of the titles of their friends.

    Parameters
    ----------
    data : Dataset
        What happens at `now` or later is not looked at.
    step : callable
        A fitted step that ranks, and keeps the slots of its slate: without ``top``. Its part
        ``friends``, if there is one, is told as ``counts``.
    interest : callable
        A fitted base model without friends: a title must be of interest whoever watched it.
    users : int array
        User codes; who is there twice is told once, and -1 is a stranger, without friends.
    now : Timestamp with a time zone
    since : Timestamp with a time zone, optional
        Only what friends did from then on; what is older than the policy allows is dropped.
    policy : Policy
    log : DeliveryLog, optional
        What was sent before, or is not wanted.
    clock : Clock
        Tells everybody's local time, by their region.

    Returns
    -------
    Notifications
        What one user is told does not depend on who else is asked for.

    Raises
    ------
    ValueError
        If a time has no zone, if `since` is not before `now`, or if `step` moves slots.
    """
    for instant in (now, since):
        Context(instant)  # refuses a time without a zone
    if since is not None and since >= now:
        raise ValueError(f"{since} is not before {now}")
    past, users = data.until(now), pd.unique(np.asarray(users, np.int64))
    people = _people(data, users[users >= 0], now, clock)
    found = _titles(past, people, now, since, policy)
    entries = as_entries([]) if log is None else log.entries(people["user_id"])
    known = _touched(past)
    found = _refuse(found, SEEN, _is_in(found, known.interactions, "user", "item"))
    wanted = entries[~entries["dismissed"]]
    found = _refuse(found, DISMISSED, _is_in(found, entries[entries["dismissed"]], *IDS))
    found = _refuse(found, DELIVERED, _is_in(found, wanted, *IDS))
    found["interest"] = _interest(interest, known, _Grid.of(found, now)).reindex(found.index)
    found = _refuse(found, BELOW, found["interest"] < policy.least_interest)
    found = _refuse(found, QUIET, _quiet(people["local"], policy)[found["request"]])
    found = _ranked(found, step, _Grid.of(found, now))
    room = policy.per_day - _sent_today(entries, people)[found["request"]]
    place = found["reason"].eq("").groupby(found["request"]).cumsum() - 1
    found = _refuse(found, OVER, place.to_numpy() >= room)
    told = found["reason"] == ""
    dropped = found.loc[~told, [*IDS, "reason"]]
    rows = _rows(data, found[told], now, policy)
    return Notifications(rows, dropped.reset_index(drop=True))


def deliver(notifications: Notifications, sink: Sink, log: DeliveryLog) -> pd.DataFrame:
    """Send notifications that the log does not have, and return them.

    They are recorded, then the sink takes them, then the record is made final: where the sink
    raises, the log stays as it was, and whoever delivers at the same time waits and sends nothing
    twice. A process that dies in between may send again what it sent, but loses nothing.
    """
    with log.transaction():
        rows = notifications.rows[log.record(notifications.rows)].reset_index(drop=True)
        if len(rows):
            sink(rows)
    return rows


# ------------------------------------------------------------------ filters


def _people(data: Dataset, users: np.ndarray, now: pd.Timestamp, clock: Clock) -> pd.DataFrame:
    """Everybody's ``user``, ``user_id``, ``zone`` and ``local`` time, by request."""
    region = data.users["region"].iloc[users] if "region" in data.users else [None] * len(users)
    zone = pd.Series([clock.zones.get(name, clock.zone) for name in region], dtype="str")
    instants = pd.Series(now, zone.index, dtype=TIMESTAMP)
    ids = data.user_ids[users].astype("str")
    return pd.DataFrame(
        {"user": users, "user_id": ids, "zone": zone, "local": _local(instants, zone)}
    )


def _local(instants: pd.Series, zones: pd.Series) -> pd.Series:
    """Local time of each instant in its own zone, without the zone."""
    local = pd.Series(pd.NaT, instants.index, dtype="datetime64[us]")
    for zone in zones.unique():
        here = zones == zone
        local[here] = instants[here].dt.tz_convert(zone).dt.tz_localize(None)
    return local


def _titles(
    past: Dataset,
    people: pd.DataFrame,
    now: pd.Timestamp,
    since: pd.Timestamp | None,
    policy: Policy,
) -> pd.DataFrame:
    """Titles of friends, one row for each with everybody, and the ``reason`` of too old ones."""
    users, start = people["user"].to_numpy(), now - pd.Timedelta(days=policy.max_age)
    fresh = start if since is None else max(since, start)
    found = social_proof(friend_events(past, users, fresh)).assign(reason="")
    if fresh != since and since is not None:
        old = social_proof(friend_events(past, users, since, fresh)).assign(reason=TOO_OLD)
        found = pd.concat([found, old]).drop_duplicates(["request", "item"])  # news comes first
    found = found.sort_values(["request", "item"], ignore_index=True)
    found.insert(0, "user_id", people["user_id"].array.take(found["request"]))
    found.insert(1, "content_id", pd.array(past.item_ids[found["item"]], dtype="str"))
    return found


def _touched(past: Dataset) -> Dataset:
    """The data with every reaction as a viewing: who rated a title knows it."""
    events = pd.concat([past.interactions[[*KEYS]], past.reactions[[*KEYS]]])
    return replace(past, interactions=events)


def _refuse(found: pd.DataFrame, reason: str, refused: np.ndarray | pd.Series) -> pd.DataFrame:
    """Give a reason against titles that have none yet."""
    refused = np.asarray(refused, bool) & found["reason"].eq("")
    return found.assign(reason=found["reason"].mask(refused, reason))


def _is_in(found: pd.DataFrame, table: pd.DataFrame, *keys: str) -> np.ndarray:
    """Whether the keys of each title are those of a row of a table."""
    rows = table[[*keys]].drop_duplicates()
    return found[[*keys]].merge(rows, how="left", indicator=True)["_merge"].eq("both").to_numpy()


def _quiet(local: pd.Series, policy: Policy) -> np.ndarray:
    """Whether it is a quiet hour; the hours may go past midnight."""
    start, end = policy.quiet
    return ((local.dt.hour - start) % 24 < (end - start) % 24).to_numpy()


def _sent_today(entries: pd.DataFrame, people: pd.DataFrame) -> np.ndarray:
    """How many notifications each person had in this day of their local time."""
    sent = entries.dropna(subset="delivered_at").merge(people, on="user_id")
    then, now = _local(sent["delivered_at"], sent["zone"]), sent["local"]
    today = sent[then.dt.floor("D") == now.dt.floor("D")]
    return today["user_id"].value_counts().reindex(people["user_id"], fill_value=0).to_numpy()


# ------------------------------------------------------------------ scores


@dataclass(frozen=True)
class _Grid:
    """The titles that nothing speaks against yet, as slates have them: a row for each user."""

    requests: pd.DataFrame
    items: np.ndarray  # (R, K), empty slots at the end of a row
    titles: pd.Index  # of the table of titles
    place: tuple[np.ndarray, np.ndarray]  # row and slot of each of these

    @classmethod
    def of(cls, found: pd.DataFrame, now: pd.Timestamp) -> _Grid:
        left = found[found["reason"] == ""]
        row, users = pd.factorize(left["user"])
        slot = left.groupby("user").cumcount().to_numpy()
        items = np.full((len(users), slot.max(initial=-1) + 1), EMPTY, np.int64)
        items[row, slot] = left["item"]
        return cls(Context(now).requests(users), items, left.index, (row, slot))

    def read(self, values: np.ndarray) -> pd.Series:
        """Values of the titles, out of an array of shape (R, K)."""
        return pd.Series(values[self.place], self.titles, dtype=float)


def _interest(step: Step, known: Dataset, grid: _Grid) -> pd.Series:
    """Share of the user's unseen candidates that score below each title."""
    candidates = np.flatnonzero(known.item_counts)
    if grid.titles.empty:
        return grid.read(np.empty((0, 0)))
    below = _Below(np.searchsorted(candidates, grid.items))
    pipeline = Pipeline((step, ExcludeSeen().fit(known), below))
    slate = recommend(pipeline, grid.requests, candidates)
    unseen = len(candidates) - known.user_counts[grid.requests["user"]]
    return grid.read(slate.parts["below"] / unseen[:, None])


@dataclass(frozen=True)
class _Below:
    """Counts how many candidates score below some of them, of which only these are left."""

    slots: np.ndarray  # (R, K), by the index of the requests

    def __call__(self, slate: Slate) -> Slate:
        empty = (slate.grid == EMPTY).sum(axis=1, keepdims=True)
        below = rankdata(slate.scores, "min", axis=1) - 1 - empty
        counted = Slate(slate.requests, slate.grid).add("below", below)
        return counted.take(self.slots[slate.requests.index])


def _ranked(found: pd.DataFrame, step: Step, grid: _Grid) -> pd.DataFrame:
    """Titles of each request in the order of their scores; equal ones in that of the catalogue."""
    score = counts = grid.read(np.full(grid.items.shape, np.nan))
    if len(grid.titles):
        slate = recommend(step, grid.requests, grid.items)
        if not np.array_equal(slate.items, grid.items):
            raise ValueError("the step that ranks moves slots: leave out top and ExcludeSeen")
        score = grid.read(slate.scores)
        counts = grid.read(slate.parts[PART]) if PART in slate.parts else counts
    found = found.assign(score=score, counts=counts)
    return found.sort_values(["request", "score", "item"], ascending=[True, False, True])


# ------------------------------------------------------------------ words


def _rows(data: Dataset, told: pd.DataFrame, now: pd.Timestamp, policy: Policy) -> pd.DataFrame:
    """Describe titles, and put them into words."""
    columns = ["title", "content_type", "genres", "release_year"]
    content = data.content.reindex(columns=columns).iloc[told["item"]].set_index(told.index)
    proofs = told[["watched", "finished", "loved", "friends"]].itertuples(index=False, name=None)
    texts = [
        sentence(*numbers, data.names[[*friends]], kind, policy.names_from, policy.names_upto)
        for (*numbers, friends), kind in zip(proofs, content["content_type"], strict=True)
    ]
    genres = [each if isinstance(each, list) else [] for each in content["genres"]]
    rows = told[[*IDS]].assign(
        at=pd.Series(now, told.index, dtype=TIMESTAMP),
        text=pd.array(texts, "str"),
        title=content["title"].astype("str").fillna(told["content_id"]),
        content_type=content["content_type"].astype("str"),
        genres=pd.Series(genres, told.index, dtype=object),
        year=content["release_year"].astype("Int64"),
    )
    numbers = ["watched", "finished", "loved", "last", "interest", "score", "counts"]
    return rows.join(told[numbers]).reset_index(drop=True)
