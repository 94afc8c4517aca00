"""Each stage's step in bf16 against the same step in fp32: what 16 bits bring on this processor.

Without instructions for bf16 (AVX-512 BF16, AMX) a processor converts, and loses; nothing is asked.
"""

from __future__ import annotations

import ppo_rows
import reward_rows
import sft_rows
import work
from compare import Row, Side, in_turns

from chatlib.settings.stages import StageConfig


def in_bf16(config: StageConfig) -> StageConfig:
    """The same settings in the other number format."""
    return config.model_copy(update={"dtype": "bf16"})


def sft(rounds: int) -> Row:
    """Supervised fine-tuning."""
    config, pad = work.sft_config(), work.tokenizer().pad_token_id
    batches = work.dialogues(config, sft_rows.STEPS * (rounds + 1))
    sides = [sft_rows.deepspeed_side(c, batches, pad) for c in (in_bf16(config), config)]
    return row("SFT", "tokens", sft_rows.tokens(batches), sides, rounds)


def reward(rounds: int) -> Row:
    """The reward model."""
    config = work.reward_config()
    batches = work.pairs(config, reward_rows.STEPS * (rounds + 1))
    sides = [reward_rows.deepspeed_side(c, batches) for c in (in_bf16(config), config)]
    return row("reward model", "pairs", reward_rows.STEPS * config.batch_size, sides, rounds)


def ppo(rounds: int) -> Row:
    """PPO, each side on its own draws."""
    config = work.ppo_config()
    batches = ppo_rows.asked_in(config, rounds)
    sides = [ppo_rows.chatlib_side(c, batches) for c in (in_bf16(config), config)]
    return row("PPO", "iterations", ppo_rows.ITERATIONS, sides, rounds)


def row(stage: str, unit: str, units: float, sides: list[Side], rounds: int) -> Row:
    """The row of two sides: how many times faster bf16 is."""
    return Row(f"{stage}: bf16 / fp32", None, unit, units, *in_turns(*sides, rounds))
