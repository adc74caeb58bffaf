"""What the recommender is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from firetv.explain import Reason
from firetv.slate import EMPTY, Slate

Basis = Literal["history", "liked titles", "profile", "popularity"]


@dataclass(frozen=True)
class Newcomer:
    """Somebody who is not in the data.

    Attributes
    ----------
    liked : tuple of str
        Ids of titles.
    profile : mapping
        As in the users table, such as ``{"age": 31, "gender": "F"}``.
    """

    liked: tuple[str, ...] = ()
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recommendations:
    """Lists, and what they rest on.

    Attributes
    ----------
    slate : Slate
        A request for each list; slots beyond the last title are empty.
    basis : tuple of str
        What was known of each person: their ``history``, some ``liked titles``, a ``profile``, or
        nothing, so that they get what is popular.
    reasons : list of lists of lists of Reason, or None
        For each slot, strongest first; None where they were not asked for.
    ids, titles : object arrays of shape (n_items,)
        Of the catalogue.
    """

    slate: Slate
    basis: tuple[Basis, ...]
    reasons: list[list[list[Reason]]] | None
    ids: np.ndarray
    titles: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """Lay the lists out, a row for each title.

        Returns
        -------
        DataFrame
            ``request``, ``rank`` (from 1), ``content_id``, ``title``, ``score``, and ``why`` where
            reasons were asked for.
        """
        request, slot = np.nonzero(self.slate.grid != EMPTY)
        items = self.slate.grid[request, slot]
        frame = pd.DataFrame(
            {
                "request": request,
                "rank": slot + 1,
                "content_id": pd.array(self.ids[items], dtype="str"),
                "title": pd.array(self.titles[items], dtype="str"),
                "score": self.slate.scores[request, slot],
            }
        )
        if self.reasons is None:
            return frame
        told = [
            "; ".join(reason.text for reason in self.reasons[r][s])
            for r, s in zip(request, slot, strict=True)
        ]
        return frame.assign(why=pd.array(told, dtype="str"))


@dataclass(frozen=True)
class GroupList:
    """One list for a group, and what its members think of it.

    Attributes
    ----------
    lists : Slate of one request
    views : DataFrame
        Of :meth:`~firetv.groups.GroupStep.views`.
    table : DataFrame
        Of :func:`~firetv.group_reasons.table`.
    records : list of dict
        Of :func:`~firetv.group_reasons.records`: the same for a program.
    """

    lists: Slate
    views: pd.DataFrame
    table: pd.DataFrame
    records: list[dict[str, Any]]
