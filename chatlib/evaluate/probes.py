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

_FIRST_NUMBER = re.compile(r"(\w+) (\d+)")
RUDE_LINE, RAMBLING = RUDE[0].capitalize(), RAMBLES[0].capitalize()


def before_last(text: str, line: str) -> str:
    """The text with a line before its last sentence: where the shop's colleagues ramble."""
    *start, end = shop.sentences(text)
    return " ".join([*start, line, end])


# what takes manners from an answer without a flaw
SPOIL: dict[str, Callable[[str], str]] = {
    "no salutation": lambda text: re.sub(r"^\w+ [^,]+, ", "", text),
    "rude line": lambda text: before_last(text, RUDE_LINE),
    "no closing": lambda text: " ".join(shop.sentences(text)[:-1]),
    "rambling": lambda text: before_last(text, RAMBLING),
}


def wrong_numbers(cases: Sequence[tuple[shop.Scenario, str]], seed: int = 0) -> list[str]:
    """Each answer with its first number exchanged for another answer's at the same place.

    The same place: after the same word, in an answer to the same intent. Such a number is wrong,
    but only the prompt tells: a number drawn at random is often no opening hour and no price at
    all. Raises ValueError where no other answer has another number there.
    """
    found = [_FIRST_NUMBER.search(text) for _, text in cases]
    places = [(case.intent, m[1]) if m else None for (case, _), m in zip(cases, found)]
    there: dict[tuple[str, str] | None, list[str]] = {}
    for place, m in zip(places, found):
        there.setdefault(place, []).append(m[2] if m else "")
    rng, texts = Random(f"wrong {seed}"), []
    for (_, text), place, m in zip(cases, places, found):
        others = [v for v in there[place] if m and v != m[2]]
        if not m or not others:
            raise ValueError(f"no other number to put into {text!r}; give more answers like it")
        texts.append(f"{text[: m.start(2)]}{rng.choice(others)}{text[m.end(2) :]}")
    return texts


def spoiled(cases: Sequence[tuple[shop.Scenario, str]], seed: int = 0) -> dict[str, list[str]]:
    """The answers spoiled one way at a time: as in `SPOIL`, and by `wrong_numbers`."""
    texts = {name: [change(text) for _, text in cases] for name, change in SPOIL.items()}
    return texts | {"wrong number": wrong_numbers(cases, seed)}


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
