"""What became of a launch: the errors it can end with, and how their sentences are found.

Each rank's state file (`log/rank{r}.json`) says how far it came and how it ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from chatlib.runs.files import RunError, read_json
from chatlib.runs.meeting import PEER_LOST
from chatlib.runs.recorder import read_states
from chatlib.runs.store import Run

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What says so in a rank's error: the system's own words, which Python, safetensors and tokenizers
# pass on, and two of torch.save, which tells only that its stream took fewer bytes than it gave.

# What says so in a rank's error: the system's own words, which Python, safetensors and tokenizers
# pass on, and two of torch.save, which tells only that its stream took fewer bytes than it gave.
DISK_FULL = (*map(os.strerror, FULL), "iostream error", "unexpected pos")


PORT_TAKEN = ("EADDRINUSE", "address already in use", "Address already in use")

# What a rank says when it fails only because another one has gone.
SECONDARY = (
    PEER_LOST,
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "Connection refused",
    "Connection closed",
    "communicator was aborted",
    "recvValue failed",
    "failed to recv",
)


class LaunchError(RunError):
    """A launch did not start or did not finish; the message names the place and the remedy."""


class RankFailed(LaunchError):
    """A rank ended before training did. `rank`, `step`, `traceback` and `logs` tell more."""

    def __init__(self, message: str, rank: int, step: int, traceback: str, logs: list[Path]):
        super().__init__(message)
        self.rank, self.step, self.traceback, self.logs = rank, step, traceback, logs


class RankStuck(LaunchError):
    """Ranks made no progress within the timeout; the message says where each of them stood."""


def has_failed(state: dict) -> bool:
    """Whether a rank ended otherwise than by reporting itself done."""
    return state.get("status") in ("failed", "ended")


def port_was_taken(error: RankFailed) -> bool:
    """Whether the ranks could not meet because somebody listens on their port."""
    return any(text in error.traceback for text in PORT_TAKEN)


def live_ranks(directory: Path) -> list[int]:
    """Processes of this machine that are ranks of the run in `directory`."""
    import psutil

    pids = []
    for path in directory.glob("log/rank*.json"):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(read_json(path).get("pid", 0))
            if str(directory) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(process.pid)
    return pids


def failure(run: Run, ranks: int, code: int, log: Path | None = None) -> LaunchError:
    """The error of a launch that ended without a complete manifest: the rank that began it.

    `code` is the exit code of the deepspeed launcher, `log` what it wrote.
    """
    states = read_states(run.directory, ranks)
    failed = [state for state in states if has_failed(state)]
    if not failed:
        log = log or run.directory / "log" / "launcher.txt"
        return LaunchError(
            f"{run.name}: the deepspeed launcher ended ({describe_code(code)}) and no rank said "
            f"why; last lines of {log}:\n{_tail(log)}"
        )
    first = min(failed, key=lambda state: (_is_secondary(state), state.get("time", 0.0)))
    rank, step = first["rank"], first.get("step", 0)
    logs = [run.directory / "log" / f"rank{r}.txt" for r in range(ranks)]
    text = (first.get("traceback") or _tail(logs[rank])).strip()
    parts = [
        f"{run.name}: rank {rank} of {ranks}, at step {step} ({first.get('where') or 'training'}), "
        f"{describe_end(first)}",
        text,
        f"logs: {', '.join(map(str, logs))}",
    ]
    return RankFailed("\n".join(filter(None, parts)), rank, step, text, logs)


def _is_secondary(state: dict) -> bool:
    """Whether a rank ended only because another one had."""
    text = state.get("error", "")
    stopped = state.get("signal") in (signal.SIGTERM, signal.SIGABRT)
    return stopped or any(part in text for part in SECONDARY)


def describe_end(state: dict) -> str:
    """How a rank ended, in words: raised, was killed, or left early."""
    if state.get("status") == "failed":
        error = state["error"].splitlines()[0]
        if any(text in error for text in DISK_FULL):
            error += "; the disk is full: free some space or set CHATLIB_RUNS to a folder elsewhere"
        return f"raised {error}"
    if state.get("signal"):
        peak = state.get("peak_bytes", 0) / 2**20
        return f"was killed by {describe_code(-state['signal'])} (peak seen: {peak:.0f} MiB)"
    return f"left with exit code {state.get('code')} before training had ended"


def describe_code(code: int) -> str:
    """An exit code in words; negative codes are signals."""
    if code >= 0:
        return f"exit code {code}"
    causes = {
        signal.SIGKILL: ", probably out of memory",
        signal.SIGBUS: ", probably shared memory full",
    }
    return f"{signal.Signals(-code).name}{causes.get(-code, '')}"


def stuck(
    run: Run, states: list[dict], silent: list[float], hosts: Sequence[str] = ()
) -> RankStuck:
    """The error of a launch without progress, after every rank here has dumped its stacks.

    `silent` holds the seconds since each rank's last heartbeat, `hosts` the machine of each
    rank where there are several. Ranks that were started over ssh dump theirs when they are
    dismissed, too late for this message to say in which line they were.
    """
    places = [f" on {host}" for host in hosts] or [""] * len(states)
    for pid in live_ranks(run.directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    time.sleep(0.5)
    lines = [
        f"  rank {rank}{place}: step {state.get('step', 0)} ({state.get('where') or 'training'}), "
        f"{seconds:.0f} s ago; in {_innermost(run.directory, rank)}"
        for rank, (state, seconds, place) in enumerate(zip(states, silent, places))
    ]
    return RankStuck(
        f"{run.name}: no progress for {max(silent):.0f} s, all ranks were ended; "
        "their last heartbeats were\n"
        + "\n".join(lines)
        + f"\nstacks: {run.directory / 'log'}/rank*.stack.txt; "
        "pass a longer `timeout` if a step, an evaluation or a save takes that long"
    )


def _innermost(directory: Path, rank: int) -> str:
    """The innermost frame of the main thread in a rank's stack dump."""
    try:
        text = (directory / "log" / f"rank{rank}.stack.txt").read_text()
    except OSError:
        return "a place not known here"
    frames = text[max(0, text.rfind("Current thread")) :].splitlines()[1:]
    return frames[0].strip() if frames else "a place not known here"


def _tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(nothing)"
