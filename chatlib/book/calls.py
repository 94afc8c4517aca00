"""A Sphinx directive that lists what the book's cells call, each with a line that calls it.

The lines are read from the pages, which are executed: whatever stands in the list runs.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from chatlib.book import pages

WIDTH = 79  # characters of a line that is shown


@dataclass(frozen=True)
class Called:
    """A public function or class, where a page calls it for the first time, and how."""

    name: str  # in full, of where it is defined
    says: str  # the first sentence of its docstring
    page: str
    line: str

    @property
    def room(self) -> str:
        """The part of `chatlib` that it belongs to."""
        return self.name.split(".")[1]

    @property
    def short(self) -> str:
        """Its name within the room."""
        return self.name.split(".", 2)[2]


def called(paths: list[Path]) -> list[Called]:
    """What the cells of some pages call of `chatlib`, by name; the first short line of each."""
    found: dict[str, Called] = {}
    for path in paths:
        for one in on_page(path):
            known = found.get(one.name)
            if known is None or len(known.line) > WIDTH >= len(one.line):
                found[one.name] = one
    return [found[name] for name in sorted(found)]


def on_page(path: Path) -> Iterator[Called]:
    """The calls of one page, in order."""
    names: dict[str, str] = {}  # what an import calls something: what that is
    for source in pages.code_of(path):
        tree = ast.parse(source)
        names |= imported(tree)
        for call, line in calls(tree):
            target = resolved(call.func, names)
            if target is not None:
                name = f"{target.__module__}.{target.__name__}"
                yield Called(name, sentence(target), path.stem, line)


def imported(tree: ast.Module) -> dict[str, str]:
    """The names that a cell gives to parts of `chatlib`."""
    of = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    names = {a.asname or a.name: f"{n.module}.{a.name}" for n in of for a in n.names}
    return {name: full for name, full in names.items() if full.startswith("chatlib.")}


def calls(tree: ast.AST, statement: ast.stmt | None = None) -> Iterator[tuple[ast.Call, str]]:
    """Every call, with the statement that it stands in, or the call where that has a body."""
    for node in ast.iter_child_nodes(tree):
        inside = node if isinstance(node, ast.stmt) else statement
        if isinstance(node, ast.Call):
            whole = inside if inside and not hasattr(inside, "body") else node
            text = ast.unparse(whole)
            yield node, text if len(text) <= WIDTH else ast.unparse(node)
        yield from calls(node, inside)


def resolved(function: ast.expr, names: dict[str, str]) -> Any:
    """The public function or class of ours that a call names; None for anything else."""
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.insert(0, function.attr)
        function = function.value
    if not isinstance(function, ast.Name) or function.id not in names:
        return None
    found: Any = importlib.import_module("chatlib")
    for part in [*names[function.id].split(".")[1:], *parts]:
        if inspect.ismodule(found):
            found = member(found, part)
    ours = getattr(found, "__module__", "").startswith("chatlib.")
    is_public = not getattr(found, "__name__", "_").startswith("_")
    return found if ours and is_public and not inspect.ismodule(found) else None


def member(module: Any, name: str) -> Any:
    """A name of a module, which may be a module that nobody has imported yet."""
    try:
        return getattr(module, name)
    except AttributeError:
        return importlib.import_module(f"{module.__name__}.{name}")


def sentence(thing: Any) -> str:
    """The first sentence of a docstring."""
    first = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    return first.split(". ")[0].rstrip(".:") + "."


@functools.cache
def of_the_book() -> list[Called]:
    """What the cells of this book call."""
    return called(pages.notebooks())


class Calls(SphinxDirective):
    """``{calls} maths``: what cells call of one room."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A list of definitions, parsed from Markdown, so that the pages are linked."""
        lines = []
        for one in of_the_book():
            if one.room == self.arguments[0]:
                lines += [f"`{one.short}`", f": {one.says} In [{one.page}]({one.page}.ipynb):"]
                lines += ["", f"  `` {one.line} ``", ""]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.add_directive("calls", Calls)
    return {"parallel_read_safe": True}
