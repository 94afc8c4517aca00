"""Two more rulers for answers: how likely a model finds them, and a judge with known biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from chatlib.data.shop import TEMPERATURE


def log_likelihood(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[dict]],
    answers: Sequence[str],
    batch_size: int = 64,
) -> np.ndarray:
    """Mean log-probability of each answer's tokens under a model, in nats a token. (N,)

    The end token counts. exp(-x) is the answer's perplexity.
    """
    import torch

    from chatlib.data import collate, template
    from chatlib.maths.likelihood import token_log_probs

    opened = template.encode_prompts(tokenizer, list(prompts))
    closed = template.encode_answers(tokenizer, list(prompts), list(answers))
    found: list[float] = []
    for start in range(0, len(closed), batch_size):
        pairs = list(zip(opened, closed))[start : start + batch_size]
        ids, valid = collate.pad([p + a for p, a in pairs], tokenizer.pad_token_id)
        told, _ = collate.pad([[0] * len(p) + [1] * len(a) for p, a in pairs], 0)
        ids, valid, told = (x.to(model.device) for x in (ids, valid, told[:, 1:]))
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=valid).logits
        logp = token_log_probs(logits[:, :-1], ids[:, 1:]).double()
        found += ((logp * told).sum(1) / told.sum(1)).tolist()
    return np.asarray(found)


@dataclass(frozen=True)
class BiasedJudge:
    """A stand-in for a language model as judge, whose biases are known because we set them.

    It prefers the answer that is shown first with probability
    sigmoid((gold_1 - gold_2) / temperature + position + length (words_1 - words_2)).
    ``position`` is in log-odds, ``length`` in log-odds a word. Which biases real judges have:
    Zheng et al. 2023.
    """

    position: float = 1.0
    length: float = 0.1
    temperature: float = TEMPERATURE

    def chance(self, gold: ArrayLike, words: ArrayLike) -> np.ndarray:
        """Probability that the first is preferred; ``gold`` and ``words`` are first less second."""
        g, w = np.asarray(gold, dtype=float), np.asarray(words, dtype=float)
        return special.expit(g / self.temperature + self.position + self.length * w)

    def compare(
        self, gold: ArrayLike, words: ArrayLike, first: ArrayLike, seed: int = 0
    ) -> np.ndarray:
        """1 where ours is preferred, else 0; differences are ours less theirs. (N,)

        ``first`` is 1 where ours is shown first, -1 where second.
        """
        sign = np.asarray(first, dtype=float)
        picked_first = np.random.default_rng(seed).random(len(sign)) < self.chance(
            sign * np.asarray(gold, dtype=float), sign * np.asarray(words, dtype=float)
        )
        return np.where(picked_first, sign, -sign).clip(0)


class Bias(NamedTuple):
    """What `biases` finds, in log-odds: of ours all else equal, of being first, of one word."""

    ours: float
    position: float
    length: float


def biases(won: ArrayLike, first: ArrayLike, words: ArrayLike, steps: int = 25) -> Bias:
    """Logistic regression of a judge's verdicts on place and length, by Newton's method.

    ``won`` is 1 where ours was preferred, ``first`` 1 or -1, ``words`` ours less theirs; all (N,).
    ``sigmoid(ours)`` is the win rate at equal length, in no place (Dubois et al. 2024). Raises
    ValueError where the verdicts or the places are all alike.
    """
    y, place = np.asarray(won, dtype=float), np.asarray(first, dtype=float)
    if len(set(y)) < 2 or len(set(place)) < 2:
        raise ValueError("verdicts or places are all alike; show ours first and second")
    x = np.stack([np.ones_like(y), place, np.asarray(words, dtype=float)], axis=1)
    w = np.zeros(3)
    for _ in range(steps):
        p = special.expit(x @ w)
        w = w + np.linalg.solve((x.T * (p * (1 - p))) @ x + 1e-9 * np.eye(3), x.T @ (y - p))
    return Bias(*w.tolist())
