"""YAML files that people write: read safely, no key lost, and all that is wrong said at once."""

from __future__ import annotations

import reprlib
from collections.abc import Hashable, Iterable
from pathlib import Path

import yaml

from firetv.schema import DataError, Problem, brief


class _Loader(yaml.SafeLoader):
    """The safe loader, without aliases; it gathers keys given twice, of which YAML keeps the last.

    Aliases of aliases make a few lines mean more than any memory holds.
    """

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.repeated: list[yaml.ScalarNode] = []

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"aliases are not read, line {mark.line + 1}: write it out")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        str(number)  # what cannot be written cannot be quoted: ValueError
        return number

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        first = {key.value: key for key in reversed(keys)}
        self.repeated += [key for key in keys if first[key.value] is not key]
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(path: Path, form: str, holds: str, most: int) -> tuple[object, list[Problem]]:
    """Read a file.

    Parameters
    ----------
    path : Path
    form : str
        What a line of it looks like, for messages.
    holds : str
        What it is for, such as ``rules``.
    most : int
        Bytes that it may have.

    Returns
    -------
    object, list of Problem
        What it holds, and the keys that it gives twice.

    Raises
    ------
    DataError
        If it cannot be read, is too big, or is not YAML.
    """
    return _parse(_text(path, holds, most), path.name, form)


def _text(path: Path, holds: str, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(most + 1)
    except OSError as error:
        reason = f"cannot be read, {error.strerror}"
        raise DataError(Problem(str(path), "", reason, "Give the path of a file.")) from error
    if len(text) > most:
        reason = f"is bigger than {most:,} bytes"
        raise DataError(Problem(path.name, "", reason, f"Keep nothing but {holds} in it."))
    return text


def _parse(text: bytes, where: str, form: str) -> tuple[object, list[Problem]]:
    try:
        loader = _Loader(text)
        raw = loader.get_single_data()
    except Exception as error:  # yaml's own, and of a day such as 2026-02-31, or !!bool x, others
        reason = f"is not YAML, {brief(str(error), 500) or type(error).__name__}"
        remedy = f"Write UTF-8, and lines such as {form}."
        raise DataError(Problem(where, "", reason, remedy)) from error
    remedy = "Join the two, of which YAML keeps only the last."
    places = [f"{where}, line {key.start_mark.line + 1}, {key.value}" for key in loader.repeated]
    return raw, [Problem(place, "", "is there twice", remedy) for place in places]


def quote(what: object) -> str:
    """Quote a part of a file briefly, however deep it is nested."""
    brief = reprlib.Repr()
    brief.maxlevel = 2  # a line, and a list in it
    return brief.repr(what)


def sections(
    raw: object, where: str, known: Iterable[str], what: str, problems: list[Problem]
) -> list[tuple[str, object]]:
    """What is under each known name, in the known spelling; add what is wrong to `problems`."""
    if raw is None:  # all its lines are comments
        return []
    spelling = {name.casefold(): name for name in known}
    remedy = f"Use {', '.join(spelling.values())}."
    if not isinstance(raw, dict):
        problems.append(Problem(where, "", f"is not of the form `{what}: ...`", remedy))
        return []
    found = []
    for name, below in raw.items():
        if str(name).casefold() in spelling:
            found.append((spelling[str(name).casefold()], below))
        else:
            place = f"{where}, {quote(name)}"
            problems.append(Problem(place, "", f"is not a known {what}", remedy))
    return found
