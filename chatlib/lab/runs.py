"""The record of a run on disk: directory, manifest, metrics, rank states, checkpoints.

A run is one directory `{stage}-{hash}` below `$CHATLIB_RUNS` (default: `runs/` at the
repository root). Only a manifest with `status: complete` counts as finished. This module
imports no torch; pandas and matplotlib are imported when a table or a plot is asked for.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chatlib
from chatlib.lab.config import StageConfig

if TYPE_CHECKING:
    import pandas

STATE_BYTES = 16_384  # of a rank's state file: written once, then in place, so that a full
# disk cannot keep a rank from reporting that the disk is full


class RunError(RuntimeError):
    """A run cannot be found, read or written; the message names the place and the remedy."""


# --------------------------------------------------------------------- small files


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a crash, sees the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # there only when writing failed: on a full disk


def write_json(path: Path, data: dict) -> None:
    """`write_atomically` of indented JSON."""
    write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """The object in a file, or an empty one where there is none or a torn one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


# ------------------------------------------------------------------- names and places


def root() -> Path:
    """The folder of all runs: `$CHATLIB_RUNS`, or `runs/` at the repository root."""
    if os.environ.get("CHATLIB_RUNS"):
        return Path(os.environ["CHATLIB_RUNS"]).expanduser().resolve()
    repository = Path(chatlib.__file__).parents[1]
    return (repository if (repository / "pyproject.toml").is_file() else Path.cwd()) / "runs"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_fingerprint(name: str) -> str:
    """What a source or model reference stands for, as a text that changes with its content.

    `shop` is the modules that write it; a file or folder is its bytes (not its place); a run
    or a hub reference is its name, which carries the hash or the revision already.
    """
    if name.startswith(("run:", "hub:")):
        return name
    path = Path(chatlib.__file__).parent / "data" if name == "shop" else Path(name)
    pattern = "shop*.py" if name == "shop" else "*"
    files = sorted(p for p in path.rglob(pattern) if p.is_file()) if path.is_dir() else [path]
    try:
        hashes = [(str(f.relative_to(path.parent)), _sha256(f)) for f in files]
    except OSError as error:
        raise RunError(f"{name} cannot be read ({error.strerror}); give its path") from error
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def models_of(config: StageConfig) -> list[str]:
    """The references to models in a configuration."""
    named = (getattr(config, field, None) for field in ("model", "reward_model"))
    return [model for model in named if isinstance(model, str)]


def fingerprints(config: StageConfig) -> dict[str, str]:
    """The fingerprint of every source and of every model that the configuration names."""
    names = [source.name for source in config.sources] + models_of(config)
    return {name: content_fingerprint(name) for name in names}


def run_name(config: StageConfig, prints: dict[str, str] | None = None) -> str:
    """`{stage}-{hash}`: equal for the same settings on the same data, wherever files lie.

    A setting that is None is not set and does not count: a new one of that kind renames no run.
    """
    prints = fingerprints(config) if prints is None else prints
    text = json.dumps(config.model_dump(mode="json", exclude_none=True), sort_keys=True)
    for name, fingerprint in prints.items():
        text = text.replace(json.dumps(name), json.dumps(fingerprint))
    return f"{config.stage}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def resolve(reference: str | Path) -> Path | tuple[str, str | None]:
    """Where a model lies: the folder of `run:NAME` or of a path, or (name, revision) of a hub's.

    Raises `RunError` when the run is not finished or the folder holds no model.
    """
    text = str(reference)
    if text.startswith("hub:"):
        name, _, revision = text.removeprefix("hub:").partition("@")
        return name, revision or None
    if text.startswith("run:"):
        run = Run(root() / text.removeprefix("run:"))
        if not run.complete:
            raise RunError(f"{text} is no finished run in {root()}; launch it first")
        return run.model_dir
    folder = Path(text).expanduser()
    if (folder / "manifest.json").is_file() and Run(folder).complete:
        return Run(folder).model_dir
    if not (folder / "config.json").is_file():
        raise RunError(f"{text} holds no config.json; give a model folder, run:NAME or hub:NAME")
    return folder


# -------------------------------------------------------------------------- the run


@dataclass(frozen=True)
class Run:
    """A run directory, for reading."""

    directory: Path

    @property
    def name(self) -> str:
        """The directory's name, `{stage}-{hash}`."""
        return self.directory.name

    @property
    def reference(self) -> str:
        """How a later stage's configuration names this run's model."""
        return f"run:{self.name}"

    @property
    def model_dir(self) -> Path:
        """The trained model, in plain Hugging Face format."""
        return self.directory / "model"

    @property
    def manifest(self) -> dict:
        """What is known of the run: seed, versions, world, seconds, peaks, summary, status."""
        return read_json(self.directory / "manifest.json")

    @property
    def complete(self) -> bool:
        """Whether the manifest says so; an exit code never counts."""
        return self.manifest.get("status") == "complete"

    @property
    def status(self) -> str:
        """The manifest's status; `stopped` where it says running but no launch holds the run."""
        status = self.manifest.get("status", "not started")
        return "stopped" if status == "running" and not is_held(self.directory) else status

    @property
    def config(self) -> dict:
        """All that is needed to repeat the run."""
        return read_json(self.directory / "config.json")

    @property
    def metrics(self) -> pandas.DataFrame:
        """A row for each step and each evaluation; a figure that a row does not have is NaN."""
        import pandas

        return pandas.DataFrame(read_metrics(self.directory / "metrics.jsonl"))

    def plot(self, *columns: str) -> Any:
        """The named figures against the step; see `chatlib.lab.plots`."""
        from chatlib.lab import plots

        return plots.curves(self, *columns)

    def __repr__(self) -> str:
        return f"Run({self.name}, {self.status})"


def is_held(directory: Path) -> bool:
    """Whether a live launch holds the run directory."""
    try:
        with open(directory / "lock", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Tail:
    """Follows a file of JSON lines that grows; `rows` holds what was read so far."""

    def __init__(self, path: Path):
        self.path, self.rows, self._offset, self._inode = path, [], 0, None

    def read(self) -> bool:
        """Take up new whole lines, or all lines of a file that was rewritten; True if any."""
        try:
            with open(self.path, "rb") as file:
                found = os.fstat(file.fileno())
                # A rewound file is another one, and may have outgrown the old one again by now.
                if found.st_ino != self._inode or found.st_size < self._offset:
                    self.rows, self._offset, self._inode = [], 0, found.st_ino
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return False
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = [json.loads(line) for line in whole.splitlines()]
        self.rows.extend(new)
        return bool(new)


def read_metrics(path: Path) -> list[dict]:
    """The rows of a `metrics.jsonl`; a last line that is still being written is left out."""
    tail = Tail(path)
    tail.read()
    return tail.rows


def run_of(config: StageConfig, prints: dict[str, str] | None = None) -> Run:
    """The run of a configuration, begun or not."""
    return Run(root() / run_name(config, prints))


def all_runs() -> list[Run]:
    """Every run below `root()`, by name."""
    return [Run(p.parent) for p in sorted(root().glob("*/manifest.json"))]


# ---------------------------------------------------------------------- rank states


def state_path(directory: Path, rank: int) -> Path:
    """Where rank `rank` says how it is."""
    return directory / "log" / f"rank{rank}.json"


def write_state(path: Path, state: dict) -> None:
    """Overwrite a state in place; a traceback too long for the file loses its beginning."""
    text = json.dumps(state)
    while len(text) > STATE_BYTES:
        state = {**state, "traceback": state["traceback"][len(text) - STATE_BYTES + 64 :]}
        text = json.dumps(state)
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, text.ljust(STATE_BYTES).encode(), 0)
    finally:
        os.close(file)


def read_states(directory: Path, world: int) -> list[dict]:
    """The state of every rank, in order; empty for one that has not started."""
    return [read_json(state_path(directory, rank)) for rank in range(world)]


# ------------------------------------------------------------------------- recorder


class Recorder:
    """What a stage tells the world while it trains; the only thing it gets besides its config.

    `rank` and `world` are the process's place, `directory` is the run's, `checkpoint` is the
    folder to continue from or None.
    """

    def __init__(self, directory: Path, rank: int, world: int, checkpoint: Path | None = None):
        self.directory, self.rank, self.world = directory, rank, world
        self.checkpoint = checkpoint
        self.state: dict = {"rank": rank, "pid": os.getpid(), "step": 0, "where": "start"}
        self._fault = parse_fault(os.environ.get("CHATLIB_FAULT", ""))
        self.report(status="running")

    def report(self, **news: Any) -> None:
        """Merge `news` into this rank's state file."""
        self.state.update(news, time=time.time())
        write_state(state_path(self.directory, self.rank), self.state)

    def beat(self, step: int, where: str = "") -> None:
        """Say that this rank is alive at `step`; without beats it counts as stuck."""
        self.report(step=int(step), where=where)
        if self._fault and self._fault[:2] == (self.rank, int(step)):
            commit_fault(*self._fault[2:], where)

    def log(self, step: int, **figures: Any) -> None:
        """Append one row of figures (numbers) to `metrics.jsonl`; only rank 0 writes."""
        if self.rank:
            return
        row = {"step": int(step)} | {
            k: v if isinstance(v, str | int | None) else float(v) for k, v in figures.items()
        }
        with open(self.directory / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def say(self, text: str) -> None:
        """A line for this rank's log, `log/rank{rank}.txt`."""
        print(text, flush=True)

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`: a resumed run writes them again. Only rank 0 acts."""
        path = self.directory / "metrics.jsonl"
        if self.rank == 0 and path.is_file():
            rows = [row for row in read_metrics(path) if row["step"] <= step]
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def parse_fault(text: str) -> tuple[int, int, str, str] | None:
    """(rank, step, kind, where) of `$CHATLIB_FAULT`, with which tests make one rank fail."""
    if not text:
        return None
    kinds = "raise|kill|sleep|exit0"
    found = re.fullmatch(rf"rank=(\d+),step=(\d+),kind=({kinds})(?:,where=(\w+))?", text)
    if not found:
        raise ValueError(f"CHATLIB_FAULT is {text!r}; use rank=R,step=S,kind={kinds}[,where=PLACE]")
    return int(found[1]), int(found[2]), found[3], found[4] or ""


def commit_fault(kind: str, wanted: str, where: str) -> None:
    """Fail in the named way, if this is the wanted place (an empty one is any)."""
    if wanted not in ("", where):
        return
    if kind == "raise":
        raise RuntimeError("a fault was asked for with CHATLIB_FAULT")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "sleep":
        time.sleep(3600)
    sys.stdout.flush()
    os._exit(0)


# ---------------------------------------------------------------------- checkpoints


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

    Call it on one rank, after a barrier. The sizes of all files go into `complete.json`, bytes
    reach the disk before the name does, and the name appears in one rename: a crash leaves the
    older checkpoints and a `.tmp` folder, never half a checkpoint under a final name.
    """
    files = [p for p in sorted(temporary.rglob("*")) if p.is_file()]
    sizes = {p.relative_to(temporary).as_posix(): p.stat().st_size for p in files}
    write_json(temporary / "complete.json", sizes)
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
    sizes = read_json(checkpoint / "complete.json")
    found = {name: checkpoint / name for name in sizes}
    return bool(sizes) and all(
        p.is_file() and p.stat().st_size == sizes[n] for n, p in found.items()
    )


def whole_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of the run in `directory` that can be continued from, oldest first."""
    return [path for path in _checkpoints(directory / "checkpoint") if is_whole(path)]


def newest_checkpoint(directory: Path) -> Path | None:
    """The last whole checkpoint of the run in `directory`; warns of each torn one it skips."""
    folder = directory / "checkpoint"
    for torn in sorted(folder.glob("step-*.tmp")):
        warnings.warn(f"{torn} was not finished and is skipped", stacklevel=2)
    for checkpoint in reversed(_checkpoints(folder)):
        if is_whole(checkpoint):
            return checkpoint
        warnings.warn(f"{checkpoint} is torn and is skipped", stacklevel=2)
    return None
