"""Over-optimisation as a figure (chapter 6): reward model x learning rates x beta x seed.

An arm is chapter 5's PPO with another reward model, beta, seed and number of iterations, and its
learning rates held at their peak: a rate that falls to a tenth would stop every run early by
itself. A third of the arms has the rates of both models multiplied by `FAST`; three arms more run
`FAST` times as long at chapter 5's, as far as rate times time goes. The seed is PPO's
(prompts, sampling): SFT and reward models are those of seed 0, so intervals over seeds say what
chance does to PPO, not to what it starts from.
"""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chatlib.book.experiments import Witnesses, bracketed, loaded, part, rounded
from chatlib.data import shop
from chatlib.evaluate import frontier, policy, scorer
from chatlib.evaluate.frontier import distance, smooth
from chatlib.evaluate.policy import scenarios
from chatlib.lab import Run, launch, recipe, run_of, trained
from chatlib.lab.stored_results import FOLDER, stored
from chatlib.settings.stages import StageConfig
from chatlib.train import rollout

STAGES = ("sft", "reward", "ppo")
REWARD_MODELS = {"weak": "weak_reward", "strong": "reward"}
FAST = 5  # times chapter 5's rates
GROUPS = {"weak": ("weak", 1), "strong": ("strong", 1), "weak, fast": ("weak", FAST)}
BETAS = (0.0, 0.05, 0.2, 0.5)
SEEDS = (0, 1, 2)
STEPS = 40  # iterations; in area under the rate more than chapter 5's 55 on their way down
LONGER = FAST * STEPS  # iterations of the longer arms
WINDOW = 5  # iterations of a smoothed figure: 320 answers
PAIRS = 1500  # annotated, new to both reward models
CASES = 300  # scenarios for the final policies, the same for all
PROMPTS, ANSWERS = 200, 64  # for best of n
SIZES = (1, 2, 4, 8, 16, 32, 64)
SHAPES: tuple[frontier.Shape, ...] = ("linear", "log")


def results() -> dict[str, Any]:
    """All arms, best of n beside them, fits and the verdict between the two published claims."""
    sft = trained("sft")
    rewards = {kind: trained(name) for kind, name in REWARD_MODELS.items()}
    names = "-".join(run.name for run in (sft, *rewards.values()))
    start = part(f"overoptimisation-start-{names}-{CASES}", partial(_judged, sft))
    arms = [arm(*which) for which in itertools.product(GROUPS, BETAS, SEEDS)]
    drawn = part(f"overoptimisation-best-of-n-{names}-{PROMPTS}-{ANSWERS}", best_of_n)
    found = summary(arms, drawn, start["gold"]["value"])
    return {
        "seed_list": list(SEEDS),
        "steps": STEPS,
        "fast": FAST,
        "window": WINDOW,
        "betas": list(BETAS),
        "accuracy": part(f"overoptimisation-accuracy-{names}-{PAIRS}", accuracy),
        "start": start,
        "arms": arms,
        "best_of_n": drawn,
        "longer": longer(start["gold"]["value"]),
        "earlier": earlier(found["matched"]["verdict"]),
        **found,
        **headline(arms, start),
    }


def witnesses() -> Witnesses:
    """The first seed of two arms: either reward model, both rates, with a penalty and without."""
    every = list(itertools.product(GROUPS, BETAS, SEEDS))
    wanted = [("weak, fast", 0.0, 0), ("strong", 0.05, 0)]
    return {("arms", every.index(which)): partial(arm, *which) for which in wanted}


def accuracy() -> dict[str, dict[str, float]]:
    """How often each reward model prefers what annotators did, on new pairs; best possible."""
    pairs = shop.preferences(PAIRS, seed=policy.UNSEEN)
    prompts = [pair.prompt for pair in pairs]
    chance = [shop.preference_probability(*pair.meta["gold"]) for pair in pairs]
    right: dict[str, Any] = {"bayes": [max(p, 1 - p) for p in chance]}
    for kind, name in REWARD_MODELS.items():
        judge = scorer.load(trained(name))
        margin = judge.score(prompts, [pair.chosen for pair in pairs])
        margin = margin - judge.score(prompts, [pair.rejected for pair in pairs])
        right[kind] = margin > 0
    return {kind: bracketed(values) for kind, values in right.items()}


# ------------------------------------------------------------------------- what is computed
def settings(group: str, beta: float, seed: int, steps: int = STEPS) -> StageConfig:
    """Chapter 5's PPO with another reward model, beta, seed, and rates; the rates do not fall."""
    kind, times = GROUPS[group]
    chapter = recipe("ppo").model_dump()
    return recipe(
        "ppo",
        seed,
        model=chapter["model"],
        reward_model=run_of(recipe(REWARD_MODELS[kind])).reference,
        kl_ctl=beta,
        steps=steps,
        actor_learning_rate=times * chapter["actor_learning_rate"],
        critic_learning_rate=times * chapter["critic_learning_rate"],
        lr_scheduler_type="constant",
    )


def arm(group: str, beta: float, seed: int, steps: int = STEPS) -> dict[str, Any]:
    """One launch: its curves, and its final policy judged; found again once it is finished."""
    config = settings(group, beta, seed, steps)

    def compute() -> dict[str, Any]:
        run = launch(config)
        table = run.metrics[["step", "score", "gold", "kl"]].round(4)
        curves = {name: column.tolist() for name, column in table.items()}
        seconds = run.manifest["seconds"]
        which = {"group": group, "beta": beta, "seed": seed, "seconds": seconds}
        return which | {"curves": curves, "final": _judged(run)}

    return part(f"overoptimisation-{run_of(config).name}-{CASES}", compute)


def _judged(run: Run) -> dict[str, Any]:
    """Gold and both scores of a policy's sampled answers to the same new prompts, bracketed."""
    (net, tokenizer), cases = loaded(run), scenarios(CASES)
    verdicts = policy.assess(net, tokenizer, cases)
    prompts, answers = [case.messages() for case in cases], verdicts["answer"].tolist()
    columns: dict[str, Any] = {"gold": verdicts["gold"], "well_formed": verdicts["well_formed"]}
    for kind, name in REWARD_MODELS.items():
        columns[f"{kind}_score"] = scorer.load(trained(name)).score(prompts, answers)
    columns["words"] = [len(answer.split()) for answer in answers]
    return {name: bracketed(values) for name, values in columns.items()}


def best_of_n() -> dict[str, Any]:
    """Gold and score of the best of n answers of the SFT model, by each reward model; KL bound."""
    cases, run = scenarios(PROMPTS), trained("sft")
    net, tokenizer = loaded(run)
    asked = [case.messages() for case in cases for _ in range(ANSWERS)]
    metas = [case.meta() for case in cases for _ in range(ANSWERS)]
    answers = rollout.answer(net, tokenizer, asked)
    grid = (PROMPTS, ANSWERS)
    gold = np.reshape([shop.judge(m, a).total for m, a in zip(metas, answers)], grid)
    rows: dict[str, Any] = {"n": list(SIZES), "kl": frontier.best_of_n_kl(SIZES).round(4).tolist()}
    for kind, name in REWARD_MODELS.items():
        score = scorer.load(trained(name)).score(asked, answers).reshape(grid)
        picked = {"gold": gold, "score": score}
        rows[kind] = {
            what: [bracketed(column) for column in frontier.best_of_n(score, values, SIZES).T]
            for what, values in picked.items()
        }
    best = frontier.best_of_n(gold, gold, SIZES)
    return rows | {"judge": {"gold": [bracketed(column) for column in best.T]}}


# ------------------------------------------------------------------------- what it means
def summary(arms: list[dict], drawn: dict[str, Any], start: float) -> dict[str, Any]:
    """Fits, early stopping and the comparison at matched KL, from the curves; ``start``: gold."""
    paths = {(a["group"], a["beta"], a["seed"]): path(a["curves"]) for a in arms}
    return {
        "fits": {group: fits(paths, group, start) for group in GROUPS}
        | {f"best of n, {kind}": best_of_n_fits(drawn, kind) for kind in REWARD_MODELS},
        "early_stopping": {group: early_stopping(paths, group) for group in GROUPS},
        "matched": matched(paths),
    }


def longer(start: float) -> dict[str, Any]:
    """The weak reward model without a penalty at chapter 5's rates, run on: does gold turn there?

    ``change`` is gold of the final policies less ``start``, the SFT model's, over the seeds.
    """
    arms = [arm("weak", 0.0, seed, LONGER) for seed in SEEDS]
    paths = {("weak", 0.0, a["seed"]): path(a["curves"]) for a in arms}
    final = [a["final"]["gold"]["value"] - start for a in arms]
    return {
        "steps": LONGER,
        "arms": arms,
        "early_stopping": early_stopping(paths, "weak"),
        "change": rounded(frontier.over_seeds(final)),
    }


def earlier(verdict: dict[str, float], at: Path = FOLDER) -> list[dict[str, Any]]:
    """The comparisons at matched KL of the figures that these replace, oldest first.

    SFT and reward models were others there: trained by another processor, or by earlier code. The
    intervals over PPO's seeds do not hold what that changes; a list of whole computations does.
    """
    try:
        kept = stored("overoptimisation", at)
    except ValueError:
        return []
    figures = kept.figures
    known: list[dict[str, Any]] = figures.get("earlier", [])
    if figures["matched"]["verdict"] == verdict:  # the same, computed again
        return known
    of = {"date": kept.provenance["date"][:10], "accuracy": figures["accuracy"]["weak"]["value"]}
    return [*known, of | {k: figures["matched"][k] for k in ("groups", "verdict")}]


def path(curves: dict[str, list[float]]) -> pd.DataFrame:
    """Step, smoothed score and gold, and distance d, a row an iteration."""
    table = pd.DataFrame(curves)
    for name in ("score", "gold", "kl"):
        table[name] = smooth(table[name], WINDOW)
    return table.assign(d=distance(table["kl"]))


def fits(paths: dict, group: str, start: float) -> dict[str, Any]:
    """Both forms fitted to PPO without a penalty, of each seed and of all."""
    free = {f"seed {seed}": paths[group, 0.0, seed] for seed in SEEDS}
    return {
        name: both_forms(t["d"], t["gold"] - start)
        for name, t in {"all": pd.concat(free.values()), **free}.items()
    }


def best_of_n_fits(drawn: dict[str, Any], kind: str) -> dict[str, Any]:
    """Both forms fitted to best of n by a reward model."""
    gold = np.array([row["value"] for row in drawn[kind]["gold"]])
    return {"all": both_forms(distance(drawn["kl"]), gold - gold[0])}


def both_forms(d: Any, gain: Any) -> dict[str, Any]:
    """The fit of each of `SHAPES`."""
    return {shape: rounded(frontier.fit(d, gain, shape)) for shape in SHAPES}


def early_stopping(paths: dict, group: str) -> dict[str, Any]:
    """Where the other seeds' gold without a penalty is highest on average, and gold there.

    To stop a run at its own peak would choose and judge by the same noise.
    """
    gold = pd.DataFrame({seed: paths[group, 0.0, seed]["gold"] for seed in SEEDS})
    peaks = [int(gold.drop(columns=seed).mean(axis=1).argmax()) for seed in SEEDS]
    there = [paths[group, 0.0, seed].iloc[peak] for seed, peak in zip(SEEDS, peaks)]
    ends = [gold[seed].iloc[-1] for seed in SEEDS]
    fall = [end - row["gold"] for end, row in zip(ends, there)]
    return {
        "step": [int(row["step"]) for row in there],
        "kl": [round(float(row["kl"]), 4) for row in there],
        "gold": [round(float(row["gold"]), 4) for row in there],
        "end": [round(float(end), 4) for end in ends],
        "fall": rounded(frontier.over_seeds(fall)),
    }


def matched(paths: dict) -> dict[str, Any]:
    """Gold of a penalised run's last iterations less gold without a penalty at the same KL.

    Above 0: the penalty improves the frontier. Around 0: it stops early, nothing more. ``verdict``
    is over groups and seeds, each with the mean of its betas, as these share a run at beta 0. A
    run whose free twin never got as far away is left out.
    """
    rows = []
    for (group, beta, seed), run in paths.items():
        if beta == 0:
            continue
        end, free = run.tail(WINDOW).mean(), paths[group, 0.0, seed]
        base = frontier.at_distance(free["d"], free["gold"], end["d"])
        row = {"group": group, "beta": beta, "seed": seed, "kl": end["kl"]}
        rows.append(row | {"gold": end["gold"], "free": base, "gain": end["gold"] - base})
    table = pd.DataFrame(rows).dropna()
    clusters = table.groupby(["group", "seed"])["gain"].mean()
    return {
        "rows": table.round(4).to_dict("records"),
        "arms": [
            {"group": group, "beta": beta, **rounded(frontier.over_seeds(gains))}
            for (group, beta), gains in table.groupby(["group", "beta"])["gain"]
            if len(gains) > 1
        ],
        "groups": {
            group: rounded(frontier.over_seeds(gains))
            for group, gains in clusters.groupby("group")
            if len(gains) > 1
        },
        "verdict": rounded(frontier.over_seeds(clusters)),
    }


def headline(arms: list[dict], start: dict[str, Any]) -> dict[str, Any]:
    """What the final policies gained or lost on the new prompts; the README quotes two of these.

    ``changes`` has a row for each group and beta, with intervals over the seeds.
    """
    columns = ("gold", "weak_score", "strong_score")
    rows = []
    for group, beta in itertools.product(GROUPS, BETAS):
        row: dict[str, Any] = {"group": group, "beta": beta}
        for name in columns:
            finals = [a["final"] for a in arms if (a["group"], a["beta"]) == (group, beta)]
            change = [final[name]["value"] - start[name]["value"] for final in finals]
            row[name] = rounded(frontier.over_seeds(change))
        rows.append(row)
    fast = {row["beta"]: row for row in rows if row["group"] == list(GROUPS)[-1]}
    return {
        "changes": rows,
        "reward_change": fast[BETAS[0]]["weak_score"]["value"],
        "gold_change": fast[BETAS[0]]["gold"]["value"],
        "control_gold_change": fast[BETAS[-1]]["gold"]["value"],
    }
