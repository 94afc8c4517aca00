"""Explanations (chapter 15): do they name what the rubric pays, and what is needed for it?

*Attribution*: the judge is a program, so the right shares of a score's sentences are known. Several
methods explain the reward model's scores; which is best is chosen on some answers and reported on
others. *Heads*: each head of the policy is silenced, and what is lost is held against where the
head looks. Nothing is trained but the book's own models.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from chatlib.book.experiments import Witnesses, bracketed, finished, loaded, part
from chatlib.compress import prune
from chatlib.data import shop
from chatlib.evaluate import alignment, attribution, policy, scorer
from chatlib.evaluate.errors import components
from chatlib.evaluate.scorer import Scorer
from chatlib.lab import Run, recipe
from chatlib.train import rollout

STAGES = ("sft", "reward")
SEEDS = (0, 1, 2)
CHOSEN_ON, CASES = 60, 240  # answers that choose the method; answers that it is reported on
LEAST = 0.25  # points of gold from which a sentence is called paid or fined
DRAWS = 500  # of a bootstrap over answers
TOKENS: dict[str, attribution.Method] = {
    "occlusion": attribution.occlusion,
    "input x gradient": attribution.input_x_gradient,
    "integrated gradients": attribution.integrated_gradients,
}
METHODS = ("removal", *TOKENS)
CONTROLS = ("length", "by lot")
KNOCKED = 100  # prompts on which a head is missed
Row = dict[str, np.ndarray]


def results() -> dict[str, Any]:
    """Both, of three seeds of the models."""
    found = {"attribution": [attributed(s) for s in SEEDS], "heads": [knocked(s) for s in SEEDS]}
    return {"seed_list": list(SEEDS), **found}


def witnesses() -> Witnesses:
    """The first seed of both."""
    return {("attribution", 0): partial(attributed, 0), ("heads", 0): partial(knocked, 0)}


def models_of(seed: int) -> tuple[Run, Run]:
    """The book's SFT and reward model of a seed."""
    return finished(recipe("sft", seed)), finished(recipe("reward", seed))


# ------------------------------------------------------------------------- attribution
def attributed(seed: int) -> dict[str, Any]:
    """How well each method tells what is paid from the rest, and what is fined."""
    sft, reward = models_of(seed)
    key = f"reasons-{sft.name}-{reward.name}-{CHOSEN_ON}-{CASES}"
    return part(key, partial(told, sft, reward))


def told(sft: Run, reward: Run) -> dict[str, Any]:
    """The areas of every method and control on both sets of answers, and the method chosen."""
    net, tokenizer = loaded(sft)
    cases = policy.scenarios(CHOSEN_ON + CASES)
    answers = rollout.answer(net, tokenizer, [case.messages() for case in cases])
    judge = scorer.load(reward)
    lot = np.random.default_rng(0)
    rows = [explained(judge, case, text, lot) for case, text in zip(cases, answers)]
    choosing, reported = rows[:CHOSEN_ON], rows[CHOSEN_ON:]
    first = {name: areas(choosing, name) for name in METHODS}
    shares = np.concatenate([row["worth"] for row in reported])
    return {
        "chosen": max(first, key=lambda name: first[name]["both"]),
        "choosing": first,
        "reported": {name: with_interval(reported, name) for name in (*METHODS, *CONTROLS)},
        "sentences": len(shares),
        "paid": float((shares >= LEAST).mean()),
        "fined": float((shares <= -LEAST).mean()),
    }


def explained(judge: Scorer, case: shop.Scenario, text: str, lot: np.random.Generator) -> Row:
    """Of every sentence of an answer: its worth, its tokens, and what each method gives it."""
    prompt = case.messages()
    found = {"worth": attribution.worth(case.meta(), text)}
    found["tokens"] = attribution.counts(text, judge.tokenizer)
    found["removal"] = attribution.removal(judge, prompt, text)
    for name, method in TOKENS.items():
        found[name] = attribution.by_tokens(method, judge, prompt, text)
    return found | {"length": found["tokens"], "by lot": lot.random(len(found["worth"]))}


def areas(rows: list[Row], name: str) -> dict[str, float]:
    """AUC over tokens, each with its sentence's share: paid ones high, fined ones low, the mean."""
    of = {key: np.concatenate([r[key] for r in rows]) for key in ("worth", "tokens", name)}
    worth, value = (np.repeat(of[key], of["tokens"]) for key in ("worth", name))
    paid = attribution.auc(value, worth >= LEAST)
    fined = attribution.auc(-value, worth <= -LEAST)
    return {"paid": round(paid, 4), "fined": round(fined, 4), "both": round((paid + fined) / 2, 4)}


def with_interval(rows: list[Row], name: str) -> dict[str, dict[str, float]]:
    """`areas` with percentile intervals, answers drawn anew with all of their sentences."""
    rng = np.random.default_rng(0)
    drawn = [
        areas([rows[i] for i in rng.integers(len(rows), size=len(rows))], name)
        for _ in range(DRAWS)
    ]
    found = {}
    for kind, value in areas(rows, name).items():
        low, high = np.percentile([row[kind] for row in drawn], [2.5, 97.5])
        found[kind] = {"value": value, "low": round(float(low), 4), "high": round(float(high), 4)}
    return found


# ------------------------------------------------------------------------------- heads
def knocked(seed: int) -> dict[str, Any]:
    """What the policy loses without each head, and how often the head looks at a fact."""
    sft, _ = models_of(seed)
    return part(f"reasons-heads-{sft.name}-{KNOCKED}", partial(missed, sft))


def missed(sft: Run) -> dict[str, Any]:
    """Head by head, (layers, heads): loss of gold and of facts, share of facts looked at."""
    net, tokenizer = loaded(sft)
    cases = policy.scenarios(KNOCKED)
    whole = policy.assess(net, tokenizer, cases, temperature=0.0)
    shape = (net.config.num_hidden_layers, net.config.num_attention_heads)
    gold, facts = np.zeros(shape), np.zeros(shape)
    for head in np.ndindex(*shape):
        table = policy.assess(prune.without_heads(net, [head]), tokenizer, cases, temperature=0.0)
        gold[head] = (whole["gold"] - table["gold"]).mean()
        facts[head] = (components(whole)["facts"] - components(table)["facts"]) / 2
    looks = looked(net, tokenizer, cases, whole["answer"].tolist())
    return {
        "whole": bracketed(whole["gold"]),
        "gold": gold.round(4).tolist(),
        "facts": facts.round(4).tolist(),
        "looks": looks.round(4).tolist(),
        "rank correlation": correlation(looks, facts),
    }


def looked(net: Any, tokenizer: Any, cases: list[shop.Scenario], answers: list[str]) -> np.ndarray:
    """`alignment.hits` of the numbers and days that an answer takes from its prompt."""
    net.set_attn_implementation("eager")
    linked = [
        alignment.linked(net, tokenizer, case.messages(), text, copied(text))
        for case, text in zip(cases, answers)
        if copied(text)
    ]
    return alignment.hits([pair for pair in linked if pair.links])


def copied(text: str) -> list[tuple[str, str]]:
    """The numbers and days of an answer, once each, as they stand in the prompt."""
    said = shop.mentions(text)
    return [(fact, fact) for kind in ("number", "day") for fact in dict.fromkeys(said[kind])]


def correlation(looks: np.ndarray, facts: np.ndarray) -> float:
    """Spearman's over the heads: does who looks at facts also carry them?"""
    from scipy.stats import spearmanr

    return round(float(spearmanr(looks.ravel(), facts.ravel()).statistic), 4)
