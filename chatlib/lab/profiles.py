"""Recipes of the book's runs, and the machines they are for.

`recipe("ppo")` is a complete configuration: the runs it builds on are named by their own
recipes, so it can be written down before anything was trained. `trained("ppo")` returns the
finished run, training what is missing first.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from chatlib.lab import runs
from chatlib.lab.config import PPOConfig, RewardConfig, SFTConfig, StageConfig
from chatlib.lab.launch import launch
from chatlib.lab.runs import Run

SHOP = {"split": (6, 2, 2)}  # the shop invents as much as is asked: SFT gets the larger share


def sft(seed: int = 0, **changes) -> SFTConfig:
    """The policy that imitates the demonstrations."""
    settings = dict(
        records=24_000,
        batch_size=16,
        steps=2000,
        learning_rate=3e-3,
        num_warmup_steps=50,
        seed=seed,
    )
    return SFTConfig(**SHOP | settings | changes)


def reward(seed: int = 0, **changes) -> RewardConfig:
    """The reward model of the book."""
    settings = dict(
        model=_run(sft(seed)),
        records=9_000,
        held_out=1500,
        batch_size=32,
        steps=230,
        learning_rate=1e-3,
        seed=seed,
    )
    return RewardConfig(**SHOP | settings | changes)


def weak_reward(seed: int = 0, **changes) -> RewardConfig:
    """A reward model of few pairs, easily fooled: what over-optimisation needs (chapter 6)."""
    settings = dict(model=_run(sft(seed)), records=96, held_out=16, steps=12, seed=seed)
    return RewardConfig(**SHOP | settings | changes)


def ppo(seed: int = 0, **changes) -> PPOConfig:
    """The policy tuned against the reward model."""
    settings = dict(
        model=_run(sft(seed)),
        reward_model=_run(reward(seed)),
        records=4000,
        batch_size=64,
        steps=55,
        seed=seed,
    )
    return PPOConfig(**SHOP | settings | changes)


def overoptimised(seed: int = 0, **changes) -> PPOConfig:
    """PPO against the weak reward model without any KL penalty."""
    settings = dict(
        reward_model=_run(weak_reward(seed)),
        kl_ctl=0.0,
        steps=60,
        actor_learning_rate=2e-3,
        critic_learning_rate=1e-3,
    )
    return ppo(seed, **settings | changes)


def control(seed: int = 0, **changes) -> PPOConfig:
    """As `overoptimised`, but for beta."""
    return overoptimised(seed, **{"kl_ctl": 0.2} | changes)


RECIPES: dict[str, Callable[..., StageConfig]] = {
    f.__name__: f for f in (sft, reward, weak_reward, ppo, overoptimised, control)
}


def _run(config: StageConfig) -> str:
    return f"run:{runs.run_name(config)}"


def recipe(name: str, seed: int = 0, **changes) -> StageConfig:
    """The configuration of one of the book's runs; ``changes`` replace fields of it.

    Raises `ValueError` for an unknown name.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} does not exist; use one of {', '.join(RECIPES)}")
    return RECIPES[name](seed, **changes)


def trained(name: str, seed: int = 0, **changes) -> Run:
    """The finished run of a recipe; what it builds on, and itself, is trained where missing."""
    config = recipe(name, seed, **changes)
    wanted = {getattr(config, field, None) for field in ("model", "reward_model")}
    for earlier in RECIPES:
        if earlier != name and _run(recipe(earlier, seed)) in wanted:
            trained(earlier, seed)
    return launch(config)


def profile() -> str:
    """The machine's profile: `CHATLIB_PROFILE`, or `laptop`."""
    return os.environ.get("CHATLIB_PROFILE", "laptop")
