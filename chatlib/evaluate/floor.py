"""How low a loss can get: the exact probability of an answer under the shop's own process.

A demonstration is drawn: first a quality, then which decisions go wrong, then the words. That
process is known (`chatlib.data.shop`), so the probability of any answer to a scenario is a sum
over the ways to make it. Its mean logarithm is minus the entropy of the answers, below which no
model's cross-entropy can stay on dialogues that it has not seen.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from chatlib.data import shop
from chatlib.data.shop_text import (
    ADJECTIVES,
    ANSWERS,
    CLOSINGS,
    DAYS,
    NOUNS,
    RAMBLES,
    REFUSALS,
    RUDE,
    SALUTATIONS,
    STATUSES,
)
from chatlib.evaluate.winrate import Interval

if TYPE_CHECKING:
    from chatlib.data.template import Encoded

Ways = list[tuple[float, tuple[str, ...]]]  # (probability, sentences) of one decision

PRODUCTS = [
    f"{adjective} {noun}"
    for a, adjective in enumerate(ADJECTIVES)
    for n, noun in enumerate(NOUNS)
    if (a + 3 * n) % 7
]
VALUES = {"product": PRODUCTS, "status": STATUSES, "day": DAYS, "order": list(map(str, shop.CODES))}
OTHERS = list(map(str, range(2, 100)))  # what a wrong number of any other slot may be
_PRODUCT = re.compile(rf"\b({'|'.join(ADJECTIVES)}) ({'|'.join(NOUNS)})\b")


def answer_log_probability(case: shop.Scenario, text: str) -> float:
    """log P(text | case) in nats; -inf for what the shop's people never write.

    A sum over the qualities and over all ways to put the text together. A text that breaks off is
    summed over everything that it may have been cut from. Of a finished text it is left out that it
    may be a longer one cut between two sentences: less than 0.006 of its probability.
    """
    total = 0.0
    for column, share in enumerate(shop.QUALITIES.values()):
        odds = {flaw: rates[column] for flaw, rates in shop.FLAWS.items()}
        for p, whole in _wholes(case, odds, text):
            gaps = _gaps(whole)
            cuts = gaps[len(gaps) // 2 :] if len(gaps) > 3 else []
            if whole == text:
                total += share * p * (1 - odds["cut_off"] * bool(cuts))
            elif len(text) in cuts:
                total += share * p * odds["cut_off"] / len(cuts)
    return math.log(total) if total else -math.inf


def per_token(
    nats: Sequence[float] | np.ndarray,
    tokens: Sequence[int] | np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean nats a token of N answers, with the middle 95 % of its bootstrap (Efron 1979).

    ``nats`` and ``tokens`` are (N,), one entry an answer. Whole answers are drawn again: the ratio
    of two sums is not the mean of the ratios, and the tokens of an answer are not independent.
    """
    x, n = np.asarray(nats, dtype=float), np.asarray(tokens, dtype=float)
    rows = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    low, high = np.percentile(x[rows].sum(1) / n[rows].sum(1), (2.5, 97.5))
    return Interval(float(x.sum() / n.sum()), float(low), float(high), len(x))


def answer_nats(
    model: Any, examples: Sequence[Encoded], pad: int, batch_size: int = 64
) -> np.ndarray:
    """-log of a model's probability of each example's answer, in nats: (N,).

    ``examples`` come from `chatlib.data.template.encode`; ``model`` maps ``input_ids`` (B, T) to an
    object with ``logits``. The end token is a part of the answer.
    """
    import torch

    from chatlib.data import collate
    from chatlib.maths.likelihood import masked_sum, shift, token_log_probs

    out: list[float] = []
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        ids, _ = collate.pad([e.ids for e in batch], pad)
        mask, _ = collate.pad([e.mask for e in batch], 0)
        inputs, labels, marked = shift(ids.to(model.device), mask.to(model.device))
        with torch.inference_mode():
            logp = token_log_probs(model(input_ids=inputs).logits, labels)
        out += (-masked_sum(logp, marked, 1)).tolist()
    return np.asarray(out)


# ------------------------------------------------------------------- the ways to make an answer
def _wholes(case: shop.Scenario, odds: dict[str, float], text: str) -> Iterator[tuple[float, str]]:
    """(probability, answer) of the uncut answers that are ``text``, or that it may be cut from."""
    rude, rambling, closing = odds["rude"], odds["rambling"], 1 - odds["no_closing"]
    fronts = _one_of(RUDE, rude / 2)
    backs = [(1 - rude / (2 - rude), ()), *_one_of(RUDE, rude / (2 - rude))[1:]]
    rambles = _one_of(RAMBLES, rambling / 2)
    pairs = list(permutations(map(shop.plain, RAMBLES), 2))
    rambles = [(1 - rambling, ()), *rambles[1:], *((rambling / 2 / len(pairs), p) for p in pairs)]
    closings = _one_of(CLOSINGS, closing)
    openings = _openings(case, odds, text)
    for front in fronts:
        states = _grown([(1.0, ())], [front], text)
        states = _grown(states, openings, text)
        states = states if front[1] else _grown(states, backs, text)
        states = _grown(states, rambles, text)
        states = [
            (p * q, s + again)
            for p, s in states
            for q, again in ((1 - odds["repeats"], ()), (odds["repeats"], s[-1:]))
            if _fits(" ".join(s + again), text)
        ]
        yield from ((p, " ".join(s)) for p, s in _grown(states, closings, text))


def _one_of(lines: Sequence[str], p: float) -> Ways:
    """Nothing, or with probability p one of the lines, each as likely."""
    return [(1 - p, ()), *((p / len(lines), (shop.plain(line),)) for line in lines)]


def _grown(states: Ways, options: Ways, text: str) -> Ways:
    """Every state with every option appended, as long as it still agrees with the text."""
    longer = [
        (p * q, s + tuple(line[0].upper() + line[1:] for line in option))
        for p, s in states
        for q, option in options
    ]
    return [(p, s) for p, s in longer if _fits(" ".join(s), text)]


def _fits(begun: str, text: str) -> bool:
    """Whether an answer that begins so can be the text, or the text one that breaks off in it."""
    if not begun or begun == text or text.startswith(f"{begun} "):
        return True
    return not _finished(text) and begun.startswith(f"{text} ")


def _finished(text: str) -> bool:
    return text.endswith((".", "!", "?"))


def _openings(case: shop.Scenario, odds: dict[str, float], text: str) -> Ways:
    """Salutation, or none, with the sentences that answer the question."""
    greeted = [shop.plain(s).format(name=case.customer) + " " for s in SALUTATIONS]
    salutations = [(p, "".join(s)) for p, s in _one_of(greeted, 1 - odds["no_salutation"])]
    whole = _finished(text)
    cores = ((p, c) for c, p in _cores(case, odds).items() if not whole or c[1:] in text)
    return [(p * q, (s + c,)) for p, c in cores for q, s in salutations]


def _cores(case: shop.Scenario, odds: dict[str, float]) -> dict[str, float]:
    """The sentences that answer the question with their probabilities, which sum to 1."""
    out: dict[str, float] = defaultdict(float)
    left = 1.0
    if case.intent == "private_data" and case.secret:
        out[f"the phone number is {case.secret}."] += odds["leak"]
        left -= odds["leak"]
    if case.intent not in shop.REFUSE:
        for text in map(shop.plain, REFUSALS):
            out[text] += left * odds["wrong_refusal"] / len(REFUSALS)
        left *= 1 - odds["wrong_refusal"]
    for short in (True, False):
        options = [t for kind, t in ANSWERS[case.intent] if (kind == "short") == short]
        p = left * (odds["missing_fact"] if short else 1 - odds["missing_fact"]) / len(options)
        for option in map(shop.plain, options):
            for q, text in _filled(option, case, odds["wrong_fact"]):
                out[text] += p * q
    return out


def _filled(template: str, case: shop.Scenario, wrong: float) -> Iterator[tuple[float, str]]:
    """(probability, text) of an answer's template with its facts, one of them perhaps wrong."""
    facts, keys = case.facts, shop.REQUIRED[case.intent] or ("status",)
    used = [key for key in keys if f"{{{key}}}" in template]
    yield 1 - wrong * len(used) / len(keys), template.format(**facts)
    for key in used:
        values = VALUES.get(key, OTHERS)
        for value in values:
            yield wrong / len(keys) / len(values), template.format(**{**facts, key: value})


def _gaps(whole: str) -> list[int]:
    """Where an answer can be cut: at its spaces, but for the one within a product."""
    return [i for i, c in enumerate(_PRODUCT.sub(r"\1_\2", whole)) if c == " "]
