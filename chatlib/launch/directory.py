"""Holding, preparing and clearing the directory of a run."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from chatlib.launch.failures import FULL, LaunchError, live_ranks
from chatlib.runs.checkpoints import checkpoint_step, newest_checkpoint
from chatlib.runs.files import RunError, read_json
from chatlib.runs.lock import held
from chatlib.runs.store import Run
from chatlib.settings.stages import StageConfig

POLL = 0.1  # seconds between two looks at the ranks


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """Turn an `OSError` of writing into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise LaunchError(
                f"the disk that holds {directory} is full; free some space "
                "or set CHATLIB_RUNS to a folder elsewhere"
            ) from error
        raise LaunchError(
            f"{directory} cannot be written ({error.strerror or error}); "
            "set CHATLIB_RUNS to a folder that can"
        ) from error


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold the run directory for this process; a sentence when it is another's."""
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in directory.iterdir())
        if strangers and not {"config.json", "lock"} & set(strangers):
            raise LaunchError(
                f"{directory} holds something else ({strangers[0]}) and is left alone; "
                "move it or set CHATLIB_RUNS to another folder"
            )
    with contextlib.ExitStack() as stack:
        with writable(directory):
            try:
                stack.enter_context(held(directory))
            except RunError as error:
                raise LaunchError(str(error)) from error
        _wait_for_old_ranks(directory)
        yield


def unwritable(run: Run) -> LaunchError | None:
    """Why nothing can be written in a run's directory any more; ranks cannot say so themselves."""
    try:
        with writable(run.directory):
            probe = run.directory / ".writable"
            probe.touch()
            probe.unlink()
    except LaunchError as error:
        return None if "is full" in str(error) else error
    return None


def _wait_for_old_ranks(directory: Path, seconds: float = 10.0) -> None:
    """Ranks whose launcher was killed end themselves; wait until they have."""
    deadline = time.monotonic() + seconds
    while pids := live_ranks(directory):
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{directory} is in use by processes {pids} of an earlier launch; stop them"
            )
        time.sleep(POLL)


def require_unchanged(directory: Path, config: StageConfig) -> None:
    """Raise `LaunchError` where somebody has edited the configuration of a run that was begun."""
    wanted, found = config.model_dump(mode="json"), read_json(directory / "config.json")
    if found and found != wanted:
        changed = [k for k in wanted if found.get(k) != wanted[k]]
        raise LaunchError(
            f"{directory / 'config.json'} was changed after the run had started "
            f"({', '.join(changed)}); launch the changed configuration as a run of its own"
        )


def prepare(directory: Path, resume: bool) -> Path | None:
    """Make room for a launch; returns the checkpoint to continue from, or None."""
    checkpoint = newest_checkpoint(directory)
    if checkpoint and not resume:
        raise LaunchError(
            f"{directory} holds an unfinished run with a checkpoint of step "
            f"{checkpoint_step(checkpoint)}; continue with resume=True or remove the folder"
        )
    if not checkpoint:
        with writable(directory):
            clear(directory)
    return checkpoint


def clear(directory: Path) -> None:
    """Remove what an earlier attempt left, except the lock.

    A folder that is a link, `checkpoint` onto a larger disk, is emptied and stays one.
    """
    for path in directory.iterdir():
        if path.is_symlink() and path.is_dir():
            clear(path)
        elif path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
