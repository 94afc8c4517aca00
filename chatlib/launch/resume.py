"""Which unfinished run `resume` means, and how its checkpoint becomes this run's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from chatlib.launch.directory import claimed, clear, writable
from chatlib.launch.failures import LaunchError
from chatlib.runs.checkpoints import (
    checkpoint_path,
    checkpoint_step,
    newest_checkpoint,
    whole_checkpoints,
)
from chatlib.runs.files import write_json
from chatlib.runs.store import Run, is_held
from chatlib.settings.stages import StageConfig

SHARING = frozenset({"ranks", "gradient_accumulation_steps"})  # how, not which examples a step has


def planned_checkpoint(run: Run, config: StageConfig, prints: dict[str, str]) -> Path | None:
    """Where the checkpoint lies, or will lie, from which `resume` continues."""
    source = run_to_continue(run, config, prints)
    found = source and newest_checkpoint(source.directory)
    return found and checkpoint_path(run.directory, checkpoint_step(found))


def run_to_continue(run: Run, config: StageConfig, prints: dict[str, str]) -> Run | None:
    """The unfinished run that `resume` means: `run`, or that of other ranks which got further.

    None where there is no checkpoint. Only how a step's examples are shared out may differ
    (`SHARING`); with another change a run is another one, and if `run` was not begun either,
    that is hardly what was meant.
    """
    wanted, refused = config.model_dump(mode="json"), ""
    found: dict[Run, int] = {}
    for other, step in _unfinished(run.directory.parent, config.stage):
        changed = [k for k in wanted if other.config.get(k) != wanted[k]]
        same = SHARING.issuperset(changed) and other.manifest.get("data") == prints
        if other == run or (same and not (run.config and is_held(other.directory))):
            found[other] = step
        refused = refused or (
            f"nothing to resume with these settings; the unfinished run {other.name} differs in "
            f"{', '.join(changed) or 'its data'}: restore that, or launch without resume"
        )
    if refused and not found and not run.config:
        raise LaunchError(refused)
    return max(found, key=lambda other: (found[other], other == run), default=None)


def _unfinished(folder: Path, stage: str) -> Iterator[tuple[Run, int]]:
    """Runs of a stage that can be continued, and the step of each one's newest checkpoint."""
    for run in map(Run, sorted(folder.glob(f"{stage}-*"))):
        if not run.complete and (whole := whole_checkpoints(run.directory)):
            yield run, checkpoint_step(whole[-1])


def adopt(directory: Path, other: Run) -> None:
    """Give a run another's newest checkpoint, its metrics, and a note of where they are from.

    A copy: whatever becomes of the other run, and of the first attempt, this one can go on.
    """
    with claimed(other.directory):  # a live run would go on without us
        checkpoint = newest_checkpoint(other.directory)
        step = checkpoint_step(checkpoint)
        final = checkpoint_path(directory, step)
        with writable(directory):
            clear(directory)
            shutil.copytree(checkpoint, final.with_suffix(".tmp"))
            os.rename(final.with_suffix(".tmp"), final)
            shutil.copy(other.directory / "metrics.jsonl", directory)
            begun = {"run": other.name, "ranks": other.config["ranks"], "step": step}
            write_json(directory / "manifest.json", {"continues": begun})
