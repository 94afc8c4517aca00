"""Smaller assistants (chapter 13): students of half the width, and the real model rounded.

Students: a new model of half the width learns from the PPO policy, by each loss of
`chatlib.maths.distillation` and on its own answers. The controls take the same steps on the same
prompts: SFT on the demonstrations, and SFT on answers that the teacher has written. The real model
of chapter 12, tuned in the shop, is rounded, and asked what it answers; its scales by activations
are chosen on other dialogues than it is judged on.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chatlib.book.experiments import Witnesses, bracketed, finished, loaded, part, real
from chatlib.compress import activation, folder
from chatlib.compress.folder import INT4, INT8
from chatlib.data import readers, shop, template
from chatlib.data.schema import Dialogue
from chatlib.evaluate import policy
from chatlib.evaluate.errors import components
from chatlib.lab import Run, recipe
from chatlib.runs import identity
from chatlib.settings.stages import TinyModel
from chatlib.train import rollout

STAGES = ("sft", "reward", "ppo", "distillation")
SEEDS = (0, 1)
CASES, REAL_CASES = 300, 60
STEPS = 1500  # of 16 dialogues, for every student
HALF = {"hidden_size": 64, "intermediate_size": 128}
ARMS: dict[str, dict[str, Any]] = {
    "forward": {"loss": "forward"},
    "reverse": {"loss": "reverse"},
    "hard": {"loss": "hard"},
    "on policy": {"loss": "reverse", "on_policy": 0.5},
}
CONTROLS = ("demonstrations", "teacher's answers")
WAYS = ("whole", "int8", "int4", "int4 aware")


def results() -> dict[str, Any]:
    """The students of all seeds, then the real model, part by part."""
    students = {arm: [student(arm, seed) for seed in SEEDS] for arm in (*ARMS, *CONTROLS)}
    teacher = [marked(teacher_of(seed)) for seed in SEEDS]
    found = {"steps": STEPS, "teacher": teacher, "students": students}
    return found | {"real": {way: rounded_real(way) for way in WAYS}}


def witnesses() -> Witnesses:
    """A student of every stage: the second control takes what SFT and rollouts give."""
    return {("students", arm, 0): partial(student, arm, 0) for arm in ("on policy", CONTROLS[1])}


# ------------------------------------------------------------------------------- students
def teacher_of(seed: int) -> Run:
    """The PPO policy of a seed."""
    return finished(recipe("ppo", seed))


def student(arm: str, seed: int) -> dict[str, Any]:
    """What a student of half the width is worth on both exams, and what it weighs."""
    teacher_of(seed)
    if arm in ARMS:
        return marked(finished(recipe("distillation", seed, steps=STEPS, **ARMS[arm])))
    changes: dict[str, Any] = {"steps": STEPS, "model": TinyModel(**HALF)}
    if arm == CONTROLS[1]:
        changes |= {"sources": str(written(seed)), "split": (1, 0, 0)}
    return marked(finished(recipe("sft", seed, **changes)))


def written(seed: int) -> Path:
    """The dialogues of SFT with the teacher's answers instead of people's: a file of a seed."""
    path = identity.root() / "data" / f"compression-{teacher_of(seed).name}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        net, tokenizer = loaded(teacher_of(seed))
        asked = shop.demonstrations(16 * STEPS, seed=seed)
        said = rollout.answer(net, tokenizer, [d.prompt for d in asked], seed=seed)
        turns = [[*d.prompt, {"role": "assistant", "content": a}] for d, a in zip(asked, said)]
        readers.write([Dialogue(messages) for messages in turns], path)
    return path


def marked(run: Run) -> dict[str, Any]:
    """Gold of sampled and greedy answers on new prompts and on held-out words, and bytes."""
    return part(f"compression-{run.name}-{CASES}", partial(exams, *loaded(run), CASES))


def exams(net: Any, tokenizer: Any, cases: int) -> dict[str, Any]:
    """The judge's means with intervals; parts of greedy answers; bytes of the weights."""
    found: dict[str, Any] = {"bytes_on_disk": folder.size(net)}
    for exam, held in {"new": False, "held out": True}.items():
        asked = policy.scenarios(cases, held_out=held)
        for how, temperature in {"sampled": 1.0, "greedy": 0.0}.items():
            table = policy.assess(net, tokenizer, asked, temperature=temperature)
            found[f"{exam}, {how}"] = bracketed(table["gold"])
        found[f"{exam}, parts"] = components(table).round(4).to_dict()
    return found


# --------------------------------------------------------------------- the real model, rounded
def rounded_real(way: str) -> dict[str, Any]:
    """The tuned real model in one of `WAYS`: greedy answers on both exams, bytes, speed."""
    run = real.tuned()
    return part(f"compression-real-{run.name}-{way}-{REAL_CASES}", partial(measured, run, way))


def measured(run: Run, way: str) -> dict[str, Any]:
    """Gold, what breaks by parts, perplexity, bytes and tokens a second."""
    net, tokenizer = loaded(run)
    one, size = smaller(net, tokenizer, way)
    found: dict[str, Any] = {"bytes_on_disk": size}
    began, words = time.monotonic(), 0
    for exam, held in {"new": False, "held out": True}.items():
        asked = policy.scenarios(REAL_CASES, held_out=held)
        options: dict[str, Any] = {"temperature": 0.0, "max_answer_tokens": real.ANSWER}
        table = policy.assess(one, tokenizer, asked, **options)
        words += sum(len(ids) for ids in tokenizer(table["answer"].tolist())["input_ids"])
        found[exam] = {
            "gold": table["gold"].round(4).tolist(),
            "mean": bracketed(table["gold"]),
            "parts": components(table).round(4).to_dict(),
        }
    seconds = time.monotonic() - began
    return found | {"seconds": seconds, "answer_tokens": words} | nats(one, tokenizer)


def smaller(net: Any, tokenizer: Any, way: str) -> tuple[Any, int]:
    """(the model in one of `WAYS`, its weights unpacked for speed; bytes packed)."""
    if way == "whole":
        return net, folder.size(net)
    how = INT8 if way == "int8" else INT4
    scales = activation.scales(net, texts(tokenizer), how) if way == "int4 aware" else None
    packed = folder.packed(net, how, scales)
    return folder.unpacked(packed), folder.size(packed)


def texts(tokenizer: Any, seed: int = 500) -> list[list[int]]:
    """Dialogues on which scales are chosen."""
    found = template.encode(tokenizer, [d.messages for d in shop.demonstrations(16, seed=seed)])
    return [one.ids for one in found]


@torch.no_grad()
def nats(net: Any, tokenizer: Any) -> dict[str, float]:
    """Nats a token on other dialogues, all tokens counted."""
    losses = [
        float(net(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss)
        for ids in texts(tokenizer, seed=600)
    ]
    return {"nats_a_token": sum(losses) / len(losses)}
