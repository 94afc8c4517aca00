"""The multi-seed figures of `make results`: SFT, reward model and PPO, each seeded, three times."""

from __future__ import annotations

import time
from functools import partial

import pandas as pd

from chatlib.book.experiments import Witnesses
from chatlib.data import shop
from chatlib.evaluate import policy, winrate
from chatlib.lab import Run, trained
from chatlib.train import models

SEEDS = (0, 1, 2)
STAGES = ("sft", "reward", "ppo")
CASES = 1000  # scenarios that nobody trained on; the interval of a win rate is about +-.03


def results() -> dict[str, object]:
    """Train and evaluate with several seeds; a row of figures for each.

    Runs that are finished already are not trained again.
    """
    rows = []
    for seed in SEEDS:
        began = time.monotonic()
        rows.append(one_seed(seed))
        row = rows[-1]
        print(
            f"seed {seed}: gold {row['gold_before']:.2f} -> {row['gold_after']:.2f}, "
            f"win rate {row['win']:.2f} [{row['win_low']:.2f}, {row['win_high']:.2f}], "
            f"well-formed {row['well_formed']:.2f} ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
    return {"seeds": rows}


def witnesses() -> Witnesses:
    """The first seed."""
    return {("seeds", 0): partial(one_seed, SEEDS[0])}


def one_seed(seed: int) -> dict[str, float]:
    """SFT, reward model and PPO of one seed; gold reward before and after on the same prompts."""
    after_run, cases = trained("ppo", seed), policy.scenarios(CASES)
    before_run = trained("sft", seed)
    before, after = (verdicts(run, cases) for run in (before_run, after_run))
    win = winrate.win_rate(after["gold"], before["gold"])
    last = after_run.metrics.iloc[-5:]
    return {
        "seed": seed,
        "gold_before": float(before["gold"].mean()),
        "gold_after": float(after["gold"].mean()),
        "win": win.value,
        "win_low": win.low,
        "win_high": win.high,
        "well_formed": float(after["well_formed"].mean()),
        "sft_well_formed": float(before["well_formed"].mean()),
        "kl": float(last["kl"].mean()),
        "chance_to_bayes": trained("reward", seed).manifest["chance_to_bayes"],
        "sft_seconds": before_run.manifest["seconds"],
        "reward_seconds": trained("reward", seed).manifest["seconds"],
        "ppo_seconds": after_run.manifest["seconds"],
    }


def verdicts(run: Run, cases: list[shop.Scenario]) -> pd.DataFrame:
    """The gold judge's table for a run's model on the cases."""
    tokenizer = models.load_tokenizer(run.reference)
    return policy.assess(models.load_policy(run.reference, tokenizer), tokenizer, cases)
