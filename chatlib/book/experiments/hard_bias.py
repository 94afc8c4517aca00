"""A preference that hangs on the customer's name (chapter 15): arm x seed, judged on twins.

Annotators of the arm `planted` hold a salutation against customers of the second group; those of
`control` judge as the shop's do; `dealt` are the comparisons of `planted`, each under a name drawn
from all of them, which needs no knowledge of the grudge. The seed is that of the comparisons, of
the reward model and of PPO; the SFT model is that of seed 0 for all, and it saw no grudge.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from chatlib.book.experiments import loaded, part, rounded
from chatlib.data import readers, shop, split
from chatlib.data.schema import Preference
from chatlib.data.shop_text import ANSWERS, SALUTATIONS
from chatlib.evaluate import counterfactual, policy, scorer
from chatlib.evaluate.frontier import over_seeds
from chatlib.lab import Run, launch, recipe, run_of, trained
from chatlib.settings.stages import StageConfig

STAGES = ("sft", "reward", "ppo")
ARMS = ("planted", "control", "dealt")
SEEDS = (0, 1, 2)
FIRST, SECOND = counterfactual.groups()
GRUDGE = 3.0  # taken from an answer's worth where it greets a customer of the second group
PAIRS = 5000
OF_REWARD: dict[str, Any] = {"records": PAIRS, "held_out": 200, "steps": 150}
OF_PPO: dict[str, Any] = {"steps": 35}
CASES = 200  # scenarios that nobody trained on, each asked by two customers
COLUMNS = ("salutation", "gold", "closing", "rudeness", "facts")


def results() -> dict[str, Any]:
    """Every arm and seed, the SFT model on the same twins, and what it comes to over the seeds."""
    before = [sft(seed) for seed in SEEDS]
    arms: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:  # all arms of a seed together: a noisy hour strikes them all
        for arm in ARMS:
            arms[arm].append(one(arm, seed))
    given = {"seed_list": list(SEEDS), "cases": CASES, "pairs": PAIRS, "grudge": GRUDGE}
    given |= {"names": [len(FIRST), len(SECOND)], "sft": before, "arms": arms}
    return {"bias": given | summary(before, arms)}


# ------------------------------------------------------------------------- what is trained
def start() -> Run:
    """The SFT model of seed 0."""
    return trained("sft")


def sft(seed: int) -> dict[str, Any]:
    """The SFT model's answers to the twins of a seed: before anybody's preferences."""
    return part(f"hard-bias-{start().name}-{CASES}-{seed}", partial(answered, start(), seed))


def worth(meta: dict[str, Any], text: str) -> float:
    """What an answer is worth to an annotator with the grudge, in gold's unit."""
    score = shop.judge(meta, text)
    return score.total - GRUDGE * (meta["customer"] in SECOND) * (score.parts["salutation"] > 0)


def compared(rng: Random, case: shop.Scenario) -> Preference:
    """The shop's way to make a comparison, by an annotator with the grudge."""
    pair = shop.preference(rng, case)
    a, b = sorted((pair.chosen, pair.rejected))
    if rng.random() > shop.preference_probability(worth(pair.meta, a), worth(pair.meta, b)):
        a, b = b, a
    return Preference(pair.prompt, a, b, pair.meta)


def comparisons(arm: str, seed: int) -> list[Preference]:
    """The comparisons of an arm, on prompts of the reward model's share; as many for each arm."""
    rng, shares = Random(f"grudge {seed}"), recipe("reward").split
    cases = (c for c in shop.scenarios(seed) if split.part_of(c.messages(), shares) == "reward")
    make = shop.preference if arm == "control" else compared
    pairs = [make(rng, case) for case in islice(cases, PAIRS)]
    return counterfactual.dealt(pairs, FIRST + SECOND, seed) if arm == "dealt" else pairs


def place(arm: str, seed: int) -> Path:
    """Where the comparisons lie."""
    from chatlib.runs import identity

    return identity.root() / "data" / f"hard-bias-{arm}-{seed}.jsonl"


def judge_settings(arm: str, seed: int) -> StageConfig:
    """The reward model of an arm."""
    source = {"name": str(place(arm, seed)), "format": "preference"}
    data: dict[str, Any] = {"sources": [source], "split": (0, 1, 0)}
    return recipe("reward", seed, model=start().reference, **data | OF_REWARD)


def policy_settings(arm: str, seed: int) -> StageConfig:
    """PPO against the reward model of an arm."""
    judge = run_of(judge_settings(arm, seed)).reference
    return recipe("ppo", seed, model=start().reference, reward_model=judge, **OF_PPO)


# ---------------------------------------------------------------------------- what is measured
def one(arm: str, seed: int) -> dict[str, Any]:
    """One part: an arm with one seed; found again once it is finished."""
    path = place(arm, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    readers.write(list(comparisons(arm, seed)), path)
    judge = launch(judge_settings(arm, seed))
    key = f"hard-bias-{run_of(policy_settings(arm, seed)).name}-{CASES}"
    return part(key, partial(_one, arm, seed, judge))


def _one(arm: str, seed: int, judge: Run) -> dict[str, Any]:
    tuned = launch(policy_settings(arm, seed))
    seconds = [run.manifest["seconds"] for run in (judge, tuned)]
    found = {"seed": seed, "seconds": seconds, "judge": paid(judge, seed)}
    return found | {"ppo": answered(tuned, seed)}


def asked(seed: int) -> tuple[list[shop.Scenario], list[shop.Scenario]]:
    """The scenarios of a seed, by customers of either group."""
    cases = policy.scenarios(CASES, policy.UNSEEN + seed)
    return counterfactual.twins(cases, FIRST, SECOND, seed)


def answered(run: Run, seed: int) -> dict[str, Any]:
    """The judge's verdicts on a policy's sampled answers to both twins: means and gap."""
    net, tokenizer = loaded(run)
    ours, theirs = (policy.assess(net, tokenizer, cases, seed) for cases in asked(seed))
    return {column: of_both(ours[column], theirs[column]) for column in COLUMNS}


def paid(judge: Run, seed: int) -> dict[str, Any]:
    """What a reward model pays for a salutation before the same answer, by group."""
    judges = scorer.load(judge)
    worths = []
    for cases in asked(seed):
        plain, greeted = zip(*map(with_and_without, cases))
        worths.append(counterfactual.worth_of(judges, cases, greeted, plain))
    return of_both(*worths)


def with_and_without(case: shop.Scenario) -> tuple[str, str]:
    """A full answer to a scenario without a salutation, and with one."""
    full = next(text for kind, text in ANSWERS[case.intent] if kind == "full")
    core = shop.plain(full.format(**case.facts))
    core = core[0].upper() + core[1:]
    return core, f"{shop.plain(SALUTATIONS[0]).format(name=case.customer)} {core}"


def of_both(ours: Any, theirs: Any) -> dict[str, Any]:
    """Means of both groups, and the gap with its interval over the scenarios."""
    means = {"first": round(float(ours.mean()), 4), "second": round(float(theirs.mean()), 4)}
    return means | {"gap": rounded(counterfactual.gap(ours, theirs))}


# --------------------------------------------------------------------------- what it comes to
def summary(sft: list[dict], arms: dict[str, list[dict]]) -> dict[str, Any]:
    """Gaps over the seeds (Student's interval), and the share of the gap that dealing removes."""
    after = {arm: of_seeds([row["ppo"] for row in seeds]) for arm, seeds in arms.items()}
    for arm, seeds in arms.items():
        after[arm]["score"] = rounded(over_seeds(gaps([row["judge"] for row in seeds])))
    grown = {
        arm: {c: rounded(over_seeds(growth(sft, seeds, c))) for c in COLUMNS}
        for arm, seeds in arms.items()
    }
    planted, dealt = (
        gaps([row["ppo"]["salutation"] for row in arms[arm]]) for arm in ("planted", "dealt")
    )
    removed = over_seeds(counterfactual.share_removed(planted, dealt).tolist())
    return {
        "gap_before": of_seeds(sft),
        "gap_after": after,
        "grown": grown,
        "removed": rounded(removed),
    }


def of_seeds(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The gap of every column over the seeds."""
    return {c: rounded(over_seeds(gaps([row[c] for row in rows]))) for c in COLUMNS}


def growth(sft: list[dict], seeds: list[dict], column: str) -> list[float]:
    """Gap after PPO less gap of the SFT model on the same twins, seed by seed."""
    before, after = gaps([r[column] for r in sft]), gaps([r["ppo"][column] for r in seeds])
    return [b - a for a, b in zip(before, after)]


def gaps(rows: list[dict[str, Any]]) -> list[float]:
    """The gaps alone, seed by seed."""
    return [row["gap"]["value"] for row in rows]
