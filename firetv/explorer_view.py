"""What the explorer shows of a list, as plain values: to be drawn, compared and tested."""

from __future__ import annotations

from dataclasses import dataclass

from firetv.sentences import together


@dataclass(frozen=True)
class Part:
    """A segment of a title's bar.

    Attributes
    ----------
    name : str
    number : int
        Of its colour: those of a member have the same.
    changed : bool
        Whether it is what a factor of a member's weight changed.
    value : float
    """

    name: str
    number: int
    changed: bool = False
    value: float = 0.0


@dataclass(frozen=True)
class Row:
    """A title of the list.

    Attributes
    ----------
    rank : int
        From 1.
    content_id, title : str
    parts : tuple of Part
        They sum to `score`: see :attr:`View.scale`.
    score : float
    why : str
        Why it is in the list, in a sentence.
    before : int or None
        Its rank without the moment; None where it was beyond a group's list.
    because : str
        Why the moment moved it, empty where it did nothing.
    places : tuple of int
        Its place in each member's own order, of a group.
    """

    rank: int
    content_id: str
    title: str
    parts: tuple[Part, ...]
    score: float
    why: str
    before: int | None
    because: str
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class Left:
    """A title that the moment moved out of the list: its rank ``before``, and why."""

    title: str
    before: int
    because: str


@dataclass(frozen=True)
class Member:
    """How a group's list serves a member.

    Attributes
    ----------
    name : str
    satisfaction : float
        What the list is worth to them, as a share of what their own best list would be; see
        :func:`firetv.group_metrics.satisfaction`.
    weight : float
        How much they count; a group's sum to 1.
    """

    name: str
    satisfaction: float
    weight: float


@dataclass(frozen=True)
class View:
    """What is shown.

    Attributes
    ----------
    names : tuple of str
        Of the people.
    moment : str
        How it was understood.
    rows : tuple of Row
        The list, best first.
    left : tuple of Left
    members : tuple of Member
        Of a group; empty for one person.
    scale : str
        What bars are measured from.
    notes : tuple of str
        What is simulated in what is shown, and whether the list knows what came later.
    """

    names: tuple[str, ...]
    moment: str
    rows: tuple[Row, ...]
    left: tuple[Left, ...]
    members: tuple[Member, ...]
    scale: str
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """One sentence for whoever does not see the list change."""
        moved = sum(row.before != row.rank for row in self.rows)
        new = len(self.left)
        change = f"the moment moved {moved} of {len(self.rows)}" if moved else "nothing moved"
        entered = f", {new} of them into the list" if new else ""
        return f"{together(self.names)}, {self.moment}: {change}{entered}."


@dataclass(frozen=True)
class News:
    """Notifications of one person.

    Attributes
    ----------
    name : str
    lines : tuple of tuple of str
        A sentence and a title each.
    summary : str
        How many titles of friends there were, and what spoke against the others.
    simulated : bool
        Whether friends are.
    """

    name: str
    lines: tuple[tuple[str, str], ...]
    summary: str
    simulated: bool
