"""What is hard (chapter 15): privacy, bias and attacks, each an experiment of its own module."""

from __future__ import annotations

from functools import partial
from typing import Any

from chatlib.book.experiments import Witnesses, hard_attacks, hard_bias, hard_privacy

STAGES = ("sft", "reward", "ppo", "dpo")


def results() -> dict[str, Any]:
    """All three; what is finished is found again."""
    found = hard_privacy.results() | hard_bias.results() | {"attacks": hard_attacks.results()}
    return {"seed_list": list(hard_attacks.SEEDS), **found}


def witnesses() -> Witnesses:
    """An arm of each: with planted numbers, with the grudge, and an attack that is tuned away."""
    return {
        ("privacy", "arms", "planted", 0): partial(hard_privacy.one, "planted", 0),
        ("bias", "arms", "planted", 0): partial(hard_bias.one, "planted", 0),
        ("attacks", "seeds", 0): partial(hard_attacks.hardened, hard_attacks.SEEDS[0]),
    }
