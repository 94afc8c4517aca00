"""The shop's desk, and two more assistants by the same launches (chapter 16).

*Desk*: which answers of the shop's assistant may go out, and what tells them from the others.
The tutor's answers can be checked, so a checker pays in place of a reward model; beside it the
whole judge pays, as a control, and the SFT model's own best of several draws is what sampling alone
would give. The assistant with tools is tuned on demonstrations and then let loose on its calendar.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from chatlib.book.experiments import Witnesses, bracketed, finished, flatness, loaded, part
from chatlib.data.appointments import TASKS
from chatlib.evaluate import policy, scorer, selective, uses
from chatlib.lab import Run, launch, recipe
from chatlib.settings.stages import PPOConfig, SFTConfig

STAGES = ("sft", "reward", "ppo")
CORPORA = ("tutor", "calendar", "shop")
SEEDS, HELPED = (0, 1, 2), (0, 1)  # of the tutors, and of the assistants with tools
CHECKER = "chatlib.data.tutor:check"
CASES = 400  # prompts that nobody trained on, and as many with operands or names held out
# Of SFT: after the shop's 2,000 steps the held-out loss still fell.
STEPS, RECORDS = 6000, 60_000
DRAWS = 4  # answers to each of them
SENT, SURE = 600, 0.95  # prompts of the shop's desk, and the share right that is asked for
TRIES, DRAWN_ANEW = 4, 300  # answers drawn to each of them; bootstraps over prompts
AGAIN = (100, 16)  # of these prompts, and answers to each, for what k tries find
ITERATIONS, RATE = 100, 5e-4  # of RL: at the shop's rate a 0 or a 1 taught next to nothing in 55
# By how much a broken calculator is off. All minutes are multiples of five: off by ten it says what
# stood in the data, off by seven what never did.
SHIFTS = (0, 10, 7)
# who pays, and what differs from the recipe `rloo`; the judge's unit is about 1.6 of a score's
ARMS: dict[str, dict[str, Any]] = {
    "checker": {"reward": CHECKER},
    "judge": {"reward": "gold", "kl_ctl": 0.08},
}


def results() -> dict[str, Any]:
    """Both assistants, seed by seed; a finished part is not computed again."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in SEEDS:
        for arm in ("sft", *ARMS):
            rows.setdefault(arm, []).append(tutor(arm, seed))
    calendar = [assistant(seed) for seed in HELPED]
    desks = {"desk_prompts": SENT, "desk": [desk(seed) for seed in SEEDS]}
    given = {"seed_list": list(SEEDS), "cases": CASES, "draws": DRAWS, "again": list(AGAIN)}
    return (
        given
        | desks
        | {"tutor": {"arms": rows, "gains": gains(rows)}, "calendar": {"seeds": calendar}}
    )


def witnesses() -> Witnesses:
    """The first seed of everything."""
    found: Witnesses = {
        ("tutor", "arms", arm, 0): partial(tutor, arm, SEEDS[0]) for arm in ("sft", *ARMS)
    }
    return found | {
        ("desk", 0): partial(desk, SEEDS[0]),
        ("calendar", "seeds", 0): partial(assistant, SEEDS[0]),
    }


# --------------------------------------------------------------------------------- runs
def start(corpus: str, seed: int) -> SFTConfig:
    """SFT on a corpus: the shop's recipe, longer and on more, with its held-out loss on the way."""
    return recipe(  # type: ignore[return-value]
        "sft", seed, sources=corpus, steps=STEPS, records=RECORDS, eval_every=STEPS // 12
    )


def tuned(arm: str, seed: int) -> PPOConfig:
    """RLOO from the tutor's SFT model, without a reward model."""
    config = recipe(
        "rloo",
        seed,
        steps=ITERATIONS,
        actor_learning_rate=RATE,
        model=launch(start("tutor", seed)).reference,
        reward_model=None,
        sources="tutor",
        share_prompts=True,
        **ARMS[arm],
    )
    return config  # type: ignore[return-value]


# --------------------------------------------------------------------------------- desk
def desk(seed: int) -> dict[str, Any]:
    """The shop's SFT and PPO policy of a seed: what tells their right answers from wrong ones."""
    judge = finished(recipe("reward", seed))
    policies = {name: finished(recipe(name, seed)) for name in ("sft", "ppo")}
    return {
        name: part(
            f"uses-desk-{run.name}-{judge.name}-{SENT}-{TRIES}", partial(at_desk, run, judge)
        )
        for name, run in policies.items()
    }


def at_desk(run: Run, judge: Run) -> dict[str, Any]:
    """Pairs in order by both numbers, and what a threshold of the policy's own lets out."""
    served = partial(selective.served, *loaded(run), scorer.load(judge))
    new, kept = (served(policy.scenarios(SENT, held_out=which)) for which in (False, True))
    again = [served(policy.scenarios(SENT), temperature=1.0, seed=k) for k in range(TRIES)]
    drawn = pd.concat([table.assign(prompt=table.index) for table in again])
    on = {"all": new, "same kind": new, "same prompt": drawn}
    on = {how: table.assign(prompt=table.index) for how, table in on.items()}
    areas = {
        name: {how: area(table, name, how) for how, table in on.items()}
        for name in (selective.OWN, selective.LEARNT)
    }
    half = SENT // 2
    chosen = selective.curve(new[selective.OWN][:half], new["right"][:half])
    limit = chosen[chosen["right"] >= SURE]["threshold"].min()  # nan: none is as sure as that
    sides = {"chosen on": new[:half], "new": new[half:], "held out": kept}
    return {"areas": areas} | {side: let_out(table, limit) for side, table in sides.items()}


def let_out(table: pd.DataFrame, limit: float) -> dict[str, float]:
    """The share right of some answers, and how many a threshold lets out, right ones and all."""
    out = table[table[selective.OWN] >= limit]
    counts = {"answers": len(table), "out": len(out), "out and right": int(out["right"].sum())}
    return {"right": round(float(table["right"].mean()), 4), **counts}


def area(table: pd.DataFrame, name: str, how: str) -> dict[str, float]:
    """Share of the pairs that a number puts in order, with an interval from prompts drawn anew.

    ``how`` is which pairs count: "all", those of the "same kind" of question, of the "same prompt".
    """
    rng = np.random.default_rng(0)
    rows = [np.asarray(places) for places in table.groupby("prompt").indices.values()]

    def share(which: np.ndarray) -> float:
        of = table.iloc[np.concatenate([rows[i] for i in which])]
        prompt = np.repeat(np.arange(len(which)), [len(rows[i]) for i in which])
        group = {"all": None, "same kind": of["intent"], "same prompt": prompt}[how]
        won, pairs = selective.in_order(of[name], of["right"], group)
        return won / pairs

    drawn = [share(rng.integers(len(rows), size=len(rows))) for _ in range(DRAWN_ANEW)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = {"value": share(np.arange(len(rows))), "low": float(low), "high": float(high)}
    return {key: round(value, 4) for key, value in found.items()}


# -------------------------------------------------------------------------------- tutor
def tutor(arm: str, seed: int) -> dict[str, Any]:
    """One tutor: what it solves, sampled and greedy, of new prompts and of held-out ones."""
    run = launch(start("tutor", seed) if arm == "sft" else tuned(arm, seed))
    figures = part(f"uses-{run.name}-{CASES}-{DRAWS}", lambda: solving(run))
    if arm != "judge":
        figures |= part(f"uses-tries-{run.name}-{AGAIN[0]}-{AGAIN[1]}", lambda: again(run))
    if arm == "sft":
        return figures | flatness(run)
    return figures | {"curves": {k: run.metrics[k].round(4).tolist() for k in ("gold", "kl")}}


def solving(run: Run) -> dict[str, Any]:
    """Shares solved prompt by prompt, gold and its parts."""
    net, tokenizer = loaded(run)
    found: dict[str, Any] = {}
    for which in ("new", "held out"):
        cases = uses.scenarios("tutor", CASES, held_out=which == "held out")
        ask = partial(uses.assess, "tutor", net, tokenizer, cases, max_answer_tokens=48)
        drawn = [ask(seed=seed) for seed in range(DRAWS)]
        greedy = ask(temperature=0.0)
        parts = pd.DataFrame([p for table in drawn for p in table["parts"]]).fillna(0.0).mean()
        found[which] = {
            "solved": np.mean([t["solved"] for t in drawn], axis=0).round(4).tolist(),
            "greedy": greedy["solved"].astype(int).tolist(),
            "gold": float(np.mean([t["gold"].mean() for t in drawn])),
            "well_formed": float(np.mean([t["well_formed"].mean() for t in drawn])),
            "words": float(np.mean([t["answer"].str.split().str.len().mean() for t in drawn])),
            "parts": parts.round(4).to_dict(),
        }
    return found


def again(run: Run) -> dict[str, Any]:
    """Share of the first prompts that one of k draws solves, k = 1 to `AGAIN[1]`."""
    net, tokenizer = loaded(run)
    cases = uses.scenarios("tutor", AGAIN[0])
    ask = partial(uses.assess, "tutor", net, tokenizer, cases, max_answer_tokens=48)
    solved = np.stack([ask(seed=100 + k)["solved"] for k in range(AGAIN[1])])
    return {"again": uses.solved_within(solved).round(4).tolist()}


def gains(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """By arm and prompts: the mean gain over SFT, prompt by prompt, and its interval."""
    found: dict[str, Any] = {}
    for arm in ARMS:
        for which in ("new", "held out"):
            for how in ("solved", "greedy"):
                pairs = zip(rows[arm], rows["sft"])
                gain = [np.subtract(a[which][how], b[which][how]) for a, b in pairs]
                each = [round(float(g.mean()), 4) for g in gain]
                whole = bracketed(np.mean(gain, axis=0))
                found.setdefault(arm, {}).setdefault(which, {})[how] = whole | {"seeds": each}
    return found


# ----------------------------------------------------------------------------- calendar
def assistant(seed: int) -> dict[str, Any]:
    """The assistant with tools: what it gets done with them, without them, with a broken one."""
    run = launch(start("calendar", seed))
    return part(f"uses-{run.name}-{CASES}", lambda: working(run)) | flatness(run)


def working(run: Run) -> dict[str, Any]:
    """Shares of requests that are done, by task and by what the tools are."""
    from chatlib.train import rollout

    net, tokenizer = loaded(run)
    found: dict[str, Any] = {}

    def ask(talks: list[list[dict]]) -> list[str]:
        return rollout.answer(net, tokenizer, talks, temperature=0.0)

    for which in ("new", "held out"):
        cases = uses.scenarios("calendar", CASES, held_out=which == "held out")
        table = uses.outcomes(cases, uses.conversations(ask, cases))
        found[which] = {
            "done": bracketed(table["done"].astype(float)),
            "by_task": {task: round(float(own["done"].mean()), 4) for task, own in by(table)},
            "calls": float(table["calls"].mean()),
            "gold": float(table["gold"].mean()),
        }
    cases = uses.scenarios("calendar", CASES)
    without = uses.outcomes(cases, uses.conversations(ask, cases, most=0))
    found["without tools"] = bracketed(without["done"].astype(float))
    return found | {"broken": broken(ask, cases)}


def by(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each task, in the corpus's order."""
    return [(task, table[table["task"] == task]) for task in TASKS]


def broken(ask: Any, cases: list[Any]) -> dict[str, dict[str, float]]:
    """By how much the calculator is off: of the answers after its reply, the share that tells what
    it said, and the share that tells what a right one would have said."""
    sums = [case for case in cases if "calculator" in str(case.plan)]
    found = {}
    for shift in SHIFTS:
        talks = uses.conversations(ask, sums, reply=uses.off_by(shift))
        told = [
            one for case, (messages, _) in zip(sums, talks) if (one := last_sum(case, messages))
        ]
        found[str(shift)] = {
            "asked": len(told) / len(sums),
            "reply": float(np.mean([str(n) in re.findall("[0-9]+", text) for n, text in told])),
            "own": float(np.mean([str(n - shift) in re.findall("[0-9]+", t) for n, t in told])),
        }
    return found


def last_sum(case: Any, messages: list[dict]) -> tuple[int, str] | None:
    """(the calculator's last reply, the answer after it); None where it was not asked."""
    own = messages[len(case.messages()) :]
    replies = [m["content"] for m in own if m["role"] == "system"]
    numbers = [int(r[8:]) for r in replies if re.fullmatch(r"result: -?[0-9]+", r)]
    return (numbers[-1], own[-1]["content"]) if numbers else None
