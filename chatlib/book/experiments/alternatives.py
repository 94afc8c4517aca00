"""Every way to align, on one bench (chapter 10): algorithm x seed, from one SFT model.

SFT and reward models are those of seed 0 and the same for all; the seed is the algorithm's: its
prompts, order and sampling. Every method that learns from its own answers draws as many
(`DRAWN` of them); DPO reads the reward model's pairs instead. Rates are those of chapter 5, for
all. Each method that can be is also paid by the judge: what is then still missing is the
optimiser's, the rest was the reward model's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from chatlib.book.experiments import Witnesses, bracketed, loaded, part, rounded
from chatlib.data import shop, template
from chatlib.evaluate import ceiling, policy, scorer, selection, winrate
from chatlib.evaluate.frontier import over_seeds
from chatlib.lab import Run, launch, recipe, run_of, trained
from chatlib.launch.memory import memory
from chatlib.runs import identity
from chatlib.settings.stages import PPOConfig, StageConfig
from chatlib.train import models, ppo, rollout

STAGES = ("sft", "reward", "ppo", "dpo")
SEEDS = (0, 1, 2)
BY_GOLD = (0,)  # seeds of the methods that the judge pays: they tell causes apart, not methods
PAID = ("ppo", "reinforce", "rloo", "grpo", "dr_grpo")  # by a reward, so by the judge as well
LAUNCHED = (*PAID, "distil", "dpo")
VARIANTS: dict[str, dict[str, Any]] = {
    "ipo": {"loss": "ipo"},
    "dpo_per_token": {"per_token": True, "beta": 2.0},
    "dpo_longer": {"steps": 230},  # as many seconds as methods without a critic take
}
SPREAD = 1.6  # standard deviation of gold over answers of the SFT model: beta keeps its meaning
CASES = 300  # scenarios that nobody trained on, the same for all
DRAWS = 48  # answers of the SFT model to each case and seed: for best of n, and for the ceiling
BEST_OF = 16
AGAIN = (60, 8)  # cases, and answers to each: how different are they?
CHOSEN_FROM = 8  # answers to a prompt, of which rejection sampling keeps one
DRAWN = 3520  # answers a method sees: 55 iterations of 64
TUNED: dict[str, Any] = {
    "steps": 160,  # about six passes, at the gentle rate of chapter 7
    "batch_size": 16,
    "learning_rate": 5e-4,
    "num_warmup_steps": 5,
}
KLS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25)  # where there are answers left
CURVES = ("score", "gold", "kl", "entropy", "answer_tokens", "alike")
OF_PAIRS = ("loss", "accuracy", "margin", "chosen_log_ratio", "rejected_log_ratio")


def results() -> dict[str, Any]:
    """All methods by the reward model, then by the judge; the SFT model; the ceilings."""
    begun = part(f"alternatives-start-{start().name}-{CASES}", partial(judged, start()))
    methods = [*LAUNCHED, "rejection", "rejection_control", *VARIANTS]
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in SEEDS:  # all methods of a seed together: a noisy hour strikes them all
        for name in methods:
            rows.setdefault(name, []).append(one(name, seed))
    for name in (*PAID, "rejection"):
        rows[f"{name}_gold"] = [one(name, seed, "gold") for seed in BY_GOLD]
    limits = part(f"alternatives-ceiling-{start().name}-{CASES}-{DRAWS}", limits_of_the_draws)
    named = {name: {"seeds": seeds} for name, seeds in rows.items()}
    given = {"seed_list": list(SEEDS), "cases": CASES, "draws": DRAWS * len(SEEDS)}
    given |= {"drawn": DRAWN, "paid": list(PAID), "start": begun}
    given["launch_seconds"] = launch_seconds()
    return given | named | limits | headline(rows, limits)


def witnesses() -> Witnesses:
    """The first seed of every method that is launched, and one that the judge pays."""
    names = [*LAUNCHED, *VARIANTS, "rejection"]
    found: Witnesses = {(name, "seeds", 0): partial(one, name, SEEDS[0]) for name in names}
    return found | {("rloo_gold", "seeds", 0): partial(one, "rloo", BY_GOLD[0], "gold")}


def launch_seconds() -> float:
    """Seconds of all launches of the bench together, from their manifests."""
    learnt = [settings(name, seed) for name in (*LAUNCHED, *VARIANTS) for seed in SEEDS]
    learnt += [settings(name, seed, "gold") for name in PAID for seed in BY_GOLD]
    learnt += [tuning(n, k, "model") for n in ("rejection", "rejection_control") for k in SEEDS]
    learnt += [tuning("rejection", seed, "gold") for seed in BY_GOLD]
    return round(sum(run_of(config).manifest["seconds"] for config in learnt), 1)


# ------------------------------------------------------------------------------ one method
def settings(name: str, seed: int, by: str = "model") -> StageConfig:
    """A recipe on the models of seed 0. ``by`` gold: the judge pays, and beta is in its unit."""
    if name in VARIANTS:
        return recipe("dpo", seed, model=start().reference, **VARIANTS[name])
    changes: dict[str, Any] = {"model": start().reference}
    if name != "dpo":
        changes["reward_model"] = run_of(recipe("reward")).reference
    if name == "distil":
        changes["reference"] = run_of(settings("ppo", seed)).reference
    if by == "gold":
        whole = {} if name == "grpo" else {"kl_ctl": SPREAD * 0.05}  # grpo divides the unit out
        changes |= {"reward": "gold", **whole}
    return recipe(name, seed, **changes)


def one(name: str, seed: int, by: str = "model") -> dict[str, Any]:
    """The figures of one method and seed; found again once they are there."""
    if name.startswith("rejection"):
        tuned = partial(rejection, name, seed, by)
        return part(f"alternatives-{name}-{by}-{start().name}-{seed}-{CASES}", tuned)
    config = settings(name, seed, by)
    key = f"alternatives-{run_of(config).name}-{CASES}"
    return part(key, partial(_launched, config, seed))


def _launched(config: StageConfig, seed: int) -> dict[str, Any]:
    run = launch(config)
    return {"seed": seed, **costs(run, config), "curves": curves(run)} | judged(run)


def costs(run: Run, config: StageConfig) -> dict[str, float]:
    """Seconds of training, and bytes a rank held: measured, and predicted before the launch.

    Seconds of a policy that answers are iterations times their median, which a noisy neighbour
    moves less than the sum.
    """
    table, measured = run.metrics, run.manifest["train_seconds"]
    if "generate_seconds" in table:
        measured = len(table) * table.filter(like="_seconds").sum(axis=1).median()
    predicted = sum((memory(config, "cpu") or {}).values())
    held = max(run.manifest["peak_bytes"])
    return {"seconds": round(measured, 2), "bytes": held, "predicted_bytes": int(predicted)}


def curves(run: Run) -> dict[str, list[float]]:
    """What a stage logged, step by step, as far as the page draws it."""
    table = run.metrics
    found = [name for name in (*CURVES, *OF_PAIRS) if name in table]
    return {name: table[name].round(4).tolist() for name in found}


def rejection(name: str, seed: int, by: str) -> dict[str, Any]:
    """SFT on the best of `CHOSEN_FROM` answers to each prompt; the control: on a random one."""
    began = time.monotonic()
    count = DRAWN // CHOSEN_FROM
    cases = policy.scenarios(count, policy.UNSEEN + 1 + seed)
    answers, worth = drawn(cases, CHOSEN_FROM, seed, by)
    best = worth.argmax(1)
    if name == "rejection_control":
        best = np.random.default_rng(seed).integers(CHOSEN_FROM, size=count)
    write_dialogues(kept(name, seed, by), cases, [row[i] for row, i in zip(answers, best)])
    spent = time.monotonic() - began
    config = tuning(name, seed, by)
    run = launch(config)
    found = {"seed": seed, **costs(run, config)} | judged(run)
    return found | {"seconds": round(found["seconds"] + spent, 2)}


def kept(name: str, seed: int, by: str) -> Path:
    """Where the dialogues lie that rejection sampling kept."""
    return identity.root() / "data" / f"{name}-{by}-{seed}.jsonl"


def tuning(name: str, seed: int, by: str) -> StageConfig:
    """SFT on what rejection sampling kept."""
    count = DRAWN // CHOSEN_FROM
    data: dict[str, Any] = {"sources": [str(kept(name, seed, by))], "split": (1, 0, 0)}
    data |= {"records": count, "held_out": 0}
    return recipe("sft", seed, model=start().reference, **data | TUNED)


def write_dialogues(path: Path, cases: list[shop.Scenario], answers: list[str]) -> None:
    """One dialogue a line, as the `messages` format has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = [[*c.messages(), {"role": "assistant", "content": a}] for c, a in zip(cases, answers)]
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) for messages in said]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def drawn(
    cases: list[shop.Scenario], each: int, seed: int, by: str
) -> tuple[list[list[str]], np.ndarray]:
    """``each`` answers of the SFT model to every case, and what they are worth. (cases, each)"""
    net, tokenizer = loaded(start())
    asked = [case.messages() for case in cases for _ in range(each)]
    answers = rollout.answer(net, tokenizer, asked, seed=seed)
    rows = [answers[i : i + each] for i in range(0, len(answers), each)]
    if by == "gold":
        golds = [shop.judge(c.meta(), a).total for c, row in zip(cases, rows) for a in row]
        worth = np.asarray(golds)
    else:
        worth = scorer.load(run_of(recipe("reward"))).score(asked, answers)
    return rows, worth.reshape(len(cases), each)


# ------------------------------------------------------------------------------- measured
def judged(run: Run) -> dict[str, Any]:
    """One sampled answer to each case: gold, score, KL to the SFT model, length, entropy."""
    cases = policy.scenarios(CASES)
    r, texts = experience(run, cases)
    gold = [shop.judge(case.meta(), text).total for case, text in zip(cases, texts)]
    columns = {
        "gold": gold,
        "score": r.score,
        "kl": (r.old_logp - r.ref_logp).sum(1),
        "length": r.mask.sum(1),
        "entropy": r.entropy.sum(1) / r.mask.sum(1),
    }
    found = {name: bracketed(values) for name, values in columns.items()}
    return {"diversity": bracketed(diversity(run)), **found}


def experience(run: Run, cases: list[shop.Scenario]) -> tuple[ppo.Rollout, list[str]]:
    """A rollout of the run's policy on cases, scored as PPO scores its own; the answers' texts."""
    net, tokenizer = loaded(run)
    judge = scorer.load(run_of(recipe("reward"))).model
    reference = models.AnswerLM(loaded(start())[0], ppo.ROWS_TOGETHER)
    actor, scored = models.AnswerLM(net, ppo.ROWS_TOGETHER), models.TokenScorer(judge)
    nets = ppo.Models[torch.nn.Module](actor, None, reference, scored, tokenizer)
    prompts = template.encode_prompts(tokenizer, [case.messages() for case in cases])
    torch.manual_seed(0)
    limits = (64, tokenizer.eos_token_id, tokenizer.pad_token_id)
    answers = rollout.sample(net, prompts, *limits)
    r = ppo.make_experience(cast(PPOConfig, recipe("ppo")), nets, prompts, answers)
    return r, template.decode(tokenizer, answers)


def diversity(run: Run) -> list[float]:
    """Share of different answers among those drawn to one prompt, for a few prompts."""
    count, each = AGAIN
    net, tokenizer = loaded(run)
    asked = [c.messages() for c in policy.scenarios(count) for _ in range(each)]
    texts = rollout.answer(net, tokenizer, asked)
    return [len(set(texts[i : i + each])) / each for i in range(0, len(texts), each)]


def limits_of_the_draws() -> dict[str, Any]:
    """Best of n by score and by gold, and the ceilings, from the SFT model's own answers."""
    cases = policy.scenarios(CASES)
    judge = scorer.load(run_of(recipe("reward")))
    asked = [case.messages() for case in cases for _ in range(DRAWS)]
    gold, score = [], []
    for seed in SEEDS:
        answers, worth = drawn(cases, DRAWS, seed, "gold")
        gold.append(worth)
        texts = [text for row in answers for text in row]
        score.append(judge.score(asked, texts).reshape(worth.shape))
    best = [best_of_n(s, g) for s, g in zip(score, gold)]
    by_gold = [best_of_n(g, g) for g in gold]
    return {
        "best_of_16": {"seeds": [{"seed": k, **row} for k, row in zip(SEEDS, best)]},
        "best_of_16_gold": {"seeds": [{"seed": k, **row} for k, row in zip(SEEDS, by_gold)]},
        "ceiling": ceilings(np.hstack(score), np.hstack(gold)),
    }


def best_of_n(by: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
    """Gold of the best of `BEST_OF` by some score, and its KL: by the formula, and drawn."""
    kl = selection.best_of_kl_drawn(by, BEST_OF)
    worth = selection.best_of(by, gold, (BEST_OF,))[BEST_OF]
    said = {"kl": {"value": round(kl, 4)}, "kl_bound": round(selection.best_of_kl(BEST_OF), 4)}
    return {"gold": bracketed(worth), **said}


def ceilings(score: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
    """The most gold, the most score, and the gold that the most score brings, at each KL."""
    paths = {
        "gold": ceiling.tilt(gold),
        "score": ceiling.tilt(score),
        "gold_of_score": ceiling.tilt(score, gold),
    }
    return {"kl": list(KLS)} | {name: ceiling_rows(path) for name, path in paths.items()}


def ceiling_rows(path: ceiling.Tilted) -> dict[str, Any]:
    """The whole curve, intervals at `KLS`, and how many answers carry it there."""
    curve = {"kl": path.kl.mean(0).round(4), "worth": path.worth.mean(0).round(4)}
    at = [ceiling.interval_at(path, kl) for kl in KLS]
    rows = {"at": [rounded(found) for found in at]}
    effective = ceiling.effective_at(path, KLS).round(2).tolist()
    return {name: x.tolist() for name, x in curve.items()} | rows | {"effective": effective}


# -------------------------------------------------------------------------- what it means
def headline(rows: dict[str, list[dict]], limits: dict[str, Any]) -> dict[str, Any]:
    """Each method's share of the way from SFT to the ceiling at its own KL, in gold."""
    found = {**rows, **{k: limits[k]["seeds"] for k in ("best_of_16", "best_of_16_gold")}}
    way = partial(share, limits=limits["ceiling"])
    return {"share": {name: rounded(over_rows(seeds, way)) for name, seeds in found.items()}}


def over_rows(seeds: list[dict[str, Any]], way: Callable[..., float]) -> winrate.Interval:
    """The mean share with Student's interval over seeds; of one seed, with that over prompts."""
    if len(seeds) > 1:
        return over_seeds([way(row) for row in seeds])
    (row,) = seeds
    value, low, high = (way(row, what) for what in ("value", "low", "high"))
    return winrate.Interval(value, low, high, CASES)


def share(row: dict[str, Any], what: str = "value", *, limits: dict[str, Any]) -> float:
    """(gold - SFT's) / (ceiling at this KL - SFT's), from gold or an end of its interval."""
    curve = limits["gold"]
    began, kl = curve["worth"][0], row["kl"]["value"]
    return (row["gold"][what] - began) / (np.interp(kl, curve["kl"], curve["worth"]) - began)


def start() -> Run:
    """The SFT model that all start from, once both models of the bench are there."""
    trained("reward")
    return run_of(recipe("sft"))
