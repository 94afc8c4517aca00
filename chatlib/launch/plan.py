"""What a launch will do: its command, its environment, its batches."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import sys
from pathlib import Path

from chatlib.launch.failures import LaunchError
from chatlib.launch.hosts import Nodes
from chatlib.launch.memory import checkpoint_bytes, mebibytes, memory
from chatlib.runs import identity
from chatlib.settings.deepspeed import all_deepspeed_json
from chatlib.settings.device import accelerator, cores, gpus, selection
from chatlib.settings.stages import PPOConfig, StageConfig


def require_gpus(ranks: int, several: Nodes | None = None) -> None:
    """Raise `LaunchError` where ranks of this machine would have no GPU of their own.

    Machines that are started over ssh are counted by their ranks (`engine.own_device`); a
    selection of GPUs by number then holds on each of them.
    """
    if accelerator() == "cpu":
        return
    if several and several.here is None:
        named = [name for name in selection().get("CHATLIB_CARDS", "").split(",") if name]
        if strangers := [name for name in named if not name.isdigit()]:
            raise LaunchError(
                f"CUDA_VISIBLE_DEVICES names {strangers[0]}, a GPU of this machine alone; name "
                "GPUs by number, or launch once on every machine with its node_rank"
            )
    elif (needed := several.local_ranks if several else ranks) > gpus():
        raise LaunchError(
            f"ranks {needed} need a GPU each and this machine offers {gpus()}; set ranks (or this "
            "machine's slots) to that, name more machines with hosts=, choose another "
            "CHATLIB_PROFILE, or compute on its CPU with CHATLIB_DEVICE=cpu"
        )


def command(
    directory: Path,
    ranks: int,
    port: int | str,
    checkpoint: Path | None,
    several: Nodes | None = None,
) -> list[str]:
    """The DeepSpeed command of a launch on this machine, or on `several`.

    On one machine it is what `deepspeed --num_gpus` would start after importing torch and
    DeepSpeed once more, which takes seconds: DeepSpeed's launcher of a node. Which GPUs of a
    machine these are is no matter of the command: see `device.selection`.
    """
    worker = ["--module", "chatlib.train.worker", "--run", directory]
    worker += ["--checkpoint", checkpoint] if checkpoint else []
    if several:
        devices = ["--hostfile", directory / "hostfile", "--num_nodes", len(several.slots)]
        devices += ["--master_addr", several.master, "--master_port", port]
        if several.here is not None:
            devices += ["--no_ssh", "--node_rank", several.here]
        parts = ["deepspeed", *devices, *worker]
    else:
        world = base64.urlsafe_b64encode(json.dumps({"localhost": [*range(ranks)]}).encode())
        meeting = [f"--world_info={world.decode()}", f"--master_port={port}"]
        parts = ["python", "-u", "-m", "deepspeed.launcher.launch", *meeting, *worker]
    return [str(part) for part in parts]


def executable(name: str) -> Path:
    """Where a command lies: this Python, or the `deepspeed` that belongs to it."""
    if name == "python":
        return Path(sys.executable)
    beside = Path(sys.executable).parent / "deepspeed"
    found = beside if beside.is_file() else shutil.which("deepspeed")
    if not found:
        raise LaunchError(f"no `deepspeed` beside {sys.executable}; install the package deepspeed")
    return Path(found)


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
    decided = {"DS_ACCELERATOR": accelerator(), "CHATLIB_RUNS": str(identity.root())}
    return {**wanted, **kept, **selection(), **decided}


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))  # on every interface: rank 0 listens on the one the others reach
        return probe.getsockname()[1]


def batch_line(config: StageConfig) -> str:
    """How the examples of an optimizer step are shared out."""
    micro, world = config.micro_batch, config.ranks
    accumulation = config.gradient_accumulation_steps
    product = f"{micro} micro x {accumulation} accumulation x {world} ranks"
    line = f"{product} = {micro * accumulation * world} examples an optimizer step"
    if isinstance(config, PPOConfig):
        updates = config.minibatches * config.ppo_epochs
        line += f"; {config.rollout} answers and {updates} optimizer steps an iteration"
    return line


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
        f"environment  {' '.join(added)}".replace(
            str(identity.root()), str(_near(identity.root()))
        ),
        *([f"hosts        {several}"] if several else []),
        f"batch        {batch_line(config)}",
        *_memory_lines(config, device),
        f"deepspeed.json\n{json.dumps(all_deepspeed_json(config, device, here), indent=1)}",
    ]
    return "\n".join(lines)


def _memory_lines(config: StageConfig, device: str) -> list[str]:
    """Memory and checkpoint size, or why they are not known."""
    parts, held = memory(config, device), checkpoint_bytes(config, device)
    if parts is None or held is None:
        return ["memory       unknown: a model is not on this machine, or not trained yet"]
    shown = ", ".join(f"{name} {mebibytes(size)}" for name, size in parts.items())
    if "activations" not in parts:
        shown += "; activations, unknown for this model, come on top"
    kept = f"{config.keep_checkpoints} kept" if config.save_every else "none: save_every is 0"
    return [
        f"memory/rank  {mebibytes(sum(parts.values()))} = {shown}",
        f"checkpoint   {mebibytes(held)} a rank ({kept})",
    ]


def _near(path: Path) -> Path:
    """The path from here, where that is shorter."""
    relative = Path(os.path.relpath(path))
    return relative if len(str(relative)) < len(str(path)) else path
