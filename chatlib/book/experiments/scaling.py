"""A scaling law of the shop: SFT of four widths on four amounts of data (chapter 9).

Each cell is a launch of its own. What differs: the width d (feed-forward 2 d, two layers) and the
number of steps. The rule of the budget: one pass, no dialogue twice, so that steps times batch are
the dialogues seen; the schedule ends with the last step (Hoffmann et al. 2022), a tenth of it
warms up; peak rate and first weights follow 1 / sqrt(d). All cells are judged on the same held-out
dialogues. Beside the grid, at one amount of data: another seed, and half and twice the rate.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from chatlib.book.experiments import Witnesses, part
from chatlib.lab import SFTConfig, TinyModel, launch, run_of
from chatlib.launch import memory

STAGES = ("sft",)
WIDTHS = (32, 64, 128, 256)
STEPS = (64, 160, 400, 1000)  # of `BATCH` dialogues each, all of them new
BATCH, HELD_OUT = 16, 1000
ASIDE = STEPS[1]  # where the seed and the rate vary
RATE, STD, AT = 3e-3, 0.06, 128  # those of the book's model, and its width


def model(width: int) -> TinyModel:
    """The model of a width, its first weights scaled with it."""
    std = STD * math.sqrt(AT / width)
    return TinyModel(hidden_size=width, intermediate_size=2 * width, init_std=std)


def config(width: int, steps: int, seed: int = 0, rate: float = 1.0) -> SFTConfig:
    """One cell; ``rate`` times the rule's peak learning rate."""
    return SFTConfig(
        model=model(width),
        split=(6, 2, 2),
        records=BATCH * max(STEPS) + HELD_OUT,
        held_out=HELD_OUT,
        batch_size=BATCH,
        steps=steps,
        num_warmup_steps=steps // 10,
        learning_rate=rate * RATE * math.sqrt(AT / width),
        seed=seed,
        ranks=2,
    )


def cell(width: int, steps: int, seed: int = 0, rate: float = 1.0) -> dict[str, Any]:
    """The figures of one launch: sizes in weights and tokens, losses in nats an answer token."""
    of = config(width, steps, seed, rate)

    def measured() -> dict[str, Any]:
        manifest, shapes = launch(of).manifest, memory.tiny_shapes(model(width))
        embedding = math.prod(shapes["embed_tokens.weight"])
        return {
            "width": width,
            "steps": steps,
            "seed": seed,
            "rate": rate,
            "weights": memory.trained(shapes, None) - embedding,
            "embedding": embedding,
            "tokens": manifest["tokens"],
            "examples": manifest["examples"],
            "held_out_loss": manifest["held_out_loss"],
            "seconds": manifest["seconds"],
        }

    return part(f"scaling-{run_of(of).name}", measured)


def results() -> dict[str, object]:
    """The grid, a second seed for every width, and two other rates for the outer widths."""
    ends = (WIDTHS[0], WIDTHS[-1])
    return {
        "seed_list": [0, 1],
        "cells": [cell(width, steps) for width in WIDTHS for steps in STEPS],
        "seeds": [cell(width, ASIDE, seed=1) for width in WIDTHS],
        "rates": [cell(width, ASIDE, rate=rate) for width in ends for rate in (0.5, 2.0)],
    }


def witnesses() -> Witnesses:
    """The narrowest and the widest model on the least data, and another rate."""
    least = {width: partial(cell, width, STEPS[0]) for width in (WIDTHS[0], WIDTHS[-1])}
    found: Witnesses = {("cells", WIDTHS.index(w) * len(STEPS)): one for w, one in least.items()}
    return found | {("rates", 0): partial(cell, WIDTHS[0], ASIDE, rate=0.5)}
