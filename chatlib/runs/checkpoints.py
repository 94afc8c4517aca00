"""Checkpoints on disk: committed in one rename, known to be whole, the newest found."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

from chatlib.runs import trust
from chatlib.runs.files import read_json, write_json


def checkpoint_path(directory: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` optimizer steps."""
    return directory / "checkpoint" / f"step-{step:08d}"


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name.split("-")[1])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit_checkpoint(temporary: Path, final: Path, keep: int) -> None:
    """Turn a fully written `temporary` folder into checkpoint `final`; keep the last `keep`.

    Call it on one rank, after a barrier. The sizes of all files go into `complete.json`, with a
    seal that says whose they are (`runs.trust`), bytes reach the disk before the name does, and
    the name appears in one rename: a crash leaves the older checkpoints and a `.tmp` folder, never
    half a checkpoint under a final name.
    """
    files = [p for p in sorted(temporary.rglob("*")) if p.is_file()]
    sizes = {p.relative_to(temporary).as_posix(): p.stat().st_size for p in files}
    sealed = trust.seal(temporary, sizes)
    write_json(temporary / "complete.json", {"sizes": sizes, "seal": sealed})
    for path in [*files, *(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(temporary, final)
    _sync(final.parent)
    for old in _checkpoints(final.parent)[:-keep]:
        shutil.rmtree(old)
    for torn in final.parent.glob("step-*.tmp"):
        shutil.rmtree(torn, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if p.suffix != ".tmp")


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that was committed is there in its full length."""
    sizes = read_json(checkpoint / "complete.json").get("sizes", {})
    found = {name: checkpoint / name for name in sizes}
    return bool(sizes) and all(
        p.is_file() and p.stat().st_size == sizes[n] for n, p in found.items()
    )


def is_ours(checkpoint: Path) -> bool:
    """Whether this user's runs wrote a checkpoint, and nobody else has touched it since."""
    said = read_json(checkpoint / "complete.json")
    return trust.is_ours(checkpoint, said.get("sizes", {}), said.get("seal", ""))


def whole_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of the run in `directory` that can be continued from, oldest first."""
    return [path for path in _checkpoints(directory / "checkpoint") if is_whole(path)]


def newest_checkpoint(directory: Path) -> Path | None:
    """The last whole checkpoint of the run in `directory` that this user's runs wrote.

    Warns of each one that it skips. All bytes of the one it returns have been read (`is_ours`).
    """
    folder = directory / "checkpoint"
    for torn in sorted(folder.glob("step-*.tmp")):
        warnings.warn(f"{torn} was not finished and is skipped", stacklevel=2)
    for checkpoint in reversed(_checkpoints(folder)):
        if is_whole(checkpoint) and is_ours(checkpoint):
            return checkpoint
        why = "was not written by your runs" if is_whole(checkpoint) else "is torn"
        warnings.warn(f"{checkpoint} {why} and is skipped", stacklevel=2)
    return None
