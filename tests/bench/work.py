"""The work that both sides do: the book's own models, and batches of the shop's token ids."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random

import torch
from compare import LAUNCH, THREADS
from transformers import PreTrainedTokenizerBase

from chatlib import lab
from chatlib.data import collate, sources
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import DPOConfig, PPOConfig, RewardConfig, SFTConfig, StageConfig
from chatlib.train import dpo, engine, models, ppo, reward, sft

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "_build" / "bench"
LEARNING_RATE = 1e-5  # small: the models, and so the lengths of their answers, stay as they are
ONE_PROCESS = dict(ranks=1, num_warmup_steps=0, lr_scheduler_type="linear")


def recorder() -> Recorder:
    """Of a run that is not kept: the stages' functions want one."""
    (FOLDER / "log").mkdir(parents=True, exist_ok=True)
    return Recorder(FOLDER, 0, 1)


def start() -> torch.device:
    """This process as the only rank of a DeepSpeed launch, once the models are there."""
    for stage in ("sft", "reward"):
        model(stage)
    os.environ |= LAUNCH
    torch.set_num_threads(THREADS)
    return engine.start(sft_config(), recorder())


def model(stage: str) -> Path:
    """The folder of the book's model of a stage, trained now if it was not yet."""
    return lab.trained(stage).model_dir


def tokenizer() -> PreTrainedTokenizerBase:
    """The one tokenizer of the book's models."""
    return models.load_tokenizer(str(model("sft")))


def sft_config() -> SFTConfig:
    """SFT's recipe for one process, continued from its own model."""
    return lab.recipe("sft", model=str(model("sft")), records=6000, **ONE_PROCESS)


def reward_config() -> RewardConfig:
    """The reward model's recipe for one process."""
    return lab.recipe("reward", records=6000, **ONE_PROCESS)


def ppo_config() -> PPOConfig:
    """PPO's recipe for one process."""
    rates = dict(actor_learning_rate=LEARNING_RATE, critic_learning_rate=LEARNING_RATE)
    return lab.recipe("ppo", records=2000, **ONE_PROCESS, **rates)


def dpo_config() -> DPOConfig:
    """DPO's recipe for one process."""
    return lab.recipe("dpo", model=str(model("sft")), records=6000, **ONE_PROCESS)


def grpo_config() -> PPOConfig:
    """GRPO's recipe for one process."""
    return lab.recipe("grpo", records=2000, actor_learning_rate=LEARNING_RATE, **ONE_PROCESS)


def dialogues(config: SFTConfig, batches: int) -> list[list]:
    """Batches of encoded dialogues in the order in which the SFT stage takes them."""
    rows, _ = sft.encode(tokenizer(), sources.load(config).train, config.max_seq_len, recorder())
    return _batches(config, rows, [len(e.ids) for e in rows], batches)


def pairs(config: RewardConfig, batches: int) -> list[list[reward.Pair]]:
    """Batches of encoded pairs in the order in which the reward stage takes them."""
    records = sources.load(config).train
    rows, *_ = reward.encode(tokenizer(), records, config.max_seq_len, recorder())
    return _batches(config, rows, [len(row) for row in reward.side_by_side(rows)[0]], batches)


def pairs_apart(config: DPOConfig, batches: int) -> list[list[dpo.Pair]]:
    """Batches of encoded (prompt, chosen, rejected) as the DPO stage takes them."""
    records = sources.load(config).train
    rows, *_ = reward.encode_apart(tokenizer(), records, config.max_seq_len, recorder())
    return _batches(config, rows, [len(p) + max(len(a), len(b)) for p, a, b in rows], batches)


def prompts(config: PPOConfig) -> list[list[int]]:
    """Encoded prompts of the PPO stage."""
    limit = config.max_seq_len - config.max_answer_tokens
    return ppo.encode(tokenizer(), sources.load(config).train, limit)[0]


def _batches(config: StageConfig, rows: list, lengths: list[int], count: int) -> list[list]:
    order = collate.Batches(lengths, config.batch_size, config.seed)
    return [[rows[i] for i in order.at(step)] for step in range(count)]


def regrouped(batches: list[list], steps: int) -> list[list]:
    """Every round's examples put into batches at random, as a trainer without buckets does."""
    rng, out = Random(0), []
    for first in range(0, len(batches), steps):
        examples = [e for batch in batches[first : first + steps] for e in batch]
        rng.shuffle(examples)
        size = len(batches[first])
        out += [examples[i : i + size] for i in range(0, len(examples), size)]
    return out


def write(name: str, records: list[dict]) -> str:
    """Records as JSON lines for the other environment; returns the path."""
    path = FOLDER / f"{name}.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return str(path)
