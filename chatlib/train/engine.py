"""The only module that trains with deepspeed: processes, engines, checkpoints, saving.

The training loops see an `Engine` (deepspeed's) with `backward` and `step`, and a few functions
that speak to the other ranks.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatlib.runs import checkpoints
from chatlib.runs.recorder import Recorder
from chatlib.settings.deepspeed import DType, Role, deepspeed_json, frozen_json, resolve_dtype
from chatlib.settings.device import accelerator
from chatlib.settings.stages import StageConfig
from chatlib.train import models
from chatlib.train.finite import require_finite

# DeepSpeed probes for compilers and devices on import and reports what it finds missing.
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
os.environ["DS_ACCELERATOR"] = accelerator()
import deepspeed  # noqa: E402
from deepspeed.checkpoint import ds_to_universal  # noqa: E402
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer  # noqa: E402

if TYPE_CHECKING:

    class Monitor:
        """Where an engine writes figures beside ours, if it was asked to."""

        enabled: bool

        def write_events(self, events: list[tuple[str, float, int]]) -> None: ...

    class Engine(nn.Module):
        """What is used here of DeepSpeed's engine, which comes without types."""

        module: models.Reader
        optimizer: torch.optim.Optimizer
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler
        monitor: Monitor
        world_size: int

        def backward(self, loss: Tensor) -> None: ...
        def step(self) -> None: ...
        def get_lr(self) -> list[float]: ...
        def get_global_grad_norm(self) -> float | Tensor | None: ...
        def gradient_accumulation_steps(self) -> int: ...
        def zero_optimization_stage(self) -> int: ...
        def save_checkpoint(
            self, save_dir: str, tag: str, client_state: dict, save_latest: bool
        ) -> None: ...
        def load_checkpoint(self, load_dir: str, tag: str) -> None: ...
        def destroy(self) -> None: ...

else:
    Engine = deepspeed.DeepSpeedEngine
DTYPES: dict[DType, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
T = TypeVar("T")


# -------------------------------------------------------------------- processes
def start(config: StageConfig, recorder: Recorder) -> torch.device:
    """Join the other ranks, seed everything alike, and return this rank's device."""
    recorder.beat(0, "join")
    device = own_device()
    if device.type == "cpu":
        # The shared-memory all-reduce is a C++ op that DeepSpeed compiles at the first start: one
        # to four minutes, a compiler, and a lock left behind when it is killed, on which every
        # later start waits. gloo needs 3 to 5 ms a step more for the book's model (5.3 and 8.0
        # against 3.7 and 2.1 ms for 525k numbers, two ranks), under a tenth of an SFT step.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    dtype = resolve_dtype(config, device.type)
    check_dtype(dtype)
    if device.type == "cuda" and dtype != "fp32":  # for the heads: see `models.exact_head`
        torch.set_float32_matmul_precision("high")
    if not dist.is_initialized():
        deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", verbose=False)
    seed_everything(config.seed)
    return device


def own_device() -> torch.device:
    """The CPU, or the GPU of this rank's own. Raises `ValueError` where its host has too few."""
    if accelerator() == "cpu":
        return torch.device("cpu")
    local, offered = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= offered:
        raise ValueError(
            f"rank {local} of {socket.gethostname()} needs a GPU of its own and torch finds "
            f"{offered} there; lower the ranks (slots) of that host, or set CHATLIB_DEVICE=cpu"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def check_dtype(dtype: str) -> None:
    """Raise `ValueError` for a number format in which this device cannot train."""
    here = deepspeed.get_accelerator()
    able = {"bf16": here.is_bf16_supported, "fp16": here.is_fp16_supported}
    if dtype in able and not able[dtype]():
        others = [other for other in able if other != dtype and able[other]()]
        raise ValueError(
            f"dtype {dtype}: {here.device_name()} here does not compute in it; "
            f"use {' or '.join(['fp32', *others])}"
        )


def seed_everything(seed: int) -> None:
    """The same first weights on every rank."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def dtype_of(config: StageConfig, device: torch.device) -> torch.dtype:
    """The number format in which a frozen model computes."""
    return DTYPES[resolve_dtype(config, device.type)]


def several_ranks() -> bool:
    """Is there anybody to talk to? A collective of one rank is not free: gloo's threads start an
    OpenMP pool of their own, and with more threads than cores every pool sleeps between any two
    operations (SFT of one rank on two threads took 1.3 times as long).
    """
    return dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(x: Tensor | float) -> Tensor:
    """The sum of a tensor (or number) over all ranks, on the tensor's device; no gradient."""
    return _all_reduce(torch.as_tensor(x), dist.ReduceOp.SUM)


def max_over_ranks(x: Tensor) -> Tensor:
    """The largest of a tensor's values over all ranks, element by element."""
    return _all_reduce(x, dist.ReduceOp.MAX)


def _all_reduce(x: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
    """A reduction over the ranks as a new tensor on ``x.device``, wherever that is.

    The group computes on its own device: NCCL takes no tensor of the CPU.
    """
    own = x.detach().clone()
    if not several_ranks():
        return own
    shared = own.to("cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(shared, op=op)
    return shared.to(x.device)


def gather(part: list[T]) -> list[T]:
    """All ranks' lists as one: item i of rank r stands at position i * world + r.

    This undoes `collate.shard`, whose part of a list is every world-th item.
    """
    if not several_ranks():
        return part
    parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, part)
    longest = max(map(len, parts))
    return [p[i] for i in range(longest) for p in parts if i < len(p)]


def from_rank0(make: Callable[[], T]) -> T:
    """What `make` returns on rank 0, on every rank."""
    if not several_ranks():
        return make()
    box = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box)
    return cast(T, box[0])  # which the broadcast has filled


def rank() -> int:
    """This process's place among the ranks."""
    return dist.get_rank() if dist.is_initialized() else 0


def unsharded(part: Tensor, weight: Tensor) -> Tensor:
    """All of a tensor that the ranks share out as they do ``weight``; a collective at stage 3."""
    if not hasattr(weight, "ds_id"):
        return part
    parts = [part]
    if several_ranks():
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part)
    known: Any = weight  # DeepSpeed writes the whole one's size on it
    return torch.cat(parts)[: known.ds_numel].view(known.ds_shape)


def barrier() -> None:
    """Wait for every rank."""
    if several_ranks():
        dist.barrier()


# ---------------------------------------------------------------------- engines
def initialize(
    config: StageConfig,
    module: nn.Module,
    learning_rate: float,
    total_steps: int,
    role: Role = "model",
    recorder: Recorder | None = None,
) -> Engine:
    """A DeepSpeed engine around a module, with AdamW and a schedule of ``total_steps`` steps.

    ``role`` says whose settings count: PPO's actor and critic may have their own. A ``recorder``
    with a checkpoint of another number of ranks prepares the engine for `restore`.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(config, module, role),
        lr=learning_rate,
        betas=config.betas,
        eps=config.adam_epsilon,
        weight_decay=config.of(role, "weight_decay"),
        fused=not config.offload,  # one kernel for all; offloaded states meet gradients elsewhere
    )
    factor = schedule(config, total_steps)
    module.train()  # a loaded model is not: without it there is no checkpointing and no dropout
    settings = deepspeed_json(config, accelerator(), role, recorder.directory if recorder else None)
    if recorder and is_universal(recorder, role):
        settings["checkpoint"] = {"load_universal": True}
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        lr_scheduler=lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, factor),
        config=settings,
        dist_init_required=False,
    )
    undo_first_step(engine.optimizer)
    return engine


def undo_first_step(optimizer: object) -> None:
    """Take back the step by which DeepSpeed 0.19 makes Adam's states in 16 bits without ZeRO.

    Its gradients are zero, but Adam counts it, and corrects the bias of what it takes for its
    second step: the real first one would be 0.74 times as long. Weight decay acted as well.
    """
    if isinstance(optimizer, FP16_UnfusedOptimizer):
        optimizer.optimizer.state.clear()
        for copies, weights in zip(optimizer.fp32_groups, optimizer.fp16_groups):
            for copy, weight in zip(copies, weights):
                copy.data.copy_(weight.data)


def parameter_groups(config: StageConfig, module: nn.Module, role: Role = "model") -> list[dict]:
    """The trained weights as AdamW takes them: LoRA's adapters apart if they have their own rate,
    and what weight decay spares, norms and biases, apart from the matrices that it shrinks.

    What is trained beside adapters, a reward model's score head, keeps the stage's rate. Source:
    DeepSpeed-Chat's `lora_learning_rate` and `get_optimizer_grouped_parameters`.
    """
    lora, decay = config.of(role, "lora"), config.of(role, "weight_decay")
    rate = lora.lora_learning_rate if lora else None
    groups: dict[tuple[bool, bool], dict] = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            own_rate, spared = bool(rate) and "lora_" in name, bool(decay) and weight.ndim < 2
            changes = ({"lr": rate} if own_rate else {}) | ({"weight_decay": 0.0} if spared else {})
            groups.setdefault((own_rate, spared), {"params": []} | changes)["params"].append(weight)
    return [groups[key] for key in sorted(groups)]


def schedule(config: StageConfig, total_steps: int) -> Callable[[int], float]:
    """Factor of the peak learning rate at each optimizer step: warm-up, then decay to a tenth."""
    warm = min(config.num_warmup_steps, total_steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        done = min(1.0, (step - warm) / max(1, total_steps - warm))
        if config.lr_scheduler_type == "constant":
            return 1.0
        if config.lr_scheduler_type == "linear":
            return 1.0 - 0.9 * done
        return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * done))

    return factor


def backward(engine: Engine, loss: Tensor) -> None:
    """Add the gradient of a loss that is one term of a sum over ranks and micro-batches.

    DeepSpeed averages over both; the factor here turns that average back into the sum, so a
    loss divided by the *global* token count gives the same step on any number of ranks.
    """
    scale = engine.gradient_accumulation_steps() * engine.world_size
    engine.backward(loss * scale)


def grad_norm(engine: Engine) -> float | None:
    """The gradient's norm before clipping; None at ZeRO stage 0, which does not keep it."""
    norm = engine.get_global_grad_norm()
    return float(norm) if norm else None


def log(net: Engine, recorder: Recorder, step: int, **figures: float | None) -> None:
    """One row for `metrics.jsonl` and, if the engine has one, DeepSpeed's monitor (TensorBoard).

    The monitor by itself would record the learning rate alone.
    """
    recorder.log(step, **figures)
    require_finite(net.module, step, figures)
    if net.monitor.enabled:
        net.monitor.write_events([(k, v, step) for k, v in figures.items() if v is not None])


@contextlib.contextmanager
def whole(net: nn.Module) -> Iterator[None]:
    """All weights of an engine on every rank while the context lasts, gathered once.

    At ZeRO stage 3 each layer is otherwise gathered again for every token of an answer, and a rank
    whose answers end early would leave the others waiting. A collective; weights may be read only.
    """
    if not isinstance(net, Engine) or net.zero_optimization_stage() < 3:
        yield
        return
    with deepspeed.zero.unwrap_model_for_generation(net):
        yield


def frozen(
    module: nn.Module, device: torch.device, stage: int = 0, offload: bool = False
) -> nn.Module:
    """A module that is never trained: the reference and the reward model of PPO.

    At ZeRO ``stage`` 3 its weights are partitioned over the ranks like those that are trained;
    with ``offload`` they are, too, and stay in host memory. Either way each layer is gathered on
    the device when it computes.
    """
    module = module.eval().requires_grad_(False)
    if stage < 3 and not offload:
        return module.to(device)
    dtype = next(module.parameters()).dtype
    name = next(name for name, known in DTYPES.items() if known == dtype)
    engine, *_ = deepspeed.initialize(
        model=module, config=frozen_json(name, offload), dist_init_required=False
    )
    return engine


# ----------------------------------------------------------- models and checkpoints
def gathered_state(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a model on rank 0's CPU, whatever the ZeRO stage; others get an empty dict.

    Weights are gathered one at a time, so the peak is one full weight more than the shards.
    """
    state: dict[str, Tensor] = {}
    rank0 = not dist.is_initialized() or dist.get_rank() == 0
    shared = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    first: dict[int, str] = {}
    for name in model.state_dict():
        weight = shared[name]
        if id(weight) in first:  # tied to one that was gathered already
            if rank0:
                state[name] = state[first[id(weight)]]
            continue
        first[id(weight)] = name
        with deepspeed.zero.GatheredParameters([weight], enabled=hasattr(weight, "ds_id")):
            if rank0:
                state[name] = weight.detach().cpu().clone()
    return state


def save_model(engine: Engine, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write an engine's model in plain Hugging Face format; see `save_state`."""
    model = engine.module.model
    save_state(gathered_state(model), model, tokenizer, directory)


def save_config(engine: Engine, directory: Path) -> None:
    """Write a saved model's configuration again, with what was measured after the model's saving.

    As it replaces one file, a folder that is whole stays so.
    """
    if not dist.is_initialized() or dist.get_rank() == 0:
        part = directory / "config.part"
        part.write_text(engine.module.model.config.to_json_string())
        part.rename(directory / "config.json")
    barrier()


def save_state(
    state: dict[str, Tensor],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
) -> None:
    """Write weights (rank 0 has them) as safetensors with tokenizer and generation settings.

    Adapters of LoRA are merged first. The folder appears in one rename, when it is whole.
    """
    if not dist.is_initialized() or dist.get_rank() == 0:
        part = directory.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part, state_dict=models.merged_state(state, model))
        tokenizer.save_pretrained(part)
        shutil.rmtree(directory, ignore_errors=True)
        part.rename(directory)
    barrier()


def save_checkpoint(
    engines: dict[str, Engine], config: StageConfig, recorder: Recorder, step: int, state: dict
) -> None:
    """Write everything that continuing after ``step`` needs; a crash leaves the older ones whole.

    Each rank adds its random number generators to the engines' own files.
    """
    final = checkpoints.checkpoint_path(recorder.directory, step)
    part = final.with_suffix(".tmp")
    if recorder.rank == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    barrier()
    recorder.beat(step, "checkpoint")
    for name, engine in engines.items():
        engine.save_checkpoint(str(part), tag=name, client_state={}, save_latest=False)
        recorder.beat(step, f"{name}_saved")  # large ones take long; tests kill here, half-way
    own = {"state": state, "step": step, "torch": torch.get_rng_state()}
    if accelerator() == "cuda":
        own["cuda"] = torch.cuda.get_rng_state()
    torch.save(own, part / f"rank{recorder.rank}.pt")
    barrier()
    if recorder.rank == 0:
        checkpoints.commit_checkpoint(part, final, config.keep_checkpoints)
    barrier()
    recorder.end_if_asked(step)


def restore(engines: dict[str, Engine], recorder: Recorder) -> tuple[int, dict]:
    """(steps done, the loop's state) from the recorder's checkpoint; (0, {}) without one.

    On as many ranks as wrote it, training continues bit for bit. On another number of ranks the
    weights, moments, schedule, data position and loop's state are the same, but a rank's random
    numbers are drawn anew: what is sampled (PPO's answers, dropout) differs from then on.
    """
    folder = recorder.checkpoint
    if folder is None:
        return 0, {}
    universal = to_universal(engines, recorder)
    for name, engine in engines.items():
        if is_universal(recorder, name):
            engine.load_checkpoint(str(universal), tag=name)
            part_groups(engine)
        else:
            engine.load_checkpoint(str(folder), tag=name)
    world = checkpoint_world(folder)
    own = torch.load(folder / f"rank{recorder.rank % world}.pt", weights_only=True)
    if world == recorder.world:
        torch.set_rng_state(own["torch"])
        if accelerator() == "cuda" and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"])
    else:
        torch.manual_seed(torch.initial_seed() + (own["step"] << 32))
    barrier()
    if recorder.rank == 0:
        shutil.rmtree(universal, ignore_errors=True)
    recorder.rewind(own["step"])
    return own["step"], own["state"]


def part_groups(engine: Engine) -> None:
    """Give each parameter group its own learning rate and step count again.

    At stage 3 DeepSpeed 0.19 hands the first group's of a universal checkpoint to all of them
    (stage3.py, `load_hp_checkpoint_state_from_checkpoint_dir_stage3`); the step count as one
    tensor, which AdamW then increments once for every group.
    """
    optimizer = engine.optimizer
    for group, rate in zip(optimizer.param_groups, engine.lr_scheduler.get_last_lr()):
        group["lr"] = rate
    for weight, state in optimizer.state.items():  # the fused kernel reads it on the device
        state["step"] = torch.as_tensor(state["step"]).clone().to(weight.device)


def checkpoint_world(folder: Path) -> int:
    """The number of ranks that wrote a checkpoint."""
    return len(list(folder.glob("rank*.pt")))


def is_universal(recorder: Recorder, role: str) -> bool:
    """Whether a model's checkpoint has to be rebuilt: partitioned, and by other ranks than these.

    Without ZeRO (stage 0) every rank holds, and every checkpoint contains, the whole state.
    """
    folder = recorder.checkpoint
    if folder is None or checkpoint_world(folder) == recorder.world:
        return False
    return any((folder / role).glob("*_optim_states.pt"))


def to_universal(engines: dict[str, Engine], recorder: Recorder) -> Path:
    """The folder with the universal form of what the recorder's checkpoint has in partitions.

    Universal means: one file for each weight and each moment, whole. Rank 0 writes them.
    """
    folder, source = recorder.directory / "checkpoint" / "universal", recorder.checkpoint
    if recorder.rank == 0 and source is not None:
        shutil.rmtree(folder, ignore_errors=True)
        for name in filter(lambda name: is_universal(recorder, name), engines):
            recorder.beat(0, "convert the checkpoint")
            ds_to_universal.main(
                argparse.Namespace(
                    input_folder=str(source / name),
                    output_folder=str(folder / name),
                    num_extract_workers=1,
                    num_merge_workers=1,
                    keep_temp_folder=False,
                    strict=True,
                    inject_missing_state=True,  # nothing here is tensor-parallel
                )
            )
    barrier()
    return folder
