"""The assistants that answer inside a page: their weights, recorded answers, and the directive.

``{assistants}`` in a page becomes a table of recorded answers, which is all that a reader without
scripts sees; `chatlib/serve/widget.js` puts the models themselves beside it. Weights and answers
lie in ``notebooks/static`` for a rendering of stored outputs; `make book` makes its own.
"""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from chatlib import serve
from chatlib.book import pages
from chatlib.lab.stored_results import fingerprint
from chatlib.runs.files import read_json, write_json

if TYPE_CHECKING:
    from chatlib.settings.stages import StageConfig

PACK, ANSWERS = "assistants.js", "assistants.json"
STAGES = ("sft", "reward", "ppo")  # that have trained them
SCRIPTS = ("runtime.js", "widget.js", "microscope.js")
POLICIES = ("SFT", "PPO", "over-optimised PPO")
JUDGE = "reward"
OFFERED = 8  # prompts that no stage trained on, one of each intent as far as there are
SPEAKER = {"system": "the shop knows", "user": "customer", "assistant": "shop"}
LARGEST = 3_000_000  # bytes of the pack: a page has to load it, and a repository to carry it


def make(folder: Path = pages.NOTEBOOKS / "static") -> str:
    """Write the weights and the recorded answers of the finished runs; one sentence about them.

    The over-optimised policy is among them where chapter 6 has trained it. Raises `ValueError`
    without a finished SFT, PPO or reward run, and where the weights take more than `LARGEST` bytes.
    """
    from chatlib.book import microscope
    from chatlib.serve import browser

    runs = finished()
    references = {name: run.reference for name, run in runs.items()}
    said = browser.write(
        list(references.values()), folder / PACK, force=True, names=list(references)
    )
    if said.bytes > LARGEST:
        raise ValueError(f"{folder / PACK} has {said.bytes} bytes; at most {LARGEST} may be loaded")
    told = {
        "models": [name for name in runs if name in POLICIES],
        "judge": JUDGE,
        "bytes": said.bytes,
        "moved": said.moved,
        "code": {stage: fingerprint(stage) for stage in STAGES},
        "examples": examples(references),
        **microscope.record(runs["PPO"]),
    }
    write_json(folder / ANSWERS, told)
    return str(said)


def changed(folder: Path = pages.NOTEBOOKS / "static") -> list[str]:
    """The stages whose code is no longer the one that trained the assistants of a folder."""
    known = read_json(folder / ANSWERS).get("code", {})
    return [stage for stage in STAGES if known.get(stage) != fingerprint(stage)]


def finished() -> dict[str, Any]:
    """The finished runs of the book's recipes, by the names that pages give them."""
    from chatlib.lab import recipe, run_of

    wanted = dict(zip(POLICIES, (recipe("sft"), recipe("ppo"), overoptimised())))
    runs = {name: run_of(config) for name, config in {**wanted, JUDGE: recipe(JUDGE)}.items()}
    found = {name: run for name, run in runs.items() if run.status == "complete"}
    if missing := {"SFT", "PPO", JUDGE} - set(found):
        raise ValueError(
            f"no finished run of {', '.join(sorted(missing))}; `make book` trains them"
        )
    return found


def overoptimised() -> StageConfig:
    """The live run of chapter 6, which is an arm of its experiment: PPO that is pushed too far."""
    from chatlib.book.experiments import overoptimisation

    return overoptimisation.settings("weak, fast", beta=0.0, seed=0)


def offered() -> list[Any]:
    """Scenarios of different intents, in the order in which evaluation meets them."""
    from chatlib.evaluate import policy

    first: dict[str, Any] = {}
    for case in policy.scenarios(200):
        first.setdefault(case.intent, case)
    return list(first.values())[:OFFERED]


def examples(references: dict[str, str]) -> list[dict[str, Any]]:
    """The offered prompts with each policy's greedy answer, its score and the judge's verdict."""
    from chatlib.data import shop
    from chatlib.evaluate import scorer
    from chatlib.serve.browser import load
    from chatlib.train import rollout

    cases, judge = offered(), scorer.load(references[JUDGE])
    prompts = [case.messages() for case in cases]
    rows: list[dict[str, Any]] = [{"messages": messages, "answers": {}} for messages in prompts]
    for name in (name for name in references if name in POLICIES):
        said = rollout.answer(*load(references[name]), prompts, temperature=0)
        for row, case, text, score in zip(rows, cases, said, judge.score(prompts, said)):
            verdict = words(shop.judge(case.meta(), text))
            row["answers"][name] = {"text": text, "score": round(score, 2), "verdict": verdict}
    return rows


def words(verdict: Any) -> str:
    """The shop's judge in words: the gold reward, and what earned and what cost."""
    parts = ", ".join(f"{name} {value:+.2f}" for name, value in verdict.parts.items() if value)
    return f"gold {verdict.total:.2f} ({parts})" if parts else f"gold {verdict.total:.2f}"


# --- what a page shows


def markup(told: dict[str, Any], static: str = "_static/") -> str:
    """HTML of the recorded answers, with what `widget.js` needs to know beside it."""
    blocks = "".join(_block(one, told["models"]) for one in told["examples"])
    wanted = {name: told[name] for name in ("models", "judge", "bytes", "examples")}
    known = json.dumps(wanted).replace("<", "\\u003c")  # no text can end the script
    return (
        f'<div class="assistants">{blocks}'
        f'<script type="application/json">{known}</script></div>'
        f"<p class='rounding'>{_safe(rounding(told['moved']))}</p>"
        f'<script src="{static}widget.js"></script>'
    )


def rounding(moved: dict[str, float]) -> str:
    """What the integers change: by how much, at most, a log-probability or a score moves."""
    largest = ", ".join(f"{name} {change:.2f}" for name, change in moved.items())
    return (
        "In the page the weights are integers of 8 bits. On varied texts this moves a "
        f"log-probability, or a score of the reward model, by at most: {largest}."
    )


def _block(example: dict[str, Any], models: list[str]) -> str:
    """One prompt with its recorded answers, folded."""
    *before, question = example["messages"]
    said = ((SPEAKER[m["role"]], _safe(m["content"])) for m in before)
    lines = "".join(f"<p class='said'><b>{who}:</b> {text}</p>" for who, text in said)
    rows = "".join(_row(name, example["answers"][name]) for name in models)
    head = "<tr><th scope='col'>model</th><th scope='col'>answer</th><th scope='col'>paid</th></tr>"
    return (
        f"<details><summary>{_safe(question['content'])}</summary>{lines}"
        f"<table class='table'>{head}{rows}</table></details>"
    )


def _row(name: str, answer: dict[str, Any]) -> str:
    paid = f"reward model {answer['score']:.2f}; {answer['verdict']}"
    cells = f"<td>{_safe(answer['text'])}</td><td>{_safe(paid)}</td>"
    return f"<tr><th scope='row'>{_safe(name)}</th>{cells}</tr>"


def _safe(text: str) -> str:
    return html.escape(text)


class Assistants(SphinxDirective):
    """``{assistants}``: recorded answers, and the models that gave them, in the page."""

    has_content = True  # what a reader of the bare notebook is told

    def run(self) -> list[nodes.Node]:
        """The markup, from the answers beside the pages that are rendered."""
        path = Path(self.env.srcdir) / "static" / ANSWERS
        self.env.note_dependency(str(path))
        told = json.loads(path.read_text(encoding="utf-8"))
        return [nodes.raw("", markup(told), format="html")]


def copy_scripts(app: Sphinx, error: Exception | None) -> None:
    """Put the scripts beside the pack, once the site is written."""
    if error is None and app.builder.format == "html":
        for name in SCRIPTS:
            shutil.copy(Path(serve.__file__).parent / name, Path(app.outdir) / "_static" / name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.add_directive("assistants", Assistants)
    app.connect("build-finished", copy_scripts)
    return {"parallel_read_safe": True}
