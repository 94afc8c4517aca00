"""A pretrained model of 135M parameters, tuned on two cores (chapter 12), the tiny one beside it.

The core: SFT with adapters until its held-out loss is flat, a reward model, and RL without a critic
that reads each prompt once for its four answers. Launches save checkpoints and are resumed, so
that the experiment may be stopped anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np

from chatlib.book.experiments import Witnesses, bracketed, finished, loaded, part
from chatlib.data import shop
from chatlib.evaluate import novelty, policy
from chatlib.evaluate.errors import components
from chatlib.lab import Run, recipe, trained
from chatlib.train import rollout

STAGES = ("sft", "reward", "ppo")
CASES = 100  # prompts, the same for all; again with the held-out words
TEMPERATURES = (0.0, 0.3, 0.5, 0.7, 1.0)  # of which SFT's best is chosen on other prompts
CHOSEN_ON = 40
ANSWER = 48  # tokens
SAVED = 10  # steps between checkpoints
MODELS = ("raw", "SFT", "RL", "tiny SFT", "tiny RL")
# What it should still know after the shop: a question, and a word that a right answer has.
KNOWN = (
    ("What is the capital of France?", "paris"),
    ("What is the capital of Italy?", "rome"),
    ("What is the capital of Japan?", "tokyo"),
    ("What colour is the sky on a clear day?", "blue"),
    ("How many days are in a week?", "seven|7"),
    ("What is the opposite of hot?", "cold"),
    ("Which animal barks?", "dog"),
    ("What do bees make?", "honey"),
    ("Which planet do we live on?", "earth"),
    ("What is frozen water called?", "ice"),
    ("Who wrote Romeo and Juliet?", "shakespeare"),
    ("What is the largest ocean?", "pacific"),
    ("How many legs has a spider?", "eight|8"),
    ("What language is spoken in Spain?", "spanish"),
    ("What gas do plants take in?", "carbon"),
    ("What is the first month of the year?", "january"),
    ("Which metal is attracted by a magnet?", "iron|steel"),
    ("What is two plus two?", "four|4"),
    ("In which country are the pyramids of Giza?", "egypt"),
    ("What do you call a baby cat?", "kitten"),
)


def results() -> dict[str, Any]:
    """The runs and what they can do; a finished part is not computed again."""
    core = {name: evaluated(name) for name in MODELS}
    given = {"cases": CASES, "temperatures": list(TEMPERATURES)}
    asked_again = {name: declined(name) for name in ("raw", "SFT", "RL")}
    return given | {"core": core, "runs": training(), "declined": asked_again}


def witnesses() -> Witnesses:
    """The tiny model beside it: the real one is too long to be trained twice."""
    return {("core", "tiny RL"): partial(evaluated, "tiny RL")}


# ------------------------------------------------------------------------------ the runs
def sft() -> Run:
    """The real model after supervised fine-tuning."""
    return finished(recipe("sft", profile="small", save_every=SAVED))


def reward() -> Run:
    """Its reward model."""
    return finished(recipe("reward", profile="small", model=sft().reference, save_every=SAVED))


def tuned() -> Run:
    """Its policy after RL: RLOO, four answers to a prompt."""
    return finished(
        recipe(
            "rloo",
            profile="small",
            model=sft().reference,
            reward_model=reward().reference,
            save_every=SAVED,
        )
    )


def training() -> dict[str, Any]:
    """What the launches said of themselves: curves, seconds, memory."""
    found: dict[str, Any] = {}
    for name, of in (("sft", sft()), ("reward", reward()), ("rl", tuned())):
        rows, manifest = of.metrics, of.manifest
        shown = [
            k for k in ("loss", "held_out_loss", "accuracy", "gold", "score", "kl") if k in rows
        ]
        found[name] = {k: rows[k].dropna().round(4).tolist() for k in shown}
        kept = ("seconds", "train_seconds", "peak_bytes", "chance_to_bayes", "held_out_accuracy")
        found[name] |= {k: manifest[k] for k in kept if k in manifest}
    return found


# ------------------------------------------------------------------------- what they can do
def policy_of(name: str) -> tuple[Any, Any, str]:
    """(model, tokenizer, its name among the parts) of one of `MODELS`."""
    from chatlib.train import models

    if name == "raw":
        reference = recipe("sft", profile="small").model
        tokenizer = models.load_tokenizer(cast(str, reference))
        with models.no_bar():
            return models.load_policy(cast(str, reference), tokenizer), tokenizer, "raw"
    runs: dict[str, Callable[[], Run]] = {"SFT": sft, "RL": tuned}
    of = runs[name]() if name in runs else trained("sft" if name == "tiny SFT" else "ppo")
    return *loaded(of), of.name


def evaluated(name: str) -> dict[str, Any]:
    """Gold, facts and names of one model on new prompts and held-out words, by temperature."""
    net, tokenizer, called = policy_of(name)
    figures = before if name == "raw" else measured
    return part(f"real-{called}-{CASES}", lambda: figures(net, tokenizer))


def before(net: Any, tokenizer: Any) -> dict[str, Any]:
    """What an untuned model says, sampled and greedy: it rambles, so each answer is a long one."""
    found: dict[str, Any] = {"known": known(net, tokenizer)}
    for which, held in {"new prompts": False, "held-out words": True}.items():
        cases = policy.scenarios(CASES, held_out=held)
        temperatures = {"sampled": 1.0, "greedy": 0.0}
        found[which] = {how: said(net, tokenizer, cases, t) for how, t in temperatures.items()}
    return found


def measured(net: Any, tokenizer: Any) -> dict[str, Any]:
    """All figures of one policy; gold is kept prompt by prompt, for paired differences."""
    chosen = policy.scenarios(CHOSEN_ON, seed=policy.UNSEEN + 1)
    best = max(TEMPERATURES, key=lambda t: gold(net, tokenizer, chosen, t).mean())
    found: dict[str, Any] = {"best_temperature": best} | before(net, tokenizer)
    new = policy.scenarios(CASES)
    for which, cases in {
        "new prompts": new,
        "held-out words": policy.scenarios(CASES, held_out=True),
    }.items():
        found[which]["best"] = said(net, tokenizer, cases, best)
    for kind in novelty.WORDS:  # one kind of words new, the others known
        renewed = novelty.renewed(new, [kind])
        found[f"new {kind}"] = {"sampled": said(net, tokenizer, renewed, 1.0)}
    return found


def gold(net: Any, tokenizer: Any, cases: list[shop.Scenario], temperature: float) -> Any:
    """The judge's verdicts on an answer to each prompt. (cases,)"""
    return asked(net, tokenizer, cases, temperature)["gold"].to_numpy()


def asked(net: Any, tokenizer: Any, cases: list[shop.Scenario], temperature: float) -> Any:
    """An answer to each prompt, judged: `policy.assess`."""
    options: dict[str, Any] = {"temperature": temperature, "max_answer_tokens": ANSWER}
    return policy.assess(net, tokenizer, cases, **options)


def said(
    net: Any, tokenizer: Any, cases: list[shop.Scenario], temperature: float
) -> dict[str, Any]:
    """Gold prompt by prompt; means of facts, names and numbers grounded, form and words."""
    table = asked(net, tokenizer, cases, temperature)
    grounded = policy.grounding(cases, table["answer"].tolist())["grounded"]
    return {
        "gold": table["gold"].round(4).tolist(),
        "mean": bracketed(table["gold"]),
        "facts": float(components(table)["facts"]) / 2,
        "grounded": grounded.dropna().round(4).to_dict(),  # without what nobody stated
        "well_formed": float(table["well_formed"].mean()),
        "words": float(table["answer"].str.split().str.len().mean()),
        "answers": table["answer"][:4].tolist(),
    }


def known(net: Any, tokenizer: Any) -> float:
    """Share of `KNOWN` that is answered rightly."""
    right = [
        re.search(rf"\b(?:{wanted})\b", text.lower()) is not None
        for text, (_, wanted) in zip(replies(net, tokenizer), KNOWN)
    ]
    return float(np.mean(right))


def replies(net: Any, tokenizer: Any) -> list[str]:
    """The likeliest answers to `KNOWN`, without the shop's facts before the questions."""
    asked = [[{"role": "user", "content": question}] for question, _ in KNOWN]
    return rollout.answer(net, tokenizer, asked, max_answer_tokens=24, temperature=0.0)


def declined(name: str) -> dict[str, Any]:
    """How often `KNOWN` is declined, as the shop does with what is none of its business."""
    net, tokenizer, called = policy_of(name)

    def counted() -> dict[str, Any]:
        texts = replies(net, tokenizer)
        refused = [re.search("only help|cannot|can't", text.lower()) is not None for text in texts]
        return {"share": float(np.mean(refused)), "answers": texts[:6]}

    return part(f"real-declined-{called}", counted)
