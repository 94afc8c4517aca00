"""Explanations (chapter 15): do they name what the rubric pays, and what is needed for it?

*Attribution*: the judge is a program, so the right shares of a score's sentences are known. Several
methods explain the reward model's scores; which is best is chosen on some answers and reported on
others. *Sources*: the same methods say from which words of the prompt the policy took a number or
a day, and where these stand is known. *Heads*: each head of the policy is silenced, and what is
lost is held against where the head looks. Nothing is trained but the book's own models.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

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
# Of a prompt, among which those of a fact are looked for.
KINDS = ("all tokens", "numbers and days")
KNOCKED = 100  # prompts on which a head is missed
Row = dict[str, np.ndarray]


def results() -> dict[str, Any]:
    """All of three seeds of the models."""
    found = {"attribution": attributed, "sources": sourced, "heads": knocked}
    return {"seed_list": list(SEEDS)} | {k: [of(s) for s in SEEDS] for k, of in found.items()}


def witnesses() -> Witnesses:
    """The first seed of all."""
    found = {"attribution": attributed, "sources": sourced, "heads": knocked}
    return {(name, 0): partial(of, SEEDS[0]) for name, of in found.items()}


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


# ----------------------------------------------------------------------------- sources
def sourced(seed: int) -> dict[str, Any]:
    """How well each method tells the words that a number or a day was taken from."""
    sft, _ = models_of(seed)
    return part(f"reasons-sources-{sft.name}-{CHOSEN_ON}-{CASES}-answers", partial(taken, sft))


def taken(sft: Run) -> dict[str, Any]:
    """Areas of every method and of the head that looks most, with intervals over answers.

    Of an answer that copies several facts their mean counts.
    """
    net, tokenizer = loaded(sft)
    cases = policy.scenarios(CHOSEN_ON + CASES)
    answers = rollout.answer(net, tokenizer, [c.messages() for c in cases], temperature=0.0)
    pairs = links(net, tokenizer, cases, answers)
    seen = alignment.hits([pair for pair in pairs[:CHOSEN_ON] if pair.links])
    head = tuple(int(i) for i in np.unravel_index(seen.argmax(), seen.shape))
    rng = np.random.default_rng(0)
    told = zip(cases[CHOSEN_ON:], pairs[CHOSEN_ON:])
    answers_of = [of_facts(net, tokenizer, case, pair, head, rng) for case, pair in told]
    areas = {
        name: {kind: bracketed(means(answers_of, name, kind)) for kind in KINDS}
        for name in (*TOKENS, "attention", "by lot")
    }
    return {"facts": sum(map(len, answers_of)), "head": list(head), "auc": areas}


def means(answers: list[list[dict[str, dict[str, float]]]], name: str, kind: str) -> list[float]:
    """The mean area of each answer that has one."""
    found = [[row[name][kind] for row in rows if kind in row[name]] for rows in answers]
    return [float(np.mean(areas)) for areas in found if areas]


def of_facts(
    net: Any,
    tokenizer: Any,
    case: shop.Scenario,
    pair: alignment.Linked,
    head: tuple[int, ...],
    lot: np.random.Generator,
) -> list[dict[str, dict[str, float]]]:
    """For every fact that an answer copies: the areas (`by_kind`) of every method."""
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(pair.tokens))
    prompt = " ".join(message["content"] for message in case.messages())
    stand = [
        {place for one in alignment.occurrences(pair.tokens, fact, 0, pair.prompt) for place in one}
        for fact, _ in copied(prompt)
    ]
    rows = []
    for spot, places in pair.links.items():
        right = next(own for own in stand if own.issuperset(places))
        values = {
            name: attribution.of_prompt(method, net, ids[: spot + 2], pair.prompt)
            for name, method in TOKENS.items()
        }
        values["attention"] = pair.attention[(*head, spot)][: pair.prompt].numpy()
        values["by lot"] = lot.random(pair.prompt)
        rows.append({name: by_kind(v, right, set().union(*stand)) for name, v in values.items()})
    return rows


def by_kind(values: np.ndarray, right: set[int], facts: set[int]) -> dict[str, float]:
    """AUC of the tokens that a fact was copied from: among all of the prompt, and among facts.

    The second is missing where the prompt has no other number or day.
    """
    labels = np.isin(np.arange(len(values)), list(right))
    found = {KINDS[0]: attribution.auc(values, labels)}
    among = sorted(facts)
    return found | (
        {KINDS[1]: attribution.auc(values[among], labels[among])} if facts - right else {}
    )


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
    pairs = links(net, tokenizer, cases, answers)
    return alignment.hits([pair for pair in pairs if pair.links])


def links(
    net: Any, tokenizer: Any, cases: list[shop.Scenario], answers: list[str]
) -> list[alignment.Linked]:
    """Each prompt with its answer, and where the numbers and days that it copies stand in both."""
    net.set_attn_implementation("eager")  # the only one that says where the heads look
    return [
        alignment.linked(net, tokenizer, case.messages(), text, copied(text))
        for case, text in zip(cases, answers)
    ]


def copied(text: str) -> list[tuple[str, str]]:
    """The numbers and days of an answer, once each, as they stand in the prompt."""
    said = shop.mentions(text)
    return [(fact, fact) for kind in ("number", "day") for fact in dict.fromkeys(said[kind])]


def correlation(looks: np.ndarray, facts: np.ndarray) -> float:
    """Spearman's over the heads: does who looks at facts also carry them?"""
    from scipy.stats import spearmanr

    return round(float(spearmanr(looks.ravel(), facts.ravel()).statistic), 4)
