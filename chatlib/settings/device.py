"""The one place that decides what ranks compute on, found without importing torch."""

from __future__ import annotations

import glob
import importlib.metadata
import os


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


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
