"""What the launch tests share."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from chatlib.runs import mutations
from chatlib.settings.stages import SFTConfig


def use(folder, patch):
    """Let launches keep their runs in `folder`, quietly, and find the stages of these tests."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CHATLIB_PROGRESS_FILE", mutations.VARIABLE):
        patch.delenv(name, raising=False)
    patch.setenv("CHATLIB_RUNS", str(folder))
    patch.setenv("CHATLIB_PROGRESS", "none")
    patch.setenv("PYTHONPATH", str(Path(__file__).parent))


def config(**changes) -> SFTConfig:
    """A short stage."""
    return SFTConfig(**{"steps": 5, **changes})


TINY = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "vocab_size": 300}


def tiny(**changes) -> SFTConfig:
    """A real stage of two ranks, as small as may be."""
    settings = {"records": 200, "held_out": 8, "batch_size": 8, "steps": 8, "model": TINY}
    return SFTConfig(**settings | changes)


def processes_of(directory) -> list[psutil.Process]:
    """Live processes that name a run directory in their command line, or write files of one."""
    found = []
    for process in psutil.process_iter():
        try:
            named = process.cmdline() + [file.path for file in process.open_files()]
            belongs = any(str(directory) in part for part in named)
            if belongs and process.pid != os.getpid() and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            pass
    return found


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """A tmpfs of a given size, where mounting is permitted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if (
        sys.platform != "linux"
        or os.geteuid()
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("needs root: mounting a small tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def turn_read_only(folder, place):
    """Let names in a folder lead to a read-only view of it; a remount waits for open files."""
    for arguments in (
        ["--bind", folder, place],
        ["-o", "remount,bind,ro", place],
        ["--bind", place, folder],
    ):
        subprocess.run(["mount", *map(str, arguments)], check=True)
