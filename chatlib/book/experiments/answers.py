"""One answer of every policy of the book to the same prompts: what the page of answers shows.

Half of the prompts are new, the other half use names, products and phrasings that nobody trained
on. Each policy answers once, sampled at temperature 1, as it is judged everywhere in the book.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from chatlib.book.experiments import Witnesses, alternatives, loaded, overoptimisation, part
from chatlib.data import shop
from chatlib.evaluate import policy
from chatlib.evaluate.gallery import PROMPTS, cases
from chatlib.lab import Run, launch, trained
from chatlib.train import rollout

STAGES = ("sft", "reward", "ppo", "dpo")
TUNED = {
    "PPO": "ppo",
    "REINFORCE": "reinforce",
    "RLOO": "rloo",
    "GRPO": "grpo",
    "Dr. GRPO": "dr_grpo",
    "distilled": "distil",
    "DPO": "dpo",
}


def results() -> dict[str, Any]:
    """The answers, a list for each policy, in the order of `chatlib.evaluate.gallery.cases`."""
    start = alternatives.start()
    trained("weak_reward")
    runs = {"SFT": start}
    runs |= {shown: launch(alternatives.settings(name, 0)) for shown, name in TUNED.items()}
    runs["over-optimised"] = launch(overoptimisation.settings("weak, fast", 0.0, 0))
    said = {
        shown: part(f"answers-{run.name}-{PROMPTS}", partial(answers_of, run))["answers"]
        for shown, run in runs.items()
    }
    best = part(f"answers-best-{start.name}-{PROMPTS}", best_answers)["answers"]
    prompts = [case.messages() for case in cases()]
    return {"seed_list": [0], "prompts": prompts, "answers": said | {"best of 16": best}}


def witnesses() -> Witnesses:
    """All of it: the answers are found as fast as a few of them."""
    return {("answers",): lambda: results()["answers"]}


def answers_of(run: Run) -> dict[str, Any]:
    """A sampled answer of a run's policy to each prompt."""
    net, tokenizer = loaded(run)
    return {"answers": rollout.answer(net, tokenizer, [case.messages() for case in cases()])}


def best_answers() -> dict[str, Any]:
    """The answer with the highest score, of several of the SFT model's to each prompt."""
    asked: list[shop.Scenario] = cases()
    rows, score = alternatives.drawn(asked, alternatives.BEST_OF, policy.UNSEEN, "model")
    return {"answers": [row[i] for row, i in zip(rows, score.argmax(1))]}
