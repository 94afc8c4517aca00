"""Which unfinished run `resume` means, and how its checkpoint becomes this run's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from chatlib.launch.directory import claimed, clear, writable
from chatlib.runs.checkpoints import (
    checkpoint_path,
    checkpoint_step,
    newest_checkpoint,
    whole_checkpoints,
)
from chatlib.runs.code import changed_files, code_of
from chatlib.runs.files import write_json
from chatlib.runs.identity import corpora_of, without_code
from chatlib.runs.lock import is_held
from chatlib.runs.store import Run
from chatlib.settings.stages import StageConfig

SHARING = frozenset({"ranks", "gradient_accumulation_steps"})  # how, not which examples a step has


def planned_checkpoint(run: Run, config: StageConfig, prints: dict[str, str]) -> Path | None:
    """Where the checkpoint lies, or will lie, from which `resume` continues."""
    source = run_to_continue(run, config, prints)
    found = newest_checkpoint(source.directory) if source else None
    return checkpoint_path(run.directory, checkpoint_step(found)) if found else None


def run_to_continue(
    run: Run,
    config: StageConfig,
    prints: dict[str, str],
    say: Callable[[str], None] = lambda text: None,
    force: bool = False,
) -> Run | None:
    """The unfinished run that `resume` means: `run`, or that of other ranks which got further.

    None where there is no checkpoint. Only how a step's examples are shared out may differ
    (`SHARING`), and with `force` the code; with another change a run is another one. If `run` was
    not begun either, `say` is told how the unfinished ones differ: somebody may have meant one.
    """
    found: dict[Run, int] = {}
    others = []
    for other, step in _unfinished(run.directory.parent, config.stage):
        differs = differences(other, config, prints, force)
        if other == run or not (differs or (run.config and is_held(other.directory))):
            found[other] = step
        elif differs:
            others.append(f"{other.name} differs in {', '.join(differs)}")
    if others and not found and not run.config:
        say(f"nothing to resume, {run.name} starts from the beginning: {'; '.join(others)}")
    return max(found, key=lambda other: (found[other], other == run), default=None)


def differences(
    other: Run, config: StageConfig, prints: dict[str, str], any_code: bool = False
) -> list[str]:
    """What keeps a run from being continued by a configuration: settings, data, files of code."""
    wanted = config.model_dump(mode="json")
    differs = [k for k in wanted if k not in SHARING and other.config.get(k) != wanted[k]]
    if other.manifest.get("data") != without_code(prints):
        differs.append("its data")
    return differs + ([] if any_code else _edited(other, config))


def _edited(other: Run, config: StageConfig) -> list[str]:
    """The files of code that have changed since a run began."""
    return changed_files(other.manifest.get("code", {}), code_of(config.stage, corpora_of(config)))


def other_code(run: Run, config: StageConfig, prints: dict[str, str]) -> str:
    """Which files make `run` another one than the last run of the same settings; else nothing.

    Silent where `run` was begun already: then this was said before.
    """
    if run.config:
        return ""
    wanted, data = config.model_dump(mode="json"), without_code(prints)
    same = [
        other
        for other in map(Run, run.directory.parent.glob(f"{config.stage}-*"))
        if other.config == wanted and other.manifest.get("data") == data
    ]
    last = max(same, key=lambda other: other.manifest.get("started", 0.0), default=None)
    edited = _edited(last, config) if last else []
    return f"{', '.join(edited)} changed since {last.name}" if last and edited else ""


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
        if checkpoint is None:
            return  # another's: it was told, and this run starts from the beginning
        step = checkpoint_step(checkpoint)
        final = checkpoint_path(directory, step)
        with writable(directory):
            clear(directory)
            shutil.copytree(checkpoint, final.with_suffix(".tmp"))
            os.rename(final.with_suffix(".tmp"), final)
            shutil.copy(other.directory / "metrics.jsonl", directory)
            begun = {"run": other.name, "ranks": other.config["ranks"], "step": step}
            write_json(directory / "manifest.json", {"continues": begun})
