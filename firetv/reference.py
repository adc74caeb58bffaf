"""The API reference: a page for each module, made of its docstrings.

pdoc reads modules and docstrings and links names; the pages are the package's own, like all others.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pdoc.doc
import pdoc.render
from jinja2 import Template

import firetv
from firetv.artefacts import project_root
from firetv.pages import TEMPLATES, code_style, render
from firetv.writing import write_whole

OURS = '<a href="index.html">API reference</a>'  # in the head of a module's page
ROW = re.compile(r"\| (?P<modules>`\w+`(?:[,;] `\w+`)*) \| .+ \|")


@dataclass(frozen=True)
class Entry:
    """What the index of the reference says about a module.

    Attributes
    ----------
    name : str
        Without the package's.
    summary : str
        The first line of its docstring.
    """

    name: str
    summary: str


def write_reference(folder: Path) -> Path:
    """Write a page for each module of the package, and an index before them.

    A type of an optional package that is not installed is shown as it is written.

    Parameters
    ----------
    folder : Path
        Where to; pages of modules that are gone are removed.

    Returns
    -------
    Path
        The index.
    """
    modules, template, style = documented(), _template(), code_style()
    for module in modules.values():
        members = public(module)
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            text = template.render(
                module=module,
                all_modules=modules,
                members=[(member, _methods(member)) for member in members],
                anchors=[(member.qualname, member.name) for member in members],
                code_style=style,
            )
        write_whole(folder / f"{module.name}.html", text)
    kept = {"index", *(module.name for module in modules.values())}
    for page in folder.glob("*.html"):
        if page.stem not in kept and OURS in page.read_text(encoding="utf-8"):
            page.unlink()
    index = render("api_index.html.j2", groups=_groups(modules))
    return write_whole(folder / "index.html", index)


def documented() -> dict[str, pdoc.doc.Module]:
    """Return the package's modules by name, such as ``firetv.slate``."""
    names = sorted(f"firetv.{found.name}" for found in pkgutil.iter_modules(firetv.__path__))
    return {name: pdoc.doc.Module(importlib.import_module(name)) for name in names}


def public(module: pdoc.doc.Doc) -> list[pdoc.doc.Doc]:
    """List what a module shows, in its order: functions, classes, documented constants."""
    return [
        member
        for member in module.own_members
        if not member.name.startswith("_") and (member.kind != "variable" or member.docstring)
    ]


def _template() -> Template:
    """The template of a module's page, in pdoc's environment with filters of our own."""
    pdoc.render.configure(docformat="numpy", template_directory=TEMPLATES)
    pdoc.render.env.filters |= {
        "call_signature": _call_signature,
        "plain_heads": _plain_heads,
        "plain_roles": _plain_roles,
    }
    return pdoc.render.env.get_template("api_module.html.j2")


def _methods(member: pdoc.doc.Doc) -> list[pdoc.doc.Doc]:
    """A class's own methods and properties that are documented."""
    own = member.own_members if member.kind == "class" else ()
    return [each for each in own if each.docstring and not each.name.startswith("_")]


def _call_signature(doc: pdoc.doc.Doc) -> inspect.Signature | None:
    """What a function is called with, or a class's instances are made with, if anything."""
    function = doc.members.get("__init__") if doc.kind == "class" else doc
    if not isinstance(function, pdoc.doc.Function):
        return None
    signature = function.signature
    shown = [
        each.replace(annotation=_bare(each.annotation))
        for name, each in signature.parameters.items()
        if name not in ("self", "cls")
    ]
    if doc.kind == "class":
        returned = inspect.Signature.empty
        return signature.replace(parameters=shown, return_annotation=returned) if shown else None
    return signature.replace(parameters=shown)


def _bare(annotation: Any) -> Any:  # noqa: ANN401
    """A type without what the command line says of it."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _plain_heads(markdown: str) -> str:
    """Heads of a docstring's sections as text: they are no headings of the page."""
    return re.sub(r"^###### (.+)$", r"\n**\1**\n", markdown, flags=re.MULTILINE)


def _plain_roles(docstring: str) -> str:
    """Roles without a text of their own, which pdoc would print: only what they point at."""
    return re.sub(r":(\w+):`(?:~|[^`<]+<)([\w.]+)>?`", r":\1:`\2`", docstring)


def _groups(modules: Mapping[str, pdoc.doc.Module]) -> list[Sequence[Entry]]:
    """Modules as the README's table groups and orders them; what it does not name comes last."""
    readme = project_root() / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    rows = [re.findall(r"`(\w+)`", row["modules"]) for row in ROW.finditer(text)]
    left = {name.removeprefix("firetv."): module for name, module in modules.items()}
    groups = [[_entry(name, left.pop(name)) for name in row if name in left] for row in rows]
    groups.append([_entry(name, module) for name, module in left.items()])
    return [group for group in groups if group]


def _entry(name: str, module: pdoc.doc.Module) -> Entry:
    first = re.sub(r":\w+:`~?([^`]+)`", r"\1", module.docstring.partition("\n")[0])
    return Entry(name, first.replace("`", ""))
