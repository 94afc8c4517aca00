"""The bytes that a rank will hold, by part: one rule for pages, `dry_run` and tests."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

from chatlib.maths import scaling
from chatlib.maths.scaling import WIDTH, Parts, Shape, lora_weights, offloaded, state_bytes
from chatlib.runs.files import RunError, read_json
from chatlib.runs.identity import resolve
from chatlib.settings.deepspeed import BUCKET, resolve_dtype, zero_stage
from chatlib.settings.distillation import DistillationConfig
from chatlib.settings.stages import (
    DPOConfig,
    Lora,
    PPOConfig,
    RewardConfig,
    Role,
    StageConfig,
    TinyModel,
)

Shapes = dict[str, list[int]]  # weight names and their shapes
PROCESS = 600 * 2**20  # bytes of a process that has loaded torch, transformers and deepspeed


def stored_shapes(folder: Path) -> Shapes:
    """The weights in a model folder, from the headers of its safetensors files."""
    shapes: Shapes = {}
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        shapes |= {k: entry["shape"] for k, entry in header.items() if k != "__metadata__"}
    return shapes


def tiny_shapes(model: TinyModel) -> Shapes:
    """The weights of `chatlib.train.models.tiny_policy`, whose output layer is the embedding."""
    d, wide = model.hidden_size, model.intermediate_size
    shapes: Shapes = {"embed_tokens.weight": [model.vocab_size, d], "norm.weight": [d]}
    for layer in range(model.layers):
        square = {f"{layer}.{name}_proj.weight": [d, d] for name in "qkvo"}
        gated = {f"{layer}.{name}_proj.weight": [wide, d] for name in ("gate", "up", "down")}
        norms = {f"{layer}.norm{i}.weight": [d] for i in (1, 2)}
        shapes |= square | gated | norms
    return shapes


def shapes_of(model: TinyModel | str) -> Shapes | None:
    """The weights of a model that a configuration names; None when it is not here (yet)."""
    if isinstance(model, TinyModel):
        return tiny_shapes(model)
    try:
        place = resolve(model)
    except RunError:
        return None
    return stored_shapes(place) if isinstance(place, Path) else None


def trained(shapes: Shapes, lora: Lora | None) -> int:
    """Weights that get a gradient: all, or the two factors of each adapted layer."""
    if lora is None:
        return sum(map(math.prod, shapes.values()))
    named = {name: s for name, s in shapes.items() if name.split(".")[-2] in lora.lora_module_name}
    lowest = 1 + max(map(block, named), default=-1) - (lora.top_layers or len(named))
    adapted = [s for name, s in named.items() if block(name) >= lowest]
    return lora_weights(adapted, lora.lora_dim)


def block(name: str) -> int:
    """The number of the block that a weight stands in: 3 of `model.layers.3.mlp.up_proj.weight`."""
    return int(next((part for part in name.split(".") if part.isdigit()), 0))


def states(config: StageConfig, device: str, role: Role, shapes: Shapes) -> Parts:
    """Weights, gradients and optimizer states of one trained model, in bytes per rank."""
    counts = trained(shapes, None), trained(shapes, config.of(role, "lora"))
    dtype = resolve_dtype(config, device)
    return state_bytes(*counts, config.ranks, zero_stage(config, role), dtype)


def role_memory(config: StageConfig, device: str, role: Role, shapes: Shapes) -> Parts:
    """Predicted bytes per rank for one trained model, and for the frozen one like it in PPO."""
    dtype, stage, on_card = resolve_dtype(config, device), zero_stage(config, role), device != "cpu"
    parts, weights = states(config, device, role, shapes), trained(shapes, None)
    if config.offload and on_card:
        parts = offloaded(parts, stage)[0]
    if stage:  # where gradients wait to be reduced; a CPU pays only for what is written to
        bucket = config.zero_bucket_size or BUCKET
        parts["bucket"] = WIDTH[dtype] * (bucket if on_card else min(bucket, weights))
    if not isinstance(config, PPOConfig):
        return parts
    away = role == "actor" and config.offload_reference_model
    none = config.starts_as_reference if role == "actor" else config.reward_model is None
    kept = state_bytes(weights, 0, config.ranks, 3 if away else stage, dtype)["weights"]
    return parts | {"reference and reward model": 0 if none or (away and on_card) else kept}


def memory(config: StageConfig, device: str) -> Parts | None:
    """Predicted bytes per rank by part; None when the model's size is not known here.

    Offloading moves the optimizer (stages 2 and 3: gradients, stage 3: weights too) and PPO's
    reference into the host's memory, where a CPU rank has everything anyway. The states are counted
    as if all were there at the moment of most activations; `activations` is left out where a model
    is no Llama.
    """
    total = {"process": PROCESS}
    for role, shapes in trained_models(config).items():
        if shapes is None:
            return None
        for name, size in role_memory(config, device, role, shapes).items():
            total[name] = total.get(name, 0) + size
    if isinstance(config, DistillationConfig):
        taught_by = shapes_of(config.teacher)
        if taught_by is None:
            return None
        total["teacher"] = WIDTH[resolve_dtype(config, device)] * trained(taught_by, None)
    if isinstance(config, PPOConfig) and "critic" not in config.roles:
        scorer = shapes_of(config.reward_model) if config.reward_model else None
        if scorer is None and config.reward_model:
            return None
        stage, dtype = config.zero_stage, resolve_dtype(config, device)
        size = trained(scorer, None) if scorer else 0
        kept = state_bytes(size, 0, config.ranks, stage, dtype)["weights"]
        total["reference and reward model"] += kept
    models = {role: architecture(model) for role, model in started_from(config).items()}
    known = {role: adapted(config, role, shape) for role, shape in models.items() if shape}
    if len(known) < len(models):
        return total
    return total | {"activations": activations(config, device, known)}


# ------------------------------------------------------------------- activations

LLAMA = {  # fields of a `config.json`
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "inner": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}


def adapted(config: StageConfig, role: Role, shape: Shape) -> Shape:
    """The model as far as its activations wait for the backward pass: from the lowest adapter."""
    lora = config.of(role, "lora")
    return replace(shape, layers=lora.top_layers) if lora and lora.top_layers else shape


def architecture(model: TinyModel | str) -> Shape | None:
    """The widths of a model that a configuration names; None where it is no Llama, or not here.

    A Llama is what has Llama's fields in its `config.json`: Mistral, Qwen and others do.
    """
    if isinstance(model, TinyModel):
        d = model.hidden_size
        return Shape(model.vocab_size, d, model.intermediate_size, model.layers, model.heads, d)
    try:
        place = resolve(model)
    except RunError:
        return None
    found = read_json(place / "config.json") if isinstance(place, Path) else {}
    if not {*LLAMA.values(), "rms_norm_eps"} <= found.keys():
        return None
    sizes = {name: found[field] for name, field in LLAMA.items()}
    groups = found.get("num_key_value_heads") or sizes["heads"]
    head = found.get("head_dim") or sizes["width"] // sizes["heads"]
    return Shape(**sizes, kv_width=groups * head)


def activations(config: StageConfig, device: str, shapes: dict[Role, Shape]) -> int:
    """Bytes of activations and logits at a rank's largest moment, sequences as long as may be."""
    if isinstance(config, PPOConfig):
        return max(ppo_moments(config, device, shapes).values())
    dtype, again = resolve_dtype(config, device), config.gradient_checkpointing
    rows, length, shape = config.micro_batch, config.max_seq_len, shapes["model"]
    if isinstance(config, DPOConfig):
        rows *= 2  # an answer each
    if not isinstance(config, RewardConfig):
        tokens = rows * (length - 1)  # a dialogue's last one predicts nothing
        return scaling.training_bytes(shape, tokens, tokens, dtype, again)
    return pairs_bytes(shape, rows, 2 * length, dtype, again)


def pairs_bytes(shape: Shape, rows: int, length: int, dtype: str, again: bool) -> int:
    """Activations of pairs side by side (`chatlib.train.reward`): twice the longest sequence at
    most, as what both begin with is written once. Which token sees which takes two tensors of
    truth values and one of numbers, all of length^2 a row."""
    seen = rows * length**2 * (1 + 1 + WIDTH[dtype])
    return seen + scaling.training_bytes(shape, rows * length, 0, dtype, again, masked=True)


def ppo_moments(config: PPOConfig, device: str, shapes: dict[Role, Shape]) -> Parts:
    """Activations of an iteration's parts: rollout with its cache, scoring, learning.

    A pretraining mixture's pass is kept beside the actor's until the backward pass of both.
    """
    dtype, answer = resolve_dtype(config, device), config.max_answer_tokens
    rows, length = config.micro_batch, config.max_seq_len
    actor, actor_again = shapes["actor"], config.of("actor", "gradient_checkpointing")
    tokens, predicted = rows * (length - 1), rows * answer
    bonus = config.entropy_coefficient > 0
    learn = scaling.training_bytes(actor, tokens, predicted, dtype, actor_again, bonus)
    if config.unsup_coef:
        learn += scaling.training_bytes(actor, tokens, tokens, dtype, actor_again)
    drawn = config.rollout // (config.generation_batches * config.ranks)
    moments = {
        "rollout": scaling.generation_bytes(actor, drawn, length - answer, answer, dtype),
        "scoring": scaling.forward_bytes(actor, tokens, predicted, dtype, with_entropy=True),
        "actor": learn,
    }
    if critic := shapes.get("critic"):
        again = config.of("critic", "gradient_checkpointing")
        moments["critic"] = scaling.training_bytes(critic, rows * length, 0, dtype, again)
    return moments


def started_from(config: StageConfig) -> dict[Role, TinyModel | str]:
    """The models that a stage trains, by role, as the configuration names them."""
    starts = dict.fromkeys(config.roles, config.model)
    if isinstance(config, DistillationConfig) and isinstance(config.model, TinyModel):
        starts = dict.fromkeys(config.roles, with_vocabulary_of(config.teacher, config.model))
    if isinstance(config, PPOConfig) and "critic" in starts:
        starts["critic"] = config.reward_model or config.model
    return starts


def with_vocabulary_of(teacher: str, model: TinyModel) -> TinyModel:
    """A student as `train.distillation` makes it: with a row for each of the teacher's tokens."""
    tables = [s for name, s in (shapes_of(teacher) or {}).items() if "embed_tokens" in name]
    return model.model_copy(update={"vocab_size": tables[0][0]}) if tables else model


def trained_models(config: StageConfig) -> dict[Role, Shapes | None]:
    """The shapes of the models that a stage trains."""
    return {role: shapes_of(model) for role, model in started_from(config).items()}


def checkpoint_bytes(config: StageConfig, device: str) -> int | None:
    """Predicted bytes of a rank's part of a checkpoint; rank 0 adds PPO's moving average.

    None when the model's size is not known here, as of `memory`.
    """
    size = 0
    for role, shapes in trained_models(config).items():
        if shapes is None:
            return None
        parts = states(config, device, role, shapes)
        size += parts["weights"] + parts["optimizer"]
        if isinstance(config, PPOConfig) and role == "actor" and config.enable_ema:
            size += trained(shapes, None) * WIDTH[resolve_dtype(config, device)]
    return size


def mebibytes(size: float) -> str:
    """A number of bytes, for reading."""
    return f"{size / 2**20:,.1f} MiB"
