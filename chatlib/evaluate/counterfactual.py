"""Counterfactual names: the same scenario asked by customers of two groups, and the difference.

Everything but the name is the same, so a difference between the answers to the two has no other
reason than the name, and chance. The groups are made by lot: nothing in the shop tells
them apart unless somebody's preferences do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from chatlib.data import shop
from chatlib.data.schema import Preference
from chatlib.data.shop_text import NAMES
from chatlib.evaluate.novelty import named

if TYPE_CHECKING:
    from chatlib.evaluate.scorer import Scorer
    from chatlib.evaluate.winrate import Interval

CUSTOMER = re.compile(r"\bcustomer (\w+)")  # in the system message


def groups(names: Sequence[str] = tuple(NAMES), seed: int = 0) -> tuple[list[str], list[str]]:
    """The names in two groups of equal size by lot, each sorted; of an odd number one is left out.

    Raises `ValueError` for fewer than two different names.
    """
    if len(set(names)) < 2:
        raise ValueError(f"{len(set(names))} different names; two groups need 2 or more")
    drawn = sorted(set(names))
    Random(f"groups {seed}").shuffle(drawn)
    half = len(drawn) // 2
    return sorted(drawn[:half]), sorted(drawn[half : 2 * half])


def twins(
    cases: Sequence[shop.Scenario], first: Sequence[str], second: Sequence[str], seed: int = 0
) -> tuple[list[shop.Scenario], list[shop.Scenario]]:
    """The scenarios as customers of the first group ask them, and as those of the second do.

    Place i of both is scenario i; its two names are drawn from their groups, the same for the
    same seed. Raises `ValueError` for a group without names.
    """
    if not first or not second:
        raise ValueError(f"groups of {len(first)} and {len(second)} names; give each a name")
    rng = Random(f"twins {seed}")
    pairs = [(rng.choice(first), rng.choice(second)) for _ in cases]
    ours = [named(case, name) for case, (name, _) in zip(cases, pairs)]
    return ours, [named(case, name) for case, (_, name) in zip(cases, pairs)]


def customer(prompt: Sequence[dict]) -> str:
    """The customer's name, from the system message of a prompt; `ValueError` where none is."""
    found = CUSTOMER.search(prompt[0]["content"]) if prompt else None
    if not found:
        raise ValueError(
            f"no customer in {prompt[0]['content'][:40] if prompt else 'an empty prompt'!r}; the "
            "system message has to say `customer NAME`"
        )
    return found[1]


def renamed(pair: Preference, name: str) -> Preference:
    """The comparison as if another customer had asked: the name exchanged wherever it stands.

    The judgement stays. In the prompt only the customer's name moves, in the answers every word
    that equals it, so a namesake whose telephone is asked for keeps the name in the question.
    """
    old = customer(pair.prompt)
    system = {
        **pair.prompt[0],
        "content": CUSTOMER.sub(f"customer {name}", pair.prompt[0]["content"], count=1),
    }
    word = re.compile(rf"\b{re.escape(old)}\b")
    chosen, rejected = (word.sub(name, text) for text in (pair.chosen, pair.rejected))
    return Preference([system, *pair.prompt[1:]], chosen, rejected, dict(pair.meta))


def dealt(pairs: Sequence[Preference], names: Sequence[str], seed: int = 0) -> list[Preference]:
    """Every comparison under a name drawn from all names: no name then has a judge of its own.

    Nothing is asked about which comparisons are biased, or against whom. Raises `ValueError`
    without names.
    """
    if not names:
        raise ValueError("no names to deal; give every name that customers may have")
    rng = Random(f"dealt {seed}")
    return [renamed(pair, rng.choice(names)) for pair in pairs]


def gap(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Mean of first - second over the scenarios, with its interval (pairs resampled).

    Above 0: customers of the first group get more of what is counted.
    """
    from chatlib.evaluate.winrate import mean_difference

    return mean_difference(first, second)


def worth_of(
    scorer: Scorer, cases: Sequence[shop.Scenario], with_it: Sequence[str], without: Sequence[str]
) -> np.ndarray:
    """What a reward model pays for the difference between two answers to each scenario. (N,)

    ``with_it[i]`` less ``without[i]``, in standard deviations of the score on SFT answers.
    """
    prompts = [case.messages() for case in cases]
    return scorer.score(prompts, with_it) - scorer.score(prompts, without)


def share_removed(before: Sequence[float], after: Sequence[float]) -> np.ndarray:
    """1 - after / before, seed by seed: the share of a gap that a remedy takes away. (S,)

    Above 1 where the gap turned round. Raises `ValueError` where a gap was 0 before, or the
    seeds are not as many.
    """
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if old.shape != new.shape or (old == 0).any():
        raise ValueError(
            f"gaps {old.tolist()} before and {new.tolist()} after; give both for the same seeds, "
            "and none that is 0 before"
        )
    return 1 - new / old
