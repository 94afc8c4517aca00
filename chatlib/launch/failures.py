"""What became of a launch: the errors it can end with, and how their sentences are found.

Each rank's state file (`log/rank{r}.json`) says how far it came and how it ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from chatlib.runs.files import RunError, read_json
from chatlib.runs.meeting import PEER_LOST
from chatlib.runs.recorder import read_states
from chatlib.runs.store import Run

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What says so in a rank's error: the system's own words, which Python, safetensors and tokenizers
# pass on, and two of torch.save, which tells only that its stream took fewer bytes than it gave.
DISK_FULL = (*map(os.strerror, FULL), "iostream error", "unexpected pos")


SENTENCES = ("ValueError", "Unreadable", "RunError")  # errors that say what to do
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
    "remote process exited",  # NCCL's
    "ncclRemoteError",
    "NCCL communicator was aborted",
    "Watchdog caught collective operation timeout",
)


class LaunchError(RunError):
    """A launch did not start or did not finish; the message names the place and the remedy."""

    code = 1  # the exit code of a command that ends so


class RankFailed(LaunchError):
    """A rank ended before training did. `rank`, `step`, `traceback` and `logs` tell more.

    `host` is the machine of the rank where there are several, else "".
    """

    def __init__(
        self, message: str, rank: int, step: int, traceback: str, logs: list[Path], host: str = ""
    ):
        super().__init__(message)
        self.rank, self.step, self.traceback, self.logs = rank, step, traceback, logs
        self.host = host


class LaunchStopped(LaunchError):
    """The launch was asked to end, and did, with a checkpoint."""

    code = os.EX_TEMPFAIL


class RankStuck(LaunchError):
    """Ranks made no progress within the timeout; the message says where each of them stood."""


def has_failed(state: dict) -> bool:
    """Whether a rank ended otherwise than by reporting itself done."""
    return state.get("status") in ("failed", "ended")


def port_was_taken(error: RankFailed) -> bool:
    """Whether the ranks could not meet because somebody listens on their port."""
    return any(text in error.traceback for text in PORT_TAKEN)


def live_ranks(directory: Path) -> list[int]:
    """Processes of this machine that are ranks of the run in `directory`: they write its logs."""
    import psutil

    pids = []
    for path in directory.glob("log/rank*.json"):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(read_json(path).get("pid", 0))
            held = {file.path for file in process.open_files()}
            if str(path.with_suffix(".txt").resolve()) in held:
                pids.append(process.pid)
    return pids


def failure(
    run: Run, ranks: int, code: int, log: Path | None = None, hosts: Sequence[str] = ()
) -> LaunchError:
    """The error of a launch that ended without a complete manifest: the rank that began it.

    `code` is the exit code of the deepspeed launcher, `log` what it wrote, `hosts` the machine of
    each rank where there are several.
    """
    states = read_states(run.directory, ranks)
    failed = [state for state in states if has_failed(state)]
    if all(state.get("status") == "stopped" for state in states):
        return LaunchStopped(
            f"{run.name}: stopped at step {states[0].get('step')} with a checkpoint, as asked; "
            "continue with resume=True"
        )
    if not failed:
        log = log or run.directory / "log" / "launcher.txt"
        return LaunchError(
            f"{run.name}: the deepspeed launcher ended ({describe_code(code)}) and no rank said "
            f"why; last lines of {log}:\n{_tail(log)}"
        )
    first = _first(failed, hosts)
    rank, step = first["rank"], first.get("step", 0)
    logs = [run.directory / "log" / f"rank{r}.txt" for r in range(ranks)]
    text = (first.get("traceback") or _tail(logs[rank])).strip()
    host = hosts[rank] if hosts else ""
    place = f" on {host}" if host else ""
    parts = [
        f"{run.name}: rank {rank} of {ranks}{place}, at step {step} "
        f"({first.get('where') or 'training'}), {describe_end(first)}",
        "" if is_about_the_data(first) else text,
        table(failed, hosts) if len(failed) > 1 else "",
        f"logs: {', '.join(map(str, logs))}",
    ]
    return RankFailed("\n".join(filter(None, parts)), rank, step, text, logs, host)


def is_about_the_data(state: dict) -> bool:
    """Whether a rank ended with a sentence about the data, to which a stack adds nothing."""
    kind = state.get("error", "").partition(":")[0]
    return state.get("where") == "read the data" and kind in SENTENCES


def _first(failed: list[dict], hosts: Sequence[str]) -> dict:
    """The rank that began it: one that failed by itself, the earliest of its machine.

    Clocks of different machines are not compared; the lower machine goes first.
    """
    order = {host: place for place, host in enumerate(dict.fromkeys(hosts))}

    def began(state: dict) -> tuple[bool, int, float]:
        machine = order[hosts[state["rank"]]] if hosts else 0
        return _is_secondary(state), machine, state.get("time", 0.0)

    return min(failed, key=began)


def table(failed: list[dict], hosts: Sequence[str] = ()) -> str:
    """All ranks that failed, a line for each way to end: ranks, machines, exit code, reason."""
    groups: dict[tuple[str, str], list[int]] = {}
    for state in sorted(failed, key=_is_secondary):
        groups.setdefault((_exit(state), describe_end(state)), []).append(state["rank"])
    rows = [("ranks", "hosts", "exit", "how they ended")]
    for (code, end), ranks in groups.items():
        machines = ",".join(dict.fromkeys(hosts[rank] for rank in ranks)) if hosts else "this one"
        rows.append((spans(ranks), machines, code, end))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        for row in rows
    )


def _exit(state: dict) -> str:
    """A rank's exit code or signal; a question mark while its parent has not written it down."""
    if state.get("signal"):
        return signal.Signals(state["signal"]).name
    return str(state.get("code", "?"))


def spans(numbers: Iterable[int]) -> str:
    """`0-2,5` of 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


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
    causes: dict[int, str] = {
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
    asleep = [_is_stopped(state) if not hosts else False for state in states]
    for pid in live_ranks(run.directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    time.sleep(0.5)
    lines = [
        f"  rank {rank}{place}: step {state.get('step', 0)} ({state.get('where') or 'training'}), "
        f"{seconds:.0f} s ago; "
        + ("stopped by a signal (SIGSTOP)" if stops else f"in {_innermost(run.directory, rank)}")
        for rank, (state, seconds, place, stops) in enumerate(zip(states, silent, places, asleep))
    ]
    return RankStuck(
        f"{run.name}: no progress for {max(silent):.0f} s, all ranks were ended; "
        "their last heartbeats were\n"
        + "\n".join(lines)
        + f"\nstacks: {run.directory / 'log'}/rank*.stack.txt; "
        "pass a longer `timeout` if a step, an evaluation or a save takes that long"
    )


def _is_stopped(state: dict) -> bool:
    """Whether a rank of this machine was stopped from outside and waits to be continued."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(state.get("pid", 0)).status() == psutil.STATUS_STOPPED
    return False


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
