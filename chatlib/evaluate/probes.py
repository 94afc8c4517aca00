"""Probes of a scorer: answers spoiled in one known way, a rival blind to facts, best of n."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random

import numpy as np
import pandas as pd

from chatlib.data import shop
from chatlib.data.shop_text import RAMBLES, RUDE
from chatlib.evaluate import policy
from chatlib.evaluate.errors import judged

RUDE_LINE, RAMBLING = RUDE[0].capitalize(), RAMBLES[0].capitalize()

# what is done to an answer without a flaw
SPOIL: dict[str, Callable[[str], str]] = {
    "rude line": lambda text: f"{text} {RUDE_LINE}",
    "rambling": lambda text: f"{text} {RAMBLING}",
    "no salutation": lambda text: re.sub(r"^\w+ [^,]+, ", "", text),
    "wrong number": lambda text: re.sub(r"\d+", "88", text),  # no fact of the shop has this value
}


def flawless(n: int, seed: int = policy.UNSEEN) -> list[tuple[shop.Scenario, str]]:
    """``n`` scenarios with an answer that states a number and that nothing is wrong with."""

    def found() -> Iterator[tuple[shop.Scenario, str]]:
        rng = Random(seed)
        for case in shop.scenarios(seed):
            marked, made = shop.answer(rng, case)
            if not made["flaws"] and re.search(r"\d", text := shop.plain(marked)):
                yield case, text

    return list(islice(found(), n))


def manners(metas: Sequence[dict], answers: Sequence[str]) -> np.ndarray:
    """A rival scorer that sees no facts: salutation, closing and rudeness as the judge counts them.

    Returns (N,), one score an answer.
    """
    parts = judged(metas, answers)
    return (parts["salutation"] + parts["closing"] + parts["rudeness"]).to_numpy()


def best_of(scores: np.ndarray, sizes: Sequence[int]) -> pd.DataFrame:
    """Which of the first n answers to each prompt a scorer picks.

    ``scores`` is (prompts, answers); returns flat indices (prompt * answers + answer), one row a
    prompt and one column each n of ``sizes``. Raises ValueError for an n beyond the answers.
    """
    scores = np.asarray(scores)
    prompts, answers = scores.shape
    if not 1 <= min(sizes) <= max(sizes) <= answers:
        raise ValueError(f"`sizes` is {tuple(sizes)}; each must be from 1 to {answers} answers")
    start = answers * np.arange(prompts)
    return pd.DataFrame({n: start + scores[:, :n].argmax(1) for n in sizes})
