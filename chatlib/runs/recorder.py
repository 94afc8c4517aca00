"""What a stage tells the world while it trains: heartbeats, metrics, and how a rank ended.

Each rank keeps a state file, `log/rank{r}.json`; rank 0 appends the figures to `metrics.jsonl`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from chatlib.runs.files import read_json, write_atomically

STATE_BYTES = 16_384  # of a rank's state file: written once, then in place, so that a full
# disk cannot keep a rank from reporting that the disk is full

DATA_REPORT = "log/data.txt"  # in a run's directory, once its ranks have read their sources


class Stopped(Exception):
    """Training ends before its last step because the launch was asked to, with a checkpoint."""


def stop_path(directory: Path) -> Path:
    """The file by which the launching process asks for a checkpoint and an end."""
    return directory / "stop"


class Tail:
    """Follows a file of JSON lines that grows; `rows` holds what was read so far."""

    def __init__(self, path: Path):
        self.path, self._offset = path, 0
        self.rows: list[dict] = []
        self._inode: int | None = None

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


def read_data_report(directory: Path) -> list[str]:
    """What a run left out or cut of its data, a line each; nothing before that is known."""
    try:
        return (directory / DATA_REPORT).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


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


class Recorder:
    """What a stage tells the world while it trains; the only thing it gets besides its config.

    `rank` and `world` are the process's place, `directory` is the run's, `checkpoint` is the
    folder to continue from or None.
    """

    def __init__(self, directory: Path, rank: int, world: int, checkpoint: Path | None = None):
        self.directory, self.rank, self.world = directory, rank, world
        self.checkpoint = checkpoint
        self.state: dict = {"rank": rank, "pid": os.getpid(), "step": 0, "where": "start"}
        self._last: int | None = None  # the step after which to end, if that was asked for
        self.report(status="running")

    def report(self, **news: Any) -> None:
        """Merge `news` into this rank's state file."""
        self.state.update(news, time=time.time())
        write_state(state_path(self.directory, self.rank), self.state)

    def beat(self, step: int, where: str = "") -> None:
        """Say that this rank is alive at `step`; without beats it counts as stuck."""
        self.report(step=int(step), where=where)

    def saves_at(self, step: int, every: int) -> bool:
        """Whether to save a checkpoint after `step`: by the plan, or because the launch is to end.

        Call it on every rank, once a step, after the ranks have waited for each other in it. Rank
        0 sees the request and says in its state that the next step is the last, before it takes
        part in that: so everyone who has finished that step reads it, and all save together.
        """
        if self.rank == 0 and self._last is None and stop_path(self.directory).exists():
            self._last = step + 1
            self.report(last=self._last)
        elif self.rank and self._last is None:
            self._last = read_json(state_path(self.directory, 0)).get("last")
        return bool(every and step % every == 0) or step == self._last

    def end_if_asked(self, step: int) -> None:
        """Raise `Stopped` after the checkpoint of the step at which the launch is to end."""
        if step == self._last:
            raise Stopped(f"stopped at step {step} with a checkpoint, as asked")

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

    def tell_data(self, lines: list[str]) -> None:
        """What was left out or cut of the data: for the log, and for the launching terminal."""
        for line in lines:
            self.say(line)
        if self.rank == 0:
            write_atomically(self.directory / DATA_REPORT, "".join(f"{line}\n" for line in lines))

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`: a resumed run writes them again. Only rank 0 acts."""
        path = self.directory / "metrics.jsonl"
        if self.rank == 0 and path.is_file():
            rows = [row for row in read_metrics(path) if row["step"] <= step]
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
