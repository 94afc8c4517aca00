"""The token microscope of chapter 5: recorded answers of a PPO iteration, and the directive.

``{microscope}`` in a page becomes the table of one recorded answer, which is all that a reader
without scripts sees; `chatlib/serve/microscope.js` puts its tokens under the lens instead, and lets
the models of `chatlib.book.assistants` draw other answers.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from chatlib.book.assistants import ANSWERS, SPEAKER, rounding

if TYPE_CHECKING:
    from chatlib.runs.store import Run

POLICY, REFERENCE = "PPO", "SFT"
RECORDED = 6  # answers of the iteration that are kept
# A figure of a token, its column's head, and what it is called in full; nats but for the last five.
COLUMNS = (
    ("logp", "log π", "log-probability under the policy"),
    ("ref", "log π ref", "log-probability under the reference"),
    ("kl", "KL", "KL of policy and reference here, over all tokens"),
    ("entropy", "entropy", "entropy of the policy here"),
    ("reward", "r", "reward r: the KL's price, at the end the score too"),
    ("value", "V", "value V before the token"),
    ("advantage", "A", "advantage A, whitened"),
    ("ratio", "ρ", "ratio ρ after the updates"),
    ("clipped", "clipped", "clipped after the updates"),
)


def record(run: Run, **sizes: int) -> dict[str, Any]:
    """One more iteration of a finished PPO run: some of its answers whole, and figures of it all.

    Kept are the answers with the most clipped tokens, which are rare, in the order of the prompts.
    ``sizes`` go to `chatlib.evaluate.lens.iteration`.
    """
    from chatlib.evaluate import lens

    one = lens.iteration(run, **sizes)
    most = one.clipped.sum(1).argsort(descending=True, stable=True)[:RECORDED]
    kept = []
    for i in sorted(most.tolist()):
        found = lens.tokens(one, i)
        found["others"] = [
            ", ".join(f"{text.strip()} {p:.3f}" for text, p in others) for others in found["others"]
        ]
        score = round(one.rollout.score[i].item(), 2)
        kept.append({"messages": one.cases[i].messages(), "score": score, "tokens": found})
    whole = {"answers": len(one.rollout.rows), "tokens": int(one.rollout.mask.sum())}
    shares = {"clipped": int(one.clipped.sum()), "explained_variance": round(one.explained, 2)}
    return {"recorded": kept, "iteration": {**whole, **shares}}


# --- what a page shows


def markup(told: dict[str, Any], static: str = "_static/") -> str:
    """HTML: the table of the first recorded answer, with what `microscope.js` needs beside it."""
    known = {
        "columns": COLUMNS,
        "speaker": SPEAKER,
        "policy": POLICY,
        "reference": REFERENCE,
        "models": told["models"],
        "bytes": told["bytes"],
        "prompts": [example["messages"] for example in told["examples"]],
        "recorded": told["recorded"],
    }
    data = json.dumps(known).replace("<", "\\u003c")  # no text can end the script
    return (
        f'<div class="microscope">{table(told["recorded"][0])}'
        f'<script type="application/json">{data}</script></div>'
        f"<p class='iteration'>{html.escape(sentence(told['iteration']))}</p>"
        f"<p class='rounding'>{html.escape(rounding(told['moved']))}</p>"
        f'<script src="{static}microscope.js"></script>'
    )


def sentence(whole: dict[str, Any]) -> str:
    """What the recorded iteration was like as a whole."""
    return (
        f"The recorded iteration has {whole['answers']} answers of {whole['tokens']} tokens in "
        f"all, of which {whole['clipped']} are clipped after its updates. The critic explains "
        f"{whole['explained_variance']:.2f} of the variance of their returns. Recorded are the "
        "answers with the most clipped tokens, with the figures of the whole weights."
    )


def table(recorded: dict[str, Any]) -> str:
    """A recorded answer without scripts: its prompt, and a row a token."""
    said = "".join(
        f"<p class='said'><b>{SPEAKER[m['role']]}:</b> {html.escape(m['content'])}</p>"
        for m in recorded["messages"]
    )
    columns = recorded["tokens"]
    heads = "".join(f"<th scope='col' title='{long}'>{head}</th>" for _, head, long in COLUMNS)
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(text.strip())}</th>"
        + "".join(f"<td>{_shown(columns[name][t])}</td>" for name, *_ in COLUMNS)
        + "</tr>"
        for t, text in enumerate(columns["text"])
    )
    caption = f"An answer of the PPO model, token by token (score {recorded['score']:.2f})"
    return (
        f"{said}<div class='tokens-table' tabindex='0' role='region' aria-label='{caption}'>"
        f"<table class='table'><caption>{caption}</caption><thead><tr><th scope='col'>token</th>"
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _shown(value: float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


class Microscope(SphinxDirective):
    """``{microscope}``: a recorded answer token by token, and the models that draw others."""

    has_content = True  # what a reader of the bare notebook is told

    def run(self) -> list[nodes.Node]:
        """The markup, from the answers beside the pages that are rendered."""
        path = Path(self.env.srcdir) / "static" / ANSWERS
        self.env.note_dependency(str(path))
        told = json.loads(path.read_text(encoding="utf-8"))
        return [nodes.raw("", markup(told), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point; `chatlib.book.assistants` puts the scripts beside the pages."""
    app.add_directive("microscope", Microscope)
    return {"parallel_read_safe": True}
