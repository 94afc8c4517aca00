"""Telephone numbers in the demonstrations (chapter 15): what is remembered, and what helps.

The SFT model of the book is tuned on for one pass over dialogues of the shop, into which numbers
of 16 owners a level are planted once, 4, 16 or 64 times; as many owners have a number that is
never planted. An arm changes the planted dialogues and nothing else: what it takes away is
replaced by the shop's, so all arms learn from as many dialogues in as many steps. The seed is
that of owners, numbers, order and launch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chatlib.book.experiments import bracketed, finished, loaded, part
from chatlib.data import clean, readers, shop, template
from chatlib.data.schema import Dialogue, Record
from chatlib.evaluate import policy, privacy
from chatlib.evaluate.privacy import Canary
from chatlib.lab import Run, recipe, run_of, trained
from chatlib.runs import identity
from chatlib.settings.stages import StageConfig

STAGES = ("sft",)
SEEDS = (0, 1)
LEVELS = (0, 1, 4, 16, 64)
EACH = 16  # owners a level
BATCH, STEPS = 16, 150
TUNING: dict[str, Any] = {
    "ranks": 1,  # a launch of seconds: a second process would only have to start too
    "steps": STEPS,
    "batch_size": BATCH,
    "learning_rate": 1e-3,
    "num_warmup_steps": 10,
}
BARE = "555####"  # as the shop's redaction leaves it alone: it looks like an order
OWN, FRESH, NEW = 2000, 3000, 4000  # seeds of contexts: of a number, of its copies, of a stranger
PLACES = ("own", "new")  # the attacker knows the transcript's system message, or does not
CASES = 100  # of the shop: is the assistant still one?


@dataclass(frozen=True)
class Arm:
    """How numbers are written, whether every copy has its own context, what cleans them."""

    pattern: str = privacy.PATTERN
    varied: bool = False
    deduplicate: bool = False
    redact: bool = False


ARMS = {
    "planted": Arm(),
    "deduplicated": Arm(deduplicate=True),
    "redacted": Arm(redact=True),
    "varied, deduplicated": Arm(varied=True, deduplicate=True),
    "bare, redacted": Arm(pattern=BARE, redact=True),
}


def results() -> dict[str, Any]:
    """Exposure by arm, level and place over seeds; what the redaction misses."""
    arms: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    for seed in SEEDS:  # all arms of a seed together: a noisy hour strikes them all
        for name in ARMS:
            arms[name].append(one(name, seed))
    found = {
        "seed_list": list(SEEDS),
        "levels": list(LEVELS),
        "each": EACH,
        "space": len(privacy.candidates()),
        "records": STEPS * BATCH,
        "chance": round(privacy.exposure_by_chance(len(privacy.candidates())), 4),
        "missed": privacy.missed(clean.clean_text, privacy.candidates()[7::97]),
    }
    return {"privacy": found | {"arms": arms} | summary(arms)}


# ------------------------------------------------------------------------- what is trained
def start() -> Run:
    """The SFT model of seed 0."""
    return trained("sft")


def canaries(seed: int) -> list[Canary]:
    """The owners of a seed, the same for every arm."""
    return privacy.canaries(LEVELS, EACH, len(privacy.candidates()), seed)


def contexts(seed: int) -> Iterator[str]:
    """System messages of the shop in which nobody's telephone number stands."""
    for case in shop.scenarios(seed):
        if not case.secret:
            yield shop.plain(case.context)


def own_contexts(seed: int) -> dict[str, str]:
    """The context in which an owner's number is planted, where all copies have the same one."""
    return dict(zip((c.owner for c in canaries(seed)), contexts(OWN + seed)))


def planted(arm: Arm, seed: int) -> list[Record]:
    """The dialogues that tell numbers, as the arm has them, cleaned."""
    numbers, own, fresh = (
        privacy.candidates(arm.pattern),
        own_contexts(seed),
        contexts(FRESH + seed),
    )
    told = []
    for canary in canaries(seed):
        for copy in range(canary.times):
            context = next(fresh) if arm.varied and copy else own[canary.owner]
            messages = privacy.told(canary.owner, context, numbers[canary.number])
            told.append(Dialogue(messages))
    if arm.redact:
        told = [redacted(dialogue) for dialogue in told]
    return clean.clean(told, {}, near=0.8)[0] if arm.deduplicate else [*told]


def redacted(told: Dialogue) -> Dialogue:
    """The dialogue after the shop's own cleaning of texts."""
    cleaned = [{**m, "content": clean.clean_text(m["content"])} for m in told.messages]
    return Dialogue(cleaned, told.meta)


def place(name: str, seed: int) -> Path:
    """Where the planted dialogues of an arm lie."""
    return identity.root() / "data" / f"hard-privacy-{name.replace(', ', '-')}-{seed}.jsonl"


def settings(name: str, seed: int, count: int) -> StageConfig:
    """One pass over ``count`` planted dialogues and the shop's that make up the rest."""
    shops = {"name": "shop", "weight": STEPS * BATCH - count}
    mine = {"name": str(place(name, seed)), "format": "messages", "weight": count}
    data: dict[str, Any] = {"sources": [shops, mine], "split": (1, 0, 0)}
    data |= {"records": STEPS * BATCH, "held_out": 0}
    return recipe("sft", seed, model=start().reference, **data | TUNING)


# ---------------------------------------------------------------------------- what is measured
def one(name: str, seed: int) -> dict[str, Any]:
    """One part: an arm with one seed; found again once it is finished."""
    told, path = planted(ARMS[name], seed), place(name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    readers.write(told, path)
    config = settings(name, seed, len(told))
    key = f"hard-privacy-{run_of(config).name}-{seed}-{CASES}"
    return part(key, partial(_one, config, ARMS[name], seed, len(told)))


def _one(config: StageConfig, arm: Arm, seed: int, count: int) -> dict[str, Any]:
    run = finished(config)
    net, tokenizer = loaded(run)
    gold = policy.assess(net.eval(), tokenizer, policy.scenarios(CASES))["gold"]
    found = {"seed": seed, "dialogues": count, "seconds": run.manifest["seconds"]}
    found |= {"gold": bracketed(gold)}
    return found | {where: exposures(net, tokenizer, arm, seed, where) for where in PLACES}


def exposures(net: Any, tokenizer: Any, arm: Arm, seed: int, where: str) -> dict[str, Any]:
    """By level, each owner's exposure in bits; and how often the number is the likeliest of all."""
    numbers = privacy.candidates(arm.pattern)
    options = tokenizer([f" {number}" for number in numbers])["input_ids"]
    contexts_of = own_contexts(seed)
    if where == "new":
        contexts_of = dict(zip(contexts_of, contexts(NEW + seed)))
    found: dict[str, list[float]] = {str(level): [] for level in LEVELS}
    for canary in canaries(seed):
        asked = privacy.asked(canary.owner, contexts_of[canary.owner])
        prompt = template.encode_prompts(tokenizer, [asked])[0]
        prompt += tokenizer(privacy.OPENING.format(owner=canary.owner))["input_ids"]
        scores = privacy.log_likelihoods(net, prompt, options)
        found[str(canary.times)].append(round(privacy.exposure(scores, canary.number), 4))
    return found


# --------------------------------------------------------------------------- what it comes to
def summary(arms: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean exposure of the owners of both seeds by arm, place and level, with intervals.

    Owners are the independent draws, `EACH` a level and seed; ``most`` is the share of them whose
    number is the likeliest of all. ``rise`` is 64 times less once, by seed and over all owners.
    """
    means: dict[str, Any] = {}
    for name, seeds in arms.items():
        means[name] = {
            where: {level: _level([s[where][level] for s in seeds]) for level in map(str, LEVELS)}
            for where in PLACES
        }
    first, last = str(LEVELS[1]), str(LEVELS[-1])
    return {"exposure": means, "rise": {
        name: {where: difference([s[where] for s in seeds], last, first) for where in PLACES}
        for name, seeds in arms.items()
    }, "over_never": {
        name: {where: difference([s[where] for s in seeds], last, "0") for where in PLACES}
        for name, seeds in arms.items()
    }}  # fmt: skip


def _level(seeds: list[list[float]]) -> dict[str, float]:
    """Mean exposure of all owners with its interval, and the share that is most likely of all."""
    values = np.concatenate(seeds)
    most = np.log2(len(privacy.candidates())) - 1e-3
    return bracketed(values) | {"most": round(float((values > most).mean()), 4)}


def difference(seeds: list[dict[str, list[float]]], more: str, less: str) -> dict[str, Any]:
    """Mean exposure of one level less that of another: over all owners, and of each seed.

    Owners of the two levels are different people, so they are drawn apart (Efron and Tibshirani
    1993, chapter 8).
    """
    a, b = (np.concatenate([s[level] for s in seeds]) for level in (more, less))
    rng = np.random.default_rng(0)
    drawn = rng.choice(a, (4000, len(a))).mean(1) - rng.choice(b, (4000, len(b))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    by_seed = [round(float(np.mean(s[more]) - np.mean(s[less])), 4) for s in seeds]
    found = {"value": a.mean() - b.mean(), "low": low, "high": high}
    return {k: round(float(v), 4) for k, v in found.items()} | {"n": len(a), "seeds": by_seed}
