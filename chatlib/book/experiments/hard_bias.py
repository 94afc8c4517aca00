"""A preference that hangs on the customer's name (chapter 15): arm x seed, judged on twins.

All customers are the shop's four regulars. Annotators of the arm `planted` hold a salutation
against those of the second group; those of `control` judge as the shop's do; `dealt` are the
comparisons of `planted`, each under a name drawn from all of them, which needs no knowledge of the
grudge. The seed is that of the comparisons and of the reward model; the SFT model is that of seed 0
for all, and it saw no grudge. Launches have one rank: a second process would have to start as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from chatlib.book.experiments import finished, loaded, part, rounded
from chatlib.data import readers, shop, split
from chatlib.data.schema import Dialogue, Preference
from chatlib.data.shop_text import ANSWERS, NAMES, SALUTATIONS
from chatlib.evaluate import counterfactual, policy, scorer
from chatlib.evaluate.errors import judged
from chatlib.evaluate.frontier import over_seeds
from chatlib.evaluate.novelty import named
from chatlib.lab import Run, recipe, run_of, trained
from chatlib.runs import identity
from chatlib.settings.stages import StageConfig
from chatlib.train import rollout

STAGES = ("sft", "reward", "dpo", "ppo")
ARMS = ("planted", "control", "dealt")
SEEDS = (0, 1, 2)
REGULARS = NAMES[::22][:4]  # all customers of this experiment: a name needs many comparisons
FIRST, SECOND = counterfactual.groups(REGULARS)
GRUDGE = 2.0  # taken from an answer's worth where it greets a customer of the second group
PAIRS = 5000
PROMPTS = 2000
OF_REWARD: dict[str, Any] = {
    "ranks": 1,  # a launch of seconds: a second process would only have to start too
    "records": PAIRS,
    "held_out": 200,
    "steps": 220,
    "learning_rate": 2e-3,
}
OF_PPO: dict[str, Any] = {  # fewer iterations than chapter 5's and faster rates, for all arms
    "ranks": 1,
    "records": PROMPTS,
    "steps": 40,
    "actor_learning_rate": 4e-4,
    "critic_learning_rate": 1e-3,
}
OF_DPO: dict[str, Any] = {"ranks": 1, "records": PAIRS, "held_out": 200, "steps": 150}
TRIED = ("planted", 0)  # the arm and seed that PPO and DPO learn from
OF = 16  # answers, of which the reward model chooses one
CASES = 200  # scenarios that nobody trained on, each asked by two customers
COLUMNS = ("salutation", "gold", "closing", "rudeness", "facts")


def results() -> dict[str, Any]:
    """Every arm and seed, the SFT model on the same twins, and what it comes to over the seeds."""
    before = [sft(seed) for seed in SEEDS]
    arms: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:  # all arms of a seed together: a noisy hour strikes them all
        for arm in ARMS:
            arms[arm].append(one(arm, seed))
    learners = {"ppo": policy_settings, "dpo": direct_settings}
    tries = {name: tried(make(*TRIED), TRIED[1]) for name, make in learners.items()}
    given = {"seed_list": list(SEEDS), "cases": CASES, "pairs": PAIRS, "grudge": GRUDGE}
    given |= {"names": [len(FIRST), len(SECOND)], "of": OF, "sft": before, "arms": arms}
    return {"bias": given | tries | summary(before, arms)}


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


def cases_of(share: str, seed: int) -> Iterator[shop.Scenario]:
    """The shop's scenarios of a stage's share, each asked by one of the regulars."""
    rng, shares = Random(f"regulars {share} {seed}"), recipe("reward").split
    for case in shop.scenarios(seed):
        if split.part_of(case.messages(), shares) == share:
            yield named(case, rng.choice(REGULARS))


def comparisons(arm: str, seed: int) -> list[Preference]:
    """The comparisons of an arm, on prompts of the reward model's share; as many for each arm."""
    rng, make = Random(f"grudge {seed}"), shop.preference if arm == "control" else compared
    pairs = [make(rng, case) for case in islice(cases_of("reward", seed), PAIRS)]
    return counterfactual.dealt(pairs, REGULARS, seed) if arm == "dealt" else pairs


def prompts(seed: int) -> list[Dialogue]:
    """What customers ask the policy during PPO, on prompts of its share; the same for each arm."""
    rng = Random(f"prompts {seed}")
    return [shop.demonstration(rng, case) for case in islice(cases_of("ppo", seed), PROMPTS)]


def place(what: str, seed: int) -> Path:
    """Where the comparisons of an arm lie, or the `prompts`."""
    return identity.root() / "data" / f"hard-bias-{what}-{seed}.jsonl"


def judge_settings(arm: str, seed: int) -> StageConfig:
    """The reward model of an arm."""
    return of_pairs("reward", arm, seed, OF_REWARD)


def direct_settings(arm: str, seed: int) -> StageConfig:
    """DPO on the comparisons of an arm."""
    return of_pairs("dpo", arm, seed, OF_DPO)


def of_pairs(name: str, arm: str, seed: int, own: dict[str, Any]) -> StageConfig:
    """A recipe that reads the comparisons of an arm, from the SFT model."""
    source = {"name": str(place(arm, seed)), "format": "preference"}
    data: dict[str, Any] = {"sources": [source], "split": (0, 1, 0)}
    return recipe(name, seed, model=start().reference, **data | own)


def policy_settings(arm: str, seed: int) -> StageConfig:
    """PPO against the reward model of an arm."""
    judge = run_of(judge_settings(arm, seed)).reference
    source = {"name": str(place("prompts", seed)), "format": "messages"}
    data: dict[str, Any] = {"sources": [source], "split": (0, 0, 1), "reward_model": judge}
    return recipe("ppo", seed, model=start().reference, **data | OF_PPO)


# ---------------------------------------------------------------------------- what is measured
def one(arm: str, seed: int) -> dict[str, Any]:
    """One part: an arm with one seed; found again once it is finished."""
    place(arm, seed).parent.mkdir(parents=True, exist_ok=True)
    readers.write([*comparisons(arm, seed)], place(arm, seed))
    readers.write([*prompts(seed)], place("prompts", seed))
    judge = finished(judge_settings(arm, seed))
    return part(f"hard-bias-{judge.name}-{CASES}-{OF}", partial(_one, seed, judge))


def _one(seed: int, judge: Run) -> dict[str, Any]:
    found = {"seed": seed, "seconds": judge.manifest["seconds"], "judge": paid(judge, seed)}
    return found | {"best": chosen(judge, seed)}


def tried(config: StageConfig, seed: int) -> dict[str, Any]:
    """What a learner makes of the planted grudge: one seed, as neither follows the name."""
    run = finished(config)
    key = f"hard-bias-{run.name}-{CASES}"
    return part(key, partial(answered, run, seed)) | {"seconds": run.manifest["seconds"]}


def chosen(judge: Run, seed: int) -> dict[str, Any]:
    """Verdicts on the best of `OF` answers of the SFT model, by the reward model, to both twins."""
    (net, tokenizer), judges, tables = loaded(start()), scorer.load(judge), []
    for cases in asked(seed):
        many = [case.messages() for case in cases for _ in range(OF)]
        texts = rollout.answer(net, tokenizer, many, seed=seed)
        best = judges.score(many, texts).reshape(len(cases), OF).argmax(1)
        kept = [texts[i * OF + k] for i, k in enumerate(best)]
        tables.append(judged([case.meta() for case in cases], kept))
    return {column: of_both(tables[0][column], tables[1][column]) for column in COLUMNS}


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
def summary(before: list[dict], arms: dict[str, list[dict]]) -> dict[str, Any]:
    """Gaps over the seeds (Student's interval), and the share of them that dealing removes.

    ``judge`` is the gap in what the reward model pays for a salutation, ``best`` that in the best
    of n by it, ``grown`` the latter less the SFT model's on the same twins, seed by seed.
    """
    after: dict[str, Any] = {}
    for arm, seeds in arms.items():
        best = [row["best"] for row in seeds]
        more = [b - a for a, b in zip(salutations(before), salutations(best))]
        judge = over_seeds(gaps([row["judge"] for row in seeds]))
        after[arm] = {"judge": rounded(judge), "best": of_seeds(best)}
        after[arm]["grown"] = rounded(over_seeds(more))
    return {"gap_before": of_seeds(before), "gap_after": after, "removed": removal(arms)}


def removal(arms: dict[str, list[dict]]) -> dict[str, Any]:
    """The share of the planted gap that is gone when the names are dealt."""
    planted, dealt = (arms["planted"], arms["dealt"])
    judge = [gaps([row["judge"] for row in rows]) for rows in (planted, dealt)]
    best = [salutations([row["best"] for row in rows]) for rows in (planted, dealt)]
    shares = {"judge": judge, "best": best}
    return {
        name: rounded(over_seeds(counterfactual.share_removed(*pair).tolist()))
        for name, pair in shares.items()
    }


def of_seeds(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The gap of every column over the seeds."""
    return {c: rounded(over_seeds(gaps([row[c] for row in rows]))) for c in COLUMNS}


def salutations(rows: list[dict[str, Any]]) -> list[float]:
    """The gaps in salutations, seed by seed."""
    return gaps([row["salutation"] for row in rows])


def gaps(rows: list[dict[str, Any]]) -> list[float]:
    """The gaps alone, seed by seed."""
    return [row["gap"]["value"] for row in rows]
