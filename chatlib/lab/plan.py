"""What a launch will do: its command, environment and batches, and the memory it will take."""

from __future__ import annotations

import glob
import importlib.metadata
import json
import math
import os
import shutil
import socket
import struct
import sys
from pathlib import Path

from chatlib.lab import runs
from chatlib.lab.config import Lora, PPOConfig, StageConfig, TinyModel
from chatlib.lab.deepspeed_json import BUCKET, Role, all_deepspeed_json, resolve_dtype, zero_stage
from chatlib.lab.failures import LaunchError
from chatlib.lab.nodes import Nodes
from chatlib.lab.scaling import WIDTH, Parts, lora_weights, offloaded, state_bytes

# ------------------------------------------------------------ command and environment


def cards() -> list[str]:
    """The GPUs of this machine, as Linux numbers them."""
    return [path.removeprefix("/dev/nvidia") for path in glob.glob("/dev/nvidia[0-9]*")]


def visible() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES selects; all of them where it is not set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return cards() if chosen is None else [name for name in chosen.split(",") if name]


def accelerator() -> str:
    """`cuda` where torch can use a GPU, else `cpu`; found without importing torch."""
    if os.environ.get("DS_ACCELERATOR"):
        return os.environ["DS_ACCELERATOR"]
    built_for_cpu = "+cpu" in importlib.metadata.version("torch")
    return "cuda" if cards() and visible() and not built_for_cpu else "cpu"


def gpus() -> int:
    """GPUs that a launch on this machine may use; found without importing torch."""
    return len(visible()) if accelerator() == "cuda" else 0


def require_gpus(ranks: int) -> None:
    """Raise `LaunchError` where ranks of this machine would have no GPU of their own."""
    if accelerator() == "cuda" and ranks > gpus():
        raise LaunchError(
            f"ranks {ranks} need a GPU each and this machine offers {gpus()}; set ranks to that, "
            "name several machines with hosts=, or choose another CHATLIB_PROFILE"
        )


def command(
    directory: Path,
    ranks: int,
    port: int | str,
    checkpoint: Path | None,
    several: Nodes | None = None,
) -> list[str]:
    """The DeepSpeed command of a launch on this machine, or on `several`.

    GPUs that the caller selected with CUDA_VISIBLE_DEVICES are passed with `--include`:
    together with `--num_gpus` DeepSpeed would ignore the selection.
    """
    devices = ["--num_gpus", ranks]
    if os.environ.get("CUDA_VISIBLE_DEVICES") and accelerator() == "cuda":
        devices = ["--include", f"localhost:{','.join(visible()[:ranks])}"]
    if several:
        devices = ["--hostfile", directory / "hostfile", "--num_nodes", len(several.slots)]
        devices += ["--master_addr", several.master]
        if several.here is not None:
            devices += ["--no_ssh", "--node_rank", several.here]
    worker = ["--module", "chatlib.train.worker", "--run", directory]
    resumed = ["--checkpoint", checkpoint] if checkpoint else []
    parts = ["deepspeed", *devices, "--master_port", port, *worker, *resumed]
    return [str(part) for part in parts]


def executable() -> Path:
    """The `deepspeed` command that belongs to this Python."""
    beside = Path(sys.executable).parent / "deepspeed"
    found = beside if beside.is_file() else shutil.which("deepspeed")
    if not found:
        raise LaunchError(f"no `deepspeed` beside {sys.executable}; install the package deepspeed")
    return Path(found)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(ranks: int, several: Nodes | None = None) -> dict[str, str]:
    """What a launch adds to the environment; settings of the caller win.

    One thread per core over all ranks (with more, ranks wait for each other's threads), gloo
    on the loopback interface (a laptop's host name often resolves to nothing). With `several`
    machines every rank finds its own (`nodes.use_interface`).
    """
    on_this = several.local_ranks if several else ranks
    wanted = {
        "DS_ACCELERATOR": accelerator(),
        "OMP_NUM_THREADS": str(max(1, cores() // on_this)),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not several and sys.platform == "linux":
        wanted["GLOO_SOCKET_IFNAME"] = "lo"
    kept = {k: os.environ[k] for k in wanted if k in os.environ}
    over_ssh = several and several.here is None  # ssh carries no standard input
    wanted["CHATLIB_ATTACHED"] = "announcement" if over_ssh else "stdin"
    return {**wanted, **kept, "CHATLIB_RUNS": str(runs.root())}


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --------------------------------------------------------------------------- arithmetic

Shapes = dict[str, list[int]]  # weight names and their shapes
PROCESS = 600 * 2**20  # bytes of a process that has loaded torch, transformers and deepspeed


def batch_line(config: StageConfig) -> str:
    """How the examples of an optimizer step are shared out."""
    micro, world = config.micro_batch, config.ranks
    accumulation = config.gradient_accumulation_steps
    product = f"{micro} micro x {accumulation} accumulation x {world} ranks"
    line = f"{product} = {micro * accumulation * world} examples an optimizer step"
    if isinstance(config, PPOConfig):
        rollout = config.batch_size * config.generation_batches
        updates = config.minibatches * config.ppo_epochs
        line += f"; {rollout} answers and {updates} optimizer steps an iteration"
    return line


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
        place = runs.resolve(model)
    except runs.RunError:
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


def describe(
    config: StageConfig,
    directory: Path,
    several: Nodes | None = None,
    checkpoint: Path | None = None,
) -> str:
    """Everything that `launch(config, dry_run=True)` prints. The port is chosen at the start."""
    device, checkpoint = accelerator(), checkpoint and _near(checkpoint)
    here, wanted = _near(directory), environment(config.ranks, several)
    added = [f"{k}={v}" for k, v in wanted.items() if os.environ.get(k) != v]
    lines = [
        f"run          {here}",
        f"command      {' '.join(command(here, config.ranks, 'PORT', checkpoint, several))}",
        f"environment  {' '.join(added)}".replace(str(runs.root()), str(_near(runs.root()))),
        *([f"hosts        {several}"] if several else []),
        f"batch        {batch_line(config)}",
        *_memory_lines(config, device),
        f"deepspeed.json\n{json.dumps(all_deepspeed_json(config, device, here), indent=1)}",
    ]
    return "\n".join(lines)


def _memory_lines(config: StageConfig, device: str) -> list[str]:
    """Memory and checkpoint size, or why they are not known."""
    parts = memory(config, device)
    if parts is None:
        return ["memory       unknown: a model is not on this machine, or not trained yet"]
    shown = ", ".join(f"{name} {mebibytes(size)}" for name, size in parts.items())
    held = checkpoint_bytes(config, device)
    kept = f"{config.keep_checkpoints} kept" if config.save_every else "none: save_every is 0"
    return [
        f"memory/rank  {mebibytes(sum(parts.values()))} = {shown}; activations come on top",
        f"checkpoint   {mebibytes(held)} a rank ({kept})",
    ]


def _near(path: Path) -> Path:
    """The path from here, where that is shorter."""
    relative = Path(os.path.relpath(path))
    return relative if len(str(relative)) < len(str(path)) else path
