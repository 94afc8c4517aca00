"""The museum of silent bugs (chapter 11): every mistake run through the real stages, one seed each.

Beside the mutants the healthy runs of the same settings, with several seeds: how far apart those
are is what a mutant's curves are compared with. After training, and without any mistake in force,
each policy answers prompts that nobody trained on; what the judge makes of them is kept, too.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import torch

from chatlib.book import museum
from chatlib.book.experiments import Witnesses, loaded, part
from chatlib.data import shop, template
from chatlib.evaluate.errors import judged
from chatlib.lab import Run, launch, trained
from chatlib.runs.provenance import origin
from chatlib.settings.stages import StageConfig
from chatlib.train import rollout

STAGES = ("sft", "reward", "ppo")
SEEDS = (0, 1, 2)
ONE_MORE = (3,)  # of PPO, where most mistakes are: of three the spread is little known
CASES = 100  # prompts that nobody trained on
POINTS = 40  # of a stored curve, at most; longer ones are means over neighbouring steps
CURVES = {
    "sft": ("loss", "held_out_loss"),
    "reward": ("loss", "accuracy", "margin", "held_out_accuracy"),
    "ppo": (
        *("score", "gold", "kl", "entropy", "answer_tokens", "ended", "clip_fraction"),
        *("approx_kl", "first_log_ratio", "value_error", "explained_variance"),
    ),
}


def results() -> dict[str, Any]:
    """Curves and answers of healthy runs and mutants, and how many a unit test finds."""
    healthy: dict[str, list[dict[str, Any]]] = {}
    mutants: dict[str, dict[str, Any]] = {}
    for name in museum.SHORT:
        healthy[name] = [healthy_run(name, seed) for seed in seeds_of(name)]
        sick = [exhibit for exhibit in museum.EXHIBITS if exhibit.recipe == name]
        mutants |= {exhibit.name: mutant_run(exhibit) for exhibit in sick}
    found = verdicts()
    killed = sum(found.get(name, {}).get("outcome") == "failed" for name in mutants)
    runs = [*mutants.values(), *(run for runs in healthy.values() for run in runs)]
    return {
        "mutants": len(mutants),
        "killed": killed,
        "cases": CASES,
        "seed_list": [*SEEDS],
        "launch_seconds": round(sum(run["seconds"] for run in runs), 1),
        "healthy": healthy,
        "mutant": mutants,
    }


def witnesses() -> Witnesses:
    """A healthy run of every recipe, and the first mistake of each."""
    found: Witnesses = {}
    for name in museum.SHORT:
        found["healthy", name, 0] = partial(healthy_run, name, SEEDS[0])
        sick = next(exhibit for exhibit in museum.EXHIBITS if exhibit.recipe == name)
        found["mutant", sick.name] = partial(mutant_run, sick)
    return found


def seeds_of(name: str) -> tuple[int, ...]:
    """The seeds of a recipe's healthy runs."""
    return SEEDS + (ONE_MORE if name == "ppo" else ())


def verdicts() -> dict[str, Any]:
    """How the tests end that the exhibits name; made again after a commit."""
    key = "museum-verdicts-" + str(origin()["commit"]).replace("+", "-")
    return part(key, museum.verdicts)


def healthy_run(name: str, seed: int) -> dict[str, Any]:
    """One healthy run of a recipe."""
    return figures_of(launched(museum.settings_of(name, seed), None), name)


def mutant_run(exhibit: museum.Exhibit) -> dict[str, Any]:
    """The run of a mistake, with the first seed."""
    return figures_of(launched(exhibit.config(), exhibit), exhibit.recipe)


def launched(config: StageConfig, exhibit: museum.Exhibit | None) -> Run:
    """The finished run; what it starts from is trained before the mistake is in force."""
    if config.stage != "sft":
        trained("reward" if config.stage == "ppo" else "sft")
    with exhibit.on_show() if exhibit else contextlib.nullcontext():
        return launch(config)


def figures_of(run: Run, name: str) -> dict[str, Any]:
    """One part: a run's curves and, of a policy, what its answers are worth."""
    stage = str(run.config["stage"])
    return part(
        f"museum-{name}-{run.name}-{CASES}",
        lambda: {
            "curves": curves(run, stage),
            "after": {} if stage == "reward" else answers(run),
            "seconds": run.manifest["seconds"],
        },
    )


def curves(run: Run, stage: str) -> dict[str, list[float]]:
    """What the stage logged, rounded, at most `POINTS` points a curve."""
    found = {}
    for column in CURVES[stage]:
        if column in run.metrics:
            values = run.metrics[column].dropna()
            width = -(-len(values) // POINTS)
            means = values.groupby([i // width for i in range(len(values))]).mean()
            found[column] = [round(float(x), 4) for x in means]
    return found


def answers(run: Run) -> dict[str, float]:
    """Of sampled answers to new prompts: gold reward, and shares that ended and are well formed."""
    test = shop.demonstrations(CASES, seed=502)
    model, tokenizer = loaded(run)
    prompts = template.encode_prompts(tokenizer, [t.prompt for t in test])
    generator = torch.Generator().manual_seed(1)
    stop, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    drawn = rollout.sample(model.eval(), prompts, 48, stop, pad, 1.0, generator)
    verdict = judged([t.meta for t in test], template.decode(tokenizer, drawn))
    return {
        "gold": round(float(verdict["gold"].mean()), 4),
        "ended": sum(answer[-1] == stop for answer in drawn) / CASES,
        "well_formed": round(float(verdict["well_formed"].mean()), 4),
    }
