"""Policies on the book's other corpora: what they solve, and whole conversations with tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from chatlib.data import corpora, tools
from chatlib.data.appointments import Scenario, check, judge_conversation
from chatlib.evaluate.policy import UNSEEN

Reply = Callable[[tools.Call, tools.Calendar], tuple[str, tools.Calendar]]


def scenarios(corpus: str, n: int, seed: int = UNSEEN, held_out: bool = False) -> list[Any]:
    """``n`` scenarios of a corpus that no stage trains on."""
    return list(islice(corpora.corpus(corpus).scenarios(seed, held_out), n))


def judged(corpus: str, cases: Sequence[Any], answers: Sequence[str]) -> pd.DataFrame:
    """The corpus's verdicts: ``answer``, ``gold``, ``well_formed``, ``solved`` and the parts.

    ``solved`` is what the corpus's ``check`` says, where it has one.
    """
    module: Any = corpora.corpus(corpus)
    rows = []
    for case, text in zip(cases, answers, strict=True):
        meta = case.meta()
        verdict = module.judge(meta, text)
        row = {"answer": text, "gold": verdict.total, "well_formed": verdict.well_formed}
        if hasattr(module, "check"):
            row["solved"] = module.check(meta, text)
        rows.append(row | {"parts": verdict.parts})
    return pd.DataFrame(rows)


def assess(
    corpus: str, model: Any, tokenizer: Any, cases: Sequence[Any], seed: int = 0, **options: Any
) -> pd.DataFrame:
    """One answer to each scenario, `judged`; ``options`` as in `chatlib.train.rollout.answer`."""
    from chatlib.train import rollout

    asked = [case.messages() for case in cases]
    return judged(corpus, cases, rollout.answer(model, tokenizer, asked, seed=seed, **options))


def solved_within(solved: np.ndarray) -> np.ndarray:
    """Share of prompts that at least one of k answers solves, k = 1 to n (pass at k). (n,)

    ``solved`` (n, prompts) says which of n draws solve what. With c of n solved, k of them drawn
    without putting back all fail with probability C(n - c, k) / C(n, k) (Chen et al. 2021,
    "Evaluating Large Language Models Trained on Code", equation 1).
    """
    n = len(solved)
    counts = np.asarray(solved, dtype=int).sum(0)
    missed = [[comb(n - c, k) / comb(n, k) for c in counts.tolist()] for k in range(1, n + 1)]
    return 1 - np.mean(missed, axis=1)


def conversations(
    ask: Callable[[list[list[dict]]], list[str]],
    cases: Sequence[Scenario],
    most: int = 3,
    reply: Reply = tools.run,
) -> list[tools.Talk]:
    """`tools.converse_all` from the beginning of some scenarios."""
    begun = [(case.messages(), tools.calendar(case.entries)) for case in cases]
    return tools.converse_all(ask, begun, most, reply)


def outcomes(cases: Sequence[Scenario], talks: Sequence[tools.Talk]) -> pd.DataFrame:
    """What came of conversations: ``task``, ``calls``, ``calendar`` (as it should be), ``told``
    (the last turn is a true, whole answer), ``done`` (both), ``gold`` and the last ``answer``."""
    rows = []
    for case, (messages, calendar) in zip(cases, talks, strict=True):
        meta = case.meta()
        said = [m["content"] for m in messages[len(case.messages()) :] if m["role"] == "assistant"]
        kept = calendar == tools.calendar(case.wanted)
        told = check(meta | {"done": len(meta["plan"])}, said[-1])
        row = {"task": case.task, "calls": sum(map(bool, map(tools.parse, said)))}
        row |= {"calendar": kept, "told": told, "done": kept and told, "answer": said[-1]}
        rows.append(row | {"gold": judge_conversation(meta, messages, calendar).total})
    return pd.DataFrame(rows)


def off_by(shift: int) -> Reply:
    """The tools with a calculator whose results are ``shift`` too large."""

    def reply(call: tools.Call, of: tools.Calendar) -> tuple[str, tools.Calendar]:
        said, after = tools.run(call, of)
        if call.tool == "calculator" and said.startswith("result: "):
            said = f"result: {int(said.removeprefix('result: ')) + shift}"
        return said, after

    return reply
