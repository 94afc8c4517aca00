"""A Sphinx directive that lists the settings of a stage: name, default, allowed, meaning."""

from __future__ import annotations

import json
from enum import Enum
from importlib import import_module

from docutils import nodes
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from chatlib.settings.stages import choices


def rows(model: type[BaseModel], known: type[BaseModel] | None = None) -> list[tuple[str, ...]]:
    """Name, default, allowed values and meaning of each field of `model`.

    Fields that `known` has with the same default are left out: they were listed with it.
    """
    before = known.model_fields if known else {}
    return [
        (name, _default(field), _allowed(field), field.description or "")
        for name, field in model.model_fields.items()
        if name not in before or _default(before[name]) != _default(field)
    ]


def _default(field: FieldInfo) -> str:
    """The default as one would write it, ``required`` where there is none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        value = [item.name for item in value]
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}()"
    return repr(value.value if isinstance(value, Enum) else value)


def _allowed(field: FieldInfo) -> str:
    """The limits of a number, or the values that may be chosen."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return ", ".join(limits or map(json.dumps, choices(field.annotation)))


class Settings(SphinxDirective):
    """``{settings} chatlib.settings.stages.SFTConfig [known]``: the table of its fields."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table, parsed from Markdown so that descriptions may carry markup."""
        found = []
        for path in self.arguments:
            module, _, name = path.rpartition(".")
            found.append(getattr(import_module(module), name))
        lines = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
        for name, default, allowed, meaning in rows(*found):
            shown = f"`{allowed}`" if allowed else ""
            lines.append(f"| `{name}` | `{default}` | {shown} | {meaning.replace('|', '/')} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True}
