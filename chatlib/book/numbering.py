"""A chapter has the number that its file's name begins with, though one before it may be missing.

Sphinx counts: with a gap between the files it would call chapter 13 "12", and every reference to a
chapter by its number would be wrong.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

AFTER = 900  # Sphinx's own numbers are given at 500


def renumber(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Correct sections, titles, figures and equations; returns the pages that changed."""
    changed = []
    for page, sections in env.toc_secnumbers.items():
        named, counted = re.match(r"(\d+)_", page), sections.get("")
        if named and counted and counted[0] != int(named[1]):
            right(env, page, int(named[1]))
            changed.append(page)
    return changed


def right(env: BuildEnvironment, page: str, chapter: int) -> None:
    """Put the chapter's number first in every number of a page."""
    for numbers in (env.toc_secnumbers[page], *env.toc_fignumbers.get(page, {}).values()):
        for place, number in numbers.items():
            numbers[place] = (chapter, *number[1:]) if number else number
    marked: list[Any] = [env.titles[page], *env.tocs[page].findall(nodes.reference)]
    for node in marked:
        if node.get("secnumber"):
            node["secnumber"] = [chapter, *node["secnumber"][1:]]


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("env-get-updated", renumber, priority=AFTER)
    return {"parallel_read_safe": True}
