"""A policy at work in the shop: its answers, the gold judge's verdicts, what is grounded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import pandas as pd

from chatlib.data import shop
from chatlib.evaluate.errors import judged

UNSEEN = 1000  # seed of scenarios that no stage trains on: those use the seeds of the runs
KINDS = ("number", "day", "product", "name")


def scenarios(n: int, seed: int = UNSEEN, held_out: bool = False) -> list[shop.Scenario]:
    """``n`` scenarios for evaluation; ``held_out``: names, products, phrasings never trained on."""
    return list(islice(shop.scenarios(seed, held_out), n))


def assess(
    model: Any, tokenizer: Any, cases: Sequence[shop.Scenario], seed: int = 0, **options: Any
) -> pd.DataFrame:
    """One sampled answer to each scenario, judged: the columns of `errors.judged`.

    ``options`` (``temperature``, ``max_answer_tokens``) go to `chatlib.train.rollout.answer`.
    """
    from chatlib.train import rollout

    answers = rollout.answer(model, tokenizer, [c.messages() for c in cases], seed=seed, **options)
    return judged([c.meta() for c in cases], answers)


def grounding(cases: Sequence[shop.Scenario], answers: Sequence[str]) -> pd.DataFrame:
    """How many of the facts that answers state can be found in their prompts.

    One row a kind of fact (number, day, product, name) and one for ``all``; columns ``stated``,
    ``grounded`` (the share of the stated that the prompt contains; NaN where none was stated).
    """
    if len(cases) != len(answers):
        raise ValueError(f"{len(cases)} prompts but {len(answers)} answers; give one answer each")
    stated, missing = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for case, answer in zip(cases, answers):
        said, unsupported = shop.mentions(answer), shop.unsupported(case.meta(), answer)
        for kind in KINDS:
            stated[kind] += len(said[kind])
            missing[kind] += len(unsupported[kind])
    table = pd.DataFrame({"stated": stated, "missing": missing})
    table.loc["all"] = table.sum()
    table["grounded"] = 1 - table["missing"] / table["stated"].where(table["stated"] > 0)
    return table.drop(columns="missing")


def summary(cases: Sequence[shop.Scenario], verdicts: pd.DataFrame) -> pd.Series:
    """Mean ``gold`` reward, share ``well_formed``, and share of stated numbers ``grounded``."""
    numbers = grounding(cases, verdicts["answer"]).loc["number", "grounded"]
    means = verdicts[["gold", "well_formed"]].mean()
    return pd.concat([means, pd.Series({"grounded": numbers})])
