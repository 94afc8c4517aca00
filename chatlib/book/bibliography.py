"""The bibliography as a list of items: docutils gives each entry a role that ARIA has given up."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

GIVEN_UP, ITEM = 'role="doc-biblioentry"', 'role="listitem"'


def visit(translator: HTML5Translator, node: nodes.citation) -> None:
    """Begin an entry as docutils does, as an item of the list around it."""
    type(translator).visit_citation(translator, node)  # an instance would call this function again
    translator.body[-1] = translator.body[-1].replace(GIVEN_UP, ITEM)


def depart(translator: HTML5Translator, node: nodes.citation) -> None:
    """End an entry as docutils does."""
    type(translator).depart_citation(translator, node)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.add_node(nodes.citation, override=True, html=(visit, depart))
    return {"parallel_read_safe": True}
