"""The bytes that a rank will hold, by part: one rule for pages, `dry_run` and tests."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from chatlib.maths.scaling import WIDTH, Parts, lora_weights, offloaded, state_bytes
from chatlib.runs.files import RunError
from chatlib.runs.identity import resolve
from chatlib.settings.deepspeed import BUCKET, resolve_dtype, zero_stage
from chatlib.settings.stages import Lora, PPOConfig, Role, StageConfig, TinyModel

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
    adapted = [s for name, s in shapes.items() if name.split(".")[-2] in lora.lora_module_name]
    return lora_weights(adapted, lora.lora_dim)


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
    if role == "model":
        return parts
    away = role == "actor" and config.offload_reference_model
    kept = state_bytes(weights, 0, config.ranks, 3 if away else stage, dtype)["weights"]
    return parts | {"reference and reward model": 0 if away and on_card else kept}


def memory(config: StageConfig, device: str) -> Parts | None:
    """Predicted bytes per rank by part; None when the model's size is not known here.

    Activations come on top. Offloading moves the optimizer (stage 3: weights too) and PPO's
    reference into the host's memory, where a CPU rank has everything anyway.
    """
    total = {"process": PROCESS}
    for role, shapes in trained_models(config).items():
        if shapes is None:
            return None
        for name, size in role_memory(config, device, role, shapes).items():
            total[name] = total.get(name, 0) + size
    return total


def trained_models(config: StageConfig) -> dict[Role, Shapes | None]:
    """The shapes of the models that a stage trains."""
    starts = dict.fromkeys(config.roles, config.model)
    if isinstance(config, PPOConfig):
        starts["critic"] = config.reward_model
    return {role: shapes_of(model) for role, model in starts.items()}


def checkpoint_bytes(config: StageConfig, device: str) -> int:
    """Predicted bytes of a rank's part of a checkpoint; rank 0 adds PPO's moving average."""
    size = 0
    for role, shapes in trained_models(config).items():
        parts = states(config, device, role, shapes)
        size += parts["weights"] + parts["optimizer"]
        if role == "actor" and config.enable_ema:
            size += trained(shapes, None) * WIDTH[resolve_dtype(config, device)]
    return size


def mebibytes(size: float) -> str:
    """A number of bytes, for reading."""
    return f"{size / 2**20:,.1f} MiB"
