"""Every policy's answers to the same prompts, judged, as a page that filters without a script.

    gallery(lab.stored("answers").figures)

A notebook shows it as HTML. Filters are radio buttons that a style sheet reads (`:has`), so the
page works where no JavaScript runs; every answer has an address of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from chatlib.data import shop
from chatlib.evaluate import errors, policy

PROMPTS = 100
NONE = "no error"
STYLE = """
.gallery fieldset { border: 0; margin: 0 0 .5em; padding: 0 }
.gallery legend { float: none; font-size: 1em; font-weight: 600; margin: 0 }
.gallery label { margin-right: .9em; white-space: nowrap }
.gallery table { width: 100%; border-collapse: collapse; margin: .3em 0 1.6em; table-layout: fixed }
.gallery th, .gallery td { text-align: left; vertical-align: top; padding: .25em .4em;
  border-top: 1px solid rgba(128, 128, 128, .4); overflow-wrap: anywhere }
.gallery .who { width: 18% } .gallery .gold { width: 10% } .gallery .parts { width: 30% }
.gallery tr:target { outline: 2px solid currentColor }
@media (max-width: 576px) { .gallery .parts { display: none } .gallery .who { width: 28% } }
"""


def cases() -> list[shop.Scenario]:
    """The prompts: half of them new, half of names, products, phrasings never trained on."""
    half = PROMPTS // 2
    return policy.scenarios(half) + policy.scenarios(PROMPTS - half, held_out=True)


@dataclass(frozen=True)
class Gallery:
    """Answers beside the judge's parts; a notebook shows it as HTML."""

    page: str
    answers: int
    policies: tuple[str, ...]

    def _repr_html_(self) -> str:
        return self.page

    def __repr__(self) -> str:
        return f"{self.answers} answers of {len(self.policies)} policies to {PROMPTS} prompts"


def gallery(figures: dict[str, Any]) -> Gallery:
    """The page of stored answers (`make results answers`).

    Raises `ValueError` when the answers are to other prompts than `cases` gives today.
    """
    asked = cases()
    if figures["prompts"] != [case.messages() for case in asked]:
        raise ValueError("the stored answers are to other prompts; run `make results answers`")
    said: dict[str, list[str]] = figures["answers"]
    metas = [case.meta() for case in asked]
    tables = {name: errors.judged(metas, texts) for name, texts in said.items()}
    wrong = {name: errors.errors(table) for name, table in tables.items()}
    blocks = []
    for i, case in enumerate(asked):
        rows = [
            _row(i, name, tables[name].iloc[i].to_dict(), _named(wrong[name].iloc[i].to_dict()))
            for name in said
        ]
        blocks.append(_block(i, case, rows))
    kinds = {
        "prompt": ["new", "words never seen"],
        "intent": sorted({case.intent for case in asked}),
        "policy": list(said),
        "error": [*errors.ERRORS, errors.NOT_FLUENT, NONE],
    }
    style = STYLE + "\n".join(_rules(kinds))
    boxes = "".join(_filter(kind, values) for kind, values in kinds.items())
    page = f'<div class="gallery"><style>{style}</style>{boxes}{"".join(blocks)}</div>'
    return Gallery(page, len(asked) * len(said), tuple(said))


def _named(wrong: dict[Any, bool]) -> list[str]:
    """The names of an answer's errors, or `NONE`."""
    return [str(name) for name, there in wrong.items() if there] or [NONE]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _slugs(values: Iterable[str]) -> str:
    return " ".join(map(_slug, values))


def _rules(kinds: dict[str, Sequence[str]]) -> Iterator[str]:
    """The style sheet's part: what a chosen value hides, answers and prompts left without any."""
    for kind, values in kinds.items():
        for value in map(_slug, values):
            chosen = f".gallery:has(#{kind}-{value}:checked)"
            within = "section" if kind in ("prompt", "intent") else "tbody tr"
            yield f'{chosen} {within}:not([data-{kind}~="{value}"]) {{ display: none }}'


def _filter(kind: str, values: Sequence[str]) -> str:
    """A row of radio buttons, `all` first."""
    buttons = [f'<label><input type="radio" name="{kind}" checked> all</label>']
    buttons += [
        f'<label><input type="radio" name="{kind}" id="{kind}-{_slug(value)}"> '
        f"{escape(value.replace('_', ' '))}</label>"
        for value in values
    ]
    return f"<fieldset><legend>{kind}</legend>{' '.join(buttons)}</fieldset>"


def _block(i: int, case: shop.Scenario, rows: list[str]) -> str:
    """A prompt with its answers."""
    facts, *turns = case.messages()
    seen = "words-never-seen" if i >= PROMPTS // 2 else "new"
    talk = "<br>".join(f"<b>{m['role']}</b> {escape(m['content'])}" for m in turns)
    asks = f"<b>{i}</b> · {case.intent.replace('_', ' ')} · {escape(facts['content'])}<br>{talk}"
    head = '<tr><th class="who">policy</th><th>answer</th><th class="gold">gold</th>'
    return (
        f'<section id="prompt-{i}" data-prompt="{seen}" data-intent="{_slug(case.intent)}">'
        f"<p>{asks}</p>"
        f'<table><thead>{head}<th class="parts">parts</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _row(i: int, name: str, verdict: dict[Any, Any], wrong: list[str]) -> str:
    """An answer with its gold and the parts that it is made of."""
    place = f"answer-{i}-{_slug(name)}"
    parts = [(str(k), verdict[k]) for k in (*(p for p, _ in errors.ERRORS.values()), "fluency")]
    shown = ", ".join(f"{part} {value:+g}" for part, value in parts if abs(value) > 1e-9)
    return (
        f'<tr id="{place}" data-policy="{_slug(name)}" data-error="{_slugs(wrong)}">'
        f'<td><a href="#{place}">{escape(name)}</a></td><td>{escape(verdict["answer"])}</td>'
        f'<td>{verdict["gold"]:.2f}</td><td class="parts">{escape(shown)}</td></tr>'
    )
