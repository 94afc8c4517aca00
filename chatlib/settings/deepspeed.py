"""The DeepSpeed configuration of a stage, as a pure function of ours (chapter 9 reads it).

The optimizer is left out: the engine passes a torch optimizer of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from chatlib.settings.stages import Role, StageConfig

DType = Literal["fp32", "bf16", "fp16"]

BUCKET = 50_000_000  # gradient elements reduced at a time; DeepSpeed's default takes 2 GB


def resolve_dtype(config: StageConfig, device: str) -> DType:
    """The number format: `auto` is bf16 on a GPU (`device` "cuda") and fp32 on a CPU."""
    if config.dtype != "auto":
        return config.dtype
    return "bf16" if device == "cuda" else "fp32"


def zero_stage(config: StageConfig, role: Role = "model") -> int:
    """The ZeRO stage of one of the trained models (PPO may give actor and critic their own)."""
    return config.of(role, "zero_stage")


def deepspeed_json(
    config: StageConfig, device: str, role: Role = "model", directory: Path | None = None
) -> dict:
    """The dict for `deepspeed.initialize(config=...)`; `directory` receives TensorBoard's files."""
    settings = {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": zero_optimization(config, zero_stage(config, role)),
        "zero_allow_untested_optimizer": True,  # torch.optim.AdamW
        "zero_force_ds_cpu_optimizer": False,  # offloading keeps it, too
        "steps_per_print": None,  # figures go to metrics.jsonl
        "wall_clock_breakdown": False,
    }
    dtype = resolve_dtype(config, device)
    settings |= _format(dtype)
    if dtype != "fp32" and config.gradient_accumulation_steps > 1:
        settings |= _accumulation(zero_stage(config, role))
    if config.enable_tensorboard and directory:
        output = {"output_path": str(directory / "tensorboard"), "job_name": role}
        settings["tensorboard"] = {"enabled": True, **output}
    return settings


def zero_optimization(config: StageConfig, stage: int) -> dict:
    """The ZeRO part (Rajbhandari et al. 2020). A threshold of 0 partitions small tensors too."""
    settings: dict = {"stage": stage}
    bucket = config.zero_bucket_size or BUCKET
    if stage:
        settings |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if stage == 3:
        settings |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": bucket}
    if stage == 3 and config.zero_bucket_size:
        settings |= {"stage3_max_live_parameters": bucket, "stage3_max_reuse_distance": bucket}
    if config.offload:
        settings["offload_optimizer"] = {"device": "cpu"}
    if config.offload and stage == 3:
        settings["offload_param"] = {"device": "cpu"}
    return settings


def frozen_json(dtype: DType, offload: bool) -> dict:
    """For a model that only computes, its weights partitioned and perhaps in host memory."""
    zero: dict = {"stage": 3, "stage3_param_persistence_threshold": 0}
    if offload:
        zero["offload_param"] = {"device": "cpu"}
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
    return settings | {"steps_per_print": None} | _format(dtype)


def _format(dtype: DType) -> dict:
    """The part that names a number format; fp32 is what DeepSpeed does unasked."""
    return {} if dtype == "fp32" else {dtype: {"enabled": True}}


def _accumulation(stage: int) -> dict:
    """Micro-batches' gradients in 16 bits are summed in fp32 where DeepSpeed 0.19 can: ZeRO 2, 3.

    In bf16 a term below 1/256 of the sum so far would be lost. Without ZeRO DeepSpeed refuses
    this; at stage 1 it takes another optimizer, whose checkpoints no other stage reads.
    """
    return {"data_types": {"grad_accum_dtype": "fp32"}} if stage >= 2 else {}


def all_deepspeed_json(config: StageConfig, device: str, directory: Path | None = None) -> dict:
    """What goes into `deepspeed.json`: one configuration for each trained model, by role."""
    return {role: deepspeed_json(config, device, role, directory) for role in config.roles}
