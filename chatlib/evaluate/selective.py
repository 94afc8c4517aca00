"""Which answers go out and which are handed to a person: a number and a threshold (chapter 16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from chatlib.data.shop import Scenario
    from chatlib.evaluate.scorer import Scorer

OWN, LEARNT = "own log-probability", "reward model"  # the numbers that a threshold may be set on


def served(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    cases: list[Scenario],
    temperature: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """`policy.assess` of a policy's answers, with both numbers of each and whether it is `right`.

    Right is an answer that tells or does all that was asked for, and tells nothing that is not so
    or is private; its manners are not looked at. One row a case.
    """
    from chatlib.evaluate import policy, rulers

    table = policy.assess(model, tokenizer, cases, temperature=temperature, seed=seed)
    asked, said = [case.messages() for case in cases], table["answer"].tolist()
    table[OWN] = rulers.log_likelihood(model, tokenizer, asked, said)
    table[LEARNT] = scorer.score(asked, said)
    table["right"] = table["facts"].eq(2) & table["invented"].eq(0) & table["leak"].eq(0)
    return table


def curve(scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> pd.DataFrame:
    """Threshold by threshold, the surest answer first: `coverage` and the share `right` of it.

    One row for each answer that may be the last to go out; of equal scores the order is the
    given one (Geifman and El-Yaniv 2017, section 2). Raises `ValueError` where the lengths differ.
    """
    score, good = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    if len(score) != len(good) or not len(score):
        raise ValueError(
            f"{len(score)} scores and {len(good)} verdicts; give one of each an answer"
        )
    order = np.argsort(-score, kind="stable")
    out = np.arange(1, len(score) + 1)
    return pd.DataFrame(
        {
            "threshold": score[order],
            "coverage": out / len(score),
            "right": good[order].cumsum() / out,
        }
    )


def in_order(
    values: Sequence[float] | np.ndarray,
    right: Sequence[bool] | np.ndarray,
    group: Sequence[Any] | np.ndarray | None = None,
) -> tuple[float, int]:
    """(pairs in order, pairs): a right answer has a higher number than a wrong one, a tie is half.

    Their quotient is the area under the ROC curve; with ``group`` (a label for each answer) only
    pairs of one group are counted, so that what all numbers of a group have in common drops out.
    """
    of, good = np.asarray(values, dtype=float), np.asarray(right, dtype=bool)
    label = np.zeros(len(of)) if group is None else np.asarray(group)
    won, pairs = 0.0, 0
    for one in np.unique(label):
        x, y = of[(label == one) & good][:, None], of[(label == one) & ~good]
        won += float((x > y).sum() + 0.5 * (x == y).sum())
        pairs += x.size * y.size
    return won, pairs
