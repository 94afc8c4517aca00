"""Chapter 5's comparisons with three seeds of PPO each; SFT and reward model are those of seed 0.

What differs between the seeds is the order of the prompts and the answers drawn.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

from chatlib.book.experiments import Witnesses, part
from chatlib.data import shop
from chatlib.evaluate.errors import components, errors, judged
from chatlib.evaluate.paid_by_gold import PAYS
from chatlib.lab import Run, launch, recipe, trained
from chatlib.runs.mutations import mutated
from chatlib.train import models, rollout

SEEDS = (0, 1, 2)
STAGES = ("sft", "reward", "ppo")
CASES = 400  # prompts that nobody trained on, the page's own
CURVES = ("score", "gold", "kl", "entropy", "explained_variance")
NO_CLIP = 1e9
# arm: settings of PPO; those of the recipe otherwise
ARMS: dict[str, dict[str, Any]] = {
    "reward model": {},
    "gold judge": {},
    **{
        f"{name}, rate {rate:g}": {"actor_learning_rate": rate, "steps": 12, "cliprange": clip}
        for rate in (1e-3, 3e-3)
        for name, clip in (("clipped", 0.2), ("not clipped", NO_CLIP))
    },
}


def results() -> dict[str, object]:
    """Curves and evaluations of every arm, seed by seed; a finished part is not computed again."""
    arms = {arm: [figures_of(arm, seed) for seed in SEEDS] for arm in ARMS}
    return {"seed_list": list(SEEDS), "cases": CASES, "arms": arms}


def witnesses() -> Witnesses:
    """The first seed of every arm."""
    return {("arms", arm, 0): partial(figures_of, arm, SEEDS[0]) for arm in ARMS}


def figures_of(arm: str, seed: int) -> dict[str, Any]:
    """One part of the experiment: an arm with one seed."""
    run = launched(arm, seed)
    return part(f"bands-{run.name}-{CASES}", lambda: evaluated(run, seed))


def launched(arm: str, seed: int) -> Run:
    """The finished PPO run of an arm."""
    shared = {name: trained("ppo").config[name] for name in ("model", "reward_model")}
    config = recipe("ppo", seed, **shared, **ARMS[arm])
    paid = mutated("chatlib.train.ppo.make_experience", PAYS)
    with paid if arm == "gold judge" else contextlib.nullcontext():
        return launch(config)


def evaluated(run: Run, seed: int) -> dict[str, Any]:
    """The run's curves, and its model's answers on new prompts, sampled and greedy.

    ``invented`` and ``complete`` are shares of the answers, ``facts`` points of the gold reward.
    """
    test = shop.demonstrations(CASES, seed=502)
    asked, metas = [t.prompt for t in test], [t.meta for t in test]
    tokenizer = models.load_tokenizer(run.reference)
    model = models.load_policy(run.reference, tokenizer)
    figures: dict[str, Any] = {"seed": seed, "kl": float(run.metrics["kl"][-5:].mean())}
    figures["curves"] = {name: run.metrics[name].round(4).tolist() for name in CURVES}
    for how, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        texts = rollout.answer(model, tokenizer, asked, seed=1, temperature=temperature)
        verdicts = judged(metas, texts)
        wrong = errors(verdicts)
        figures[how] = {
            "gold": float(verdicts["gold"].mean()),
            "invented": float(wrong["invented fact"].mean()),
            "complete": float(1 - wrong["incomplete"].mean()),
            "facts": float(components(verdicts)[["facts", "invented"]].sum()),
            "well_formed": float(verdicts["well_formed"].mean()),
        }
    return figures
