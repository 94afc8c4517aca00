"""Tiny stages for tests: configurations, models from elsewhere, a stage run in this process."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from chatlib.data import template
from chatlib.lab import launch
from chatlib.runs.files import write_json
from chatlib.runs.recorder import Recorder
from chatlib.runs.store import Run
from chatlib.settings.stages import (
    DPOConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
    StageConfig,
    TinyModel,
)

CONTEXT = 160
TINY = TinyModel(hidden_size=32, layers=2, heads=2, vocab_size=512, context=CONTEXT)
# the columns of `metrics.jsonl` that no two runs have alike
TIMES = ["samples_per_second", "tokens_per_second", "tflops", "tflops_per_rank"]
TIMES += [f"{part}_seconds" for part in ("generate", "score", "learn")]
TIMES += ["generate_tflops", "learn_tflops", "generation_share"]
SMALL = dict(ranks=1, records=120, held_out=16, batch_size=8, max_seq_len=CONTEXT)


def sft(**changes) -> SFTConfig:
    return SFTConfig(**SMALL | dict(model=TINY, steps=4, num_warmup_steps=1) | changes)


def reward(model, **changes) -> RewardConfig:
    small = dict(model=model, steps=4, num_warmup_steps=1, reference_samples=32)
    return RewardConfig(**SMALL | small | changes)


def dpo(model, **changes) -> DPOConfig:
    return DPOConfig(**SMALL | dict(model=model, steps=4, num_warmup_steps=1) | changes)


def ppo(model, reward_model, **changes) -> PPOConfig:
    small = dict(model=model, reward_model=reward_model, steps=2, max_answer_tokens=12)
    return PPOConfig(**SMALL | small | changes)


def train(config: StageConfig, directory: Path, checkpoint: Path | None = None) -> Run:
    """Run a stage as this process's rank, leave a complete run directory."""
    (directory / "log").mkdir(parents=True, exist_ok=True)
    stage = importlib.import_module(f"chatlib.train.{config.stage}")
    summary = stage.train(config, Recorder(directory, *place(), checkpoint))
    if place()[0] == 0:
        write_json(directory / "manifest.json", summary | {"status": "complete"})
    return Run(directory)


def place() -> tuple[int, int]:
    """(rank, world) of this process."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def launched(stage: str, home: Path, inputs: dict[str, str]) -> Path:
    """The directory of a launch in two ranks of a test's own stage, a module in this folder."""
    import faults  # here: a rank that imports this module finds its own folder only

    write_json(home / "inputs.json", inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLIB_RUNS", str(home))
        patch.setenv("CHATLIB_PROGRESS", "none")
        folders = (Path(__file__).parent, Path(__file__).parents[1] / "launch")
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        with faults.stage(stage):
            return launch(sft(ranks=2), timeout=300).directory


def losses(run: Run, column: str = "loss") -> list[float]:
    return run.metrics[column].dropna().tolist()


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """What a model folder's safetensors file holds."""
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference between two models' weights."""
    assert a.keys() == b.keys()
    return max((a[name].float() - b[name].float()).abs().max().item() for name in a)


# ------------------------------------------------------------- models from elsewhere
TEXT = ["The shop is open from nine to five. Your order 123 is due on Monday, Anna."] * 4


def foreign_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2 has it: no chat template, no pad token, one end-of-text token."""
    tokenizer = template.train_tokenizer(TEXT, 300)
    backend = tokenizer.backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def foreign_model(shape: str, vocabulary: int, seed: int = 0):
    """A causal language model of a public shape, with random weights and its usual dropout."""
    torch.manual_seed(seed)
    if shape == "gpt2":
        sizes = dict(n_embd=32, n_layer=2, n_head=2, n_positions=CONTEXT)
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **sizes))
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    if shape == "opt":  # OPT-350m's shape: embeddings narrower than the layers
        sizes |= dict(ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False)
        return OPTForCausalLM(
            OPTConfig(vocab_size=vocabulary, max_position_embeddings=CONTEXT, **sizes)
        )
    sizes |= dict(intermediate_size=64, max_position_embeddings=CONTEXT)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes))


def foreign_folder(directory: Path, shape: str) -> Path:
    """A model folder that knows nothing of this project."""
    tokenizer = foreign_tokenizer()
    foreign_model(shape, len(tokenizer)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
