"""The one place that decides what ranks compute on, found without importing torch.

``CHATLIB_DEVICE`` (`cpu` or `cuda`) decides; without it DeepSpeed's ``DS_ACCELERATOR``; without
either, whether there are cards that CUDA_VISIBLE_DEVICES leaves visible.
"""

from __future__ import annotations

import functools
import glob
import importlib.metadata
import os
import re
import subprocess
from itertools import takewhile
from pathlib import Path

DEVICES = ("cpu", "cuda")
NAME = re.compile(r"\d+|(GPU|MIG)-\S+")  # of a card: its number, or the UUID of it or of a part


@functools.cache
def cards() -> list[str]:
    """The GPUs of this machine, as its kernel numbers them."""
    found = [path.removeprefix("/dev/nvidia") for path in glob.glob("/dev/nvidia[0-9]*")]
    return sorted(found, key=int) or (_behind_windows() if Path("/dev/dxg").exists() else [])


def _behind_windows() -> list[str]:
    """The GPUs of WSL2, which have no files of their own below /dev."""
    smi = Path("/usr/lib/wsl/lib/nvidia-smi")
    command = [str(smi) if smi.exists() else "nvidia-smi", "-L"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", lines, re.MULTILINE)


def visible() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES selects; all of them where it is not set.

    As CUDA reads it: numbers, UUIDs and MIG's names up to the first entry that names no card,
    which -1 and an empty text are.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return cards()
    return list(takewhile(NAME.fullmatch, (name.strip() for name in chosen.split(","))))


def accelerator() -> str:
    """`cuda` where ranks are to compute on GPUs, else `cpu`. Raises `ValueError` for another."""
    for name in ("CHATLIB_DEVICE", "DS_ACCELERATOR"):
        if asked := os.environ.get(name):
            if asked not in DEVICES:
                raise ValueError(f"{name} is {asked!r}; set it to {' or '.join(DEVICES)}")
            return asked
    built_for_cpu = "+cpu" in importlib.metadata.version("torch")
    return "cuda" if cards() and visible() and not built_for_cpu else "cpu"


def gpus() -> int:
    """GPUs that a launch on this machine may use; found without importing torch."""
    return len(visible()) if accelerator() == "cuda" else 0


def selection() -> dict[str, str]:
    """The caller's choice of GPUs, in a variable that DeepSpeed's launcher leaves alone.

    DeepSpeed 0.19 reads CUDA_VISIBLE_DEVICES as numbers (a UUID is a `ValueError`) and gives the
    ranks numbers of its own; `take_selection` puts the choice back.
    """
    if "CUDA_VISIBLE_DEVICES" not in os.environ or accelerator() == "cpu":
        return {}
    return {"CHATLIB_CARDS": ",".join(visible())}


def take_selection() -> None:
    """In a rank, before torch is imported: see the GPUs that the launching process selected."""
    if chosen := os.environ.get("CHATLIB_CARDS"):
        os.environ["CUDA_VISIBLE_DEVICES"] = chosen


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
