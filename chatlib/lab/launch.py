"""Start, watch and stop a launch: `launch(config)` is as dependable as a function call.

The launch is a real `deepspeed` process in a process group of its own. Each rank keeps a
state file (`log/rank{r}.json`: step, place, error, how it ended); this module watches those,
shows progress, and turns whatever goes wrong into one sentence. Nothing outlives a launch:
the group is ended on return, and the ranks end themselves when this process dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import importlib.metadata
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chatlib.lab import display, runs
from chatlib.lab.config import StageConfig
from chatlib.lab.runs import Run, RunError

TIMEOUT = 600.0  # seconds without a heartbeat; loading a large model may take minutes
POLL = 0.1  # seconds between two looks at the ranks
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PACKAGES = ("chatlib", "torch", "deepspeed", "transformers", "tokenizers", "peft", "datasets")
# What a rank says when it fails only because another one has gone.
SECONDARY = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused",
             "communicator was aborted", "Connection closed", "recvValue failed")  # fmt: skip


class LaunchError(RunError):
    """A launch did not start or did not finish; the message names the place and the remedy."""


class RankFailed(LaunchError):
    """A rank ended before training did. `rank`, `step`, `traceback` and `logs` tell more."""

    def __init__(self, message: str, rank: int, step: int, traceback: str, logs: list[Path]):
        super().__init__(message)
        self.rank, self.step, self.traceback, self.logs = rank, step, traceback, logs


class RankStuck(LaunchError):
    """No rank, or not every rank, made progress within the timeout."""


def launch(
    config: StageConfig,
    ranks: int | None = None,
    dry_run: bool = False,
    resume: bool = False,
    timeout: float | None = None,
) -> Run:
    """Train one stage with DeepSpeed and return its finished run.

    The same configuration on the same data finds its finished run and returns at once.
    `ranks` replaces the configuration's; `dry_run` prints what would be done and starts
    nothing; `resume` continues an unfinished run from its newest checkpoint; `timeout` is the
    number of seconds without a heartbeat after which a rank counts as stuck (default 600).

    Raises `RankFailed`, `RankStuck` or `LaunchError`; ends every process it started first,
    also when it is interrupted.
    """
    if ranks is not None:
        config = type(config).model_validate({**config.model_dump(), "ranks": ranks})
    prints = runs.fingerprints(config)
    run = Run(runs.root() / runs.run_name(config, prints))
    if dry_run:
        from chatlib.lab import plan

        print(plan.describe(config, run.directory))
        return run
    if run.complete:
        return run
    started = time.time()
    with claimed(run.directory):
        if run.complete:  # finished by another process while this one was waiting
            return run
        checkpoint = prepare(run.directory, config, prints, resume, started)
        _run_with_retry(run, config, checkpoint, timeout or TIMEOUT)
        _record(run.directory, seconds=round(time.time() - started, 3))
    return run


# -------------------------------------------------------------------- the directory


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold the run directory for this process; a sentence when another one holds it."""
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        strangers = {p.name for p in directory.iterdir()}
        if strangers and not strangers & {"config.json", "lock"}:
            raise LaunchError(
                f"{directory} holds something else ({min(strangers)}) and is left alone; "
                "move it or set CHATLIB_RUNS to another folder"
            )
        lock = open(directory / "lock", "a+", encoding="utf-8")  # noqa: SIM115
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise LaunchError(
                f"{directory} is in use by a live run (process {lock.read().strip() or '?'}); "
                "wait for it or stop it"
            ) from error
        _wait_for_old_ranks(directory)
        with writable(directory):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        yield


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
            f"{directory} cannot be written ({error.strerror}); "
            "set CHATLIB_RUNS to a folder that can"
        ) from error


def _wait_for_old_ranks(directory: Path, seconds: float = 10.0) -> None:
    """Ranks whose launcher was killed end themselves; wait until they have."""
    deadline = time.monotonic() + seconds
    while pids := live_ranks(directory):
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{directory} is in use by processes {pids} of an earlier launch; stop them"
            )
        time.sleep(POLL)


def live_ranks(directory: Path) -> list[int]:
    """Processes of this machine that are ranks of the run in `directory`."""
    import psutil

    pids = []
    for path in directory.glob("log/rank*.json"):
        pid = runs.read_json(path).get("pid", 0)
        with contextlib.suppress(psutil.Error, ValueError):
            process = psutil.Process(pid)
            if str(directory) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(pid)
    return pids


def prepare(
    directory: Path, config: StageConfig, prints: dict[str, str], resume: bool, started: float
) -> Path | None:
    """Bring the directory to its state at the start; returns the checkpoint to continue from."""
    wanted, found = config.model_dump(mode="json"), runs.read_json(directory / "config.json")
    if found and found != wanted:
        changed = [k for k in wanted if found.get(k) != wanted[k]]
        raise LaunchError(
            f"{directory / 'config.json'} was changed after the run had started "
            f"({', '.join(changed)}); launch the changed configuration as a run of its own"
        )
    checkpoint = runs.newest_checkpoint(directory)
    if checkpoint and not resume:
        raise LaunchError(
            f"{directory} holds an unfinished run with a checkpoint of step "
            f"{runs.checkpoint_step(checkpoint)}; continue with resume=True or remove the folder"
        )
    if resume and not found:
        _refuse_changed_config(directory.parent, wanted)
    with writable(directory):
        if not checkpoint:
            clear(directory)
        (directory / "log").mkdir(exist_ok=True)
        runs.write_json(directory / "config.json", wanted)
        runs.write_json(directory / "manifest.json", provenance(config, prints, started))
        for rank in range(config.ranks):
            state = {"rank": rank, "status": "waiting", "step": 0, "where": "not started"}
            runs.write_state(runs.state_path(directory, rank), state)
    return checkpoint


def _refuse_changed_config(root: Path, wanted: dict) -> None:
    """Under `resume`, a stage's unfinished run with other settings is probably what was meant."""
    for run in map(Run, sorted(root.glob(f"{wanted['stage']}-*"))):
        if run.complete or not runs.newest_checkpoint(run.directory):
            continue
        changed = [k for k in wanted if run.config.get(k) != wanted[k]]
        raise LaunchError(
            f"nothing to resume with these settings; the unfinished run {run.name} differs in "
            f"{', '.join(changed) or 'its data'}: restore that, or launch without resume"
        )


def clear(directory: Path) -> None:
    """Remove what an earlier attempt left, except the lock."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def provenance(config: StageConfig, prints: dict[str, str], started: float) -> dict:
    """The part of the manifest that is known before training."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "status": "running",
        "stage": config.stage,
        "seed": config.seed,
        "world": config.ranks,
        "device": accelerator(),
        "started": started,
        "versions": versions,
        "commit": commit(),
        "data": prints,
    }


def commit() -> str | None:
    """The commit of this code, with `+changes` where the working tree differs; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(
            [*command, "--exclude=*", "--dirty=+changes"],
            capture_output=True,
            text=True,
            timeout=10,
        )
        return result.stdout.strip() or None
    return None


def _record(directory: Path, **facts: object) -> None:
    """Add facts to the manifest."""
    path = directory / "manifest.json"
    with writable(directory):
        runs.write_json(path, {**runs.read_json(path), **facts})


# ------------------------------------------------------------ command and environment


def accelerator() -> str:
    """`cuda` where torch can use a GPU, else `cpu`; found without importing torch."""
    if os.environ.get("DS_ACCELERATOR"):
        return os.environ["DS_ACCELERATOR"]
    built_for_cpu = "+cpu" in importlib.metadata.version("torch")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return "cuda" if glob.glob("/dev/nvidia[0-9]*") and not (built_for_cpu or hidden) else "cpu"


def command(directory: Path, ranks: int, port: int | str, checkpoint: Path | None) -> list[str]:
    """The DeepSpeed command of a launch on this machine.

    GPUs that the caller selected with CUDA_VISIBLE_DEVICES are passed with `--include`:
    together with `--num_gpus` DeepSpeed would ignore the selection.
    """
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    chosen = accelerator() == "cuda" and all(d.isdigit() for d in visible) and visible[:ranks]
    devices = ["--include", f"localhost:{','.join(chosen)}"] if chosen else ["--num_gpus", ranks]
    worker = ["--module", "chatlib.train.worker", "--run", directory]
    resumed = ["--checkpoint", checkpoint] if checkpoint else []
    parts = ["deepspeed", *devices, "--master_port", port, *worker, *resumed]
    return [str(part) for part in parts]


def executable() -> Path:
    """The `deepspeed` command that belongs to this Python."""
    beside = Path(sys.executable).parent / "deepspeed"
    found = beside if beside.is_file() else shutil.which("deepspeed")
    if not found:
        raise LaunchError(f"no `deepspeed` beside {sys.executable}; install the package deepspeed")
    return Path(found)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(ranks: int) -> dict[str, str]:
    """What a launch adds to the environment; settings of the caller win.

    One thread per core over all ranks (more makes two ranks slower than one), gloo on the
    loopback interface (host names of laptops often resolve to nothing), and the folder of runs.
    """
    wanted = {
        "DS_ACCELERATOR": accelerator(),
        "OMP_NUM_THREADS": str(max(1, cores() // ranks)),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if sys.platform == "linux":
        wanted["GLOO_SOCKET_IFNAME"] = "lo"
    kept = {k: os.environ[k] for k in wanted if k in os.environ}
    return {**wanted, **kept, "CHATLIB_RUNS": str(runs.root()), "CHATLIB_ATTACHED": "1"}


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ----------------------------------------------------------------- running and watching


def _run_with_retry(run: Run, config: StageConfig, checkpoint: Path | None, timeout: float) -> None:
    """Run the group, and once more on another port when the port was taken in between."""
    for attempt in (1, 2):
        try:
            return _run_group(run, config, checkpoint, timeout)
        except RankFailed as error:
            taken = "EADDRINUSE" in error.traceback or "address already in use" in error.traceback
            if not taken or attempt == 2:
                _record(run.directory, status="failed", reason=str(error))
                raise
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(RunError):  # a full disk must not hide the cause
                status = "interrupted" if interrupted else "failed"
                _record(run.directory, status=status, reason=str(error))
            raise


def _run_group(run: Run, config: StageConfig, checkpoint: Path | None, timeout: float) -> None:
    """Start the ranks, watch them to their end, and leave no process behind."""
    arguments = command(run.directory, config.ranks, free_port(), checkpoint)
    arguments[0] = str(executable())
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK",
                 "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")}  # fmt: skip
    with open(run.directory / "log" / "launcher.txt", "ab") as log:
        process = subprocess.Popen(
            arguments,
            env=inherited | environment(config.ranks),
            stdin=subprocess.PIPE,  # never written: its end tells the ranks that we have died
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _watch(process, run, config, timeout)
    finally:
        end_group(process)
    if not run.complete:
        raise failure(run, config.ranks, process.returncode)


def _watch(process: subprocess.Popen, run: Run, config: StageConfig, timeout: float) -> None:
    """Follow the ranks until they end, one fails, or one makes no progress for `timeout`."""
    last = [(0.0, time.monotonic())] * config.ranks  # (own time of the last beat, when seen)
    with display.progress(run.name, config.steps) as bar:
        rows = 0
        while process.poll() is None:
            states = runs.read_states(run.directory, config.ranks)
            now = time.monotonic()
            last = [
                (s["time"], now) if s.get("time", old[0]) != old[0] else old
                for s, old in zip(states, last)
            ]
            metrics = runs.read_metrics(run.directory / "metrics.jsonl")
            if len(metrics) > rows:
                rows = len(metrics)
                bar.update(metrics)
            if any(_has_failed(s) for s in states):
                return time.sleep(3 * POLL)  # let the others say how they fared
            if all("code" in s for s in states):  # deepspeed itself takes seconds to notice
                return process.kill()
            if now - min(seen for _, seen in last) > timeout:
                raise stuck(run, states, [now - seen for _, seen in last], timeout)
            time.sleep(POLL)


def _has_failed(state: dict) -> bool:
    return state.get("status") in ("failed", "ended")


def end_group(process: subprocess.Popen) -> None:
    """End the launcher and every process of its group, politely at first, and wait for them."""
    import psutil

    def members() -> list[int]:
        found = []
        for other in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(other.pid) == process.pid and other.status() != "zombie":
                    found.append(other.pid)
        return found

    for sent in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if members():
                os.killpg(process.pid, sent)
        while members() and time.monotonic() < deadline:
            process.poll()
            time.sleep(POLL / 2)
    process.stdin.close()
    process.wait()


# ------------------------------------------------------------------------ what happened


def failure(run: Run, ranks: int, code: int) -> LaunchError:
    """The error of a launch that ended without a complete manifest: the rank that began it."""
    states = runs.read_states(run.directory, ranks)
    failed = [state for state in states if _has_failed(state)]
    if not failed:
        return LaunchError(
            f"{run.name}: the deepspeed launcher ended ({describe_code(code)}) and no rank said "
            f"why; last lines of {run.directory / 'log' / 'launcher.txt'}:\n"
            + _tail(run.directory / "log" / "launcher.txt")
        )
    first = min(failed, key=lambda state: (_is_secondary(state), state.get("time", 0.0)))
    rank, step = first["rank"], first.get("step", 0)
    logs = [run.directory / "log" / f"rank{r}.txt" for r in range(ranks)]
    text = first.get("traceback") or _tail(logs[rank])
    message = (
        f"{run.name}: rank {rank} of {ranks} {describe_end(first)} at step {step}"
        f" ({first.get('where') or 'training'}).\n{text.rstrip()}\n"
        f"Logs: {', '.join(map(str, logs))}"
    )
    return RankFailed(message, rank, step, text, logs)


def _is_secondary(state: dict) -> bool:
    """Whether a rank ended only because another one had."""
    text = state.get("error", "")
    return state.get("signal") in (signal.SIGTERM, signal.SIGABRT) or any(
        part in text for part in SECONDARY
    )


def describe_end(state: dict) -> str:
    """How a rank ended, in words: raised, was killed, or left early."""
    if state.get("status") == "failed":
        error = state["error"].splitlines()[0]
        full = any(f"[Errno {number}]" in error for number in FULL)
        return f"raised {error}" + (
            "; the disk is full: free some space or set CHATLIB_RUNS elsewhere" if full else ""
        )
    if state.get("signal"):
        peak = f"{state.get('peak_bytes', 0) / 2**20:.0f} MiB resident at its peak"
        return f"was killed: {describe_code(-state['signal'])}, {peak},"
    return f"left with exit code {state.get('code')} before training had ended,"


def describe_code(code: int) -> str:
    """An exit code in words; negative codes are signals."""
    if code >= 0:
        return f"exit code {code}"
    causes = {signal.SIGKILL: ", probably out of memory", signal.SIGBUS: ", shared memory full?"}
    return f"{signal.Signals(-code).name}{causes.get(-code, '')}"


def stuck(run: Run, states: list[dict], silent: list[float], timeout: float) -> RankStuck:
    """The error of a launch without progress, after every rank has dumped its stacks."""
    for pid in live_ranks(run.directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    time.sleep(0.5)
    lines = [
        f"  rank {rank}: step {state.get('step', 0)} ({state.get('where') or 'training'}), "
        f"silent for {seconds:.0f} s, in {_innermost(run.directory, rank)}"
        for rank, (state, seconds) in enumerate(zip(states, silent))
    ]
    return RankStuck(
        f"{run.name}: no progress for {timeout:.0f} s; all ranks were ended. They stood at\n"
        + "\n".join(lines)
        + f"\nStacks: {run.directory / 'log' / 'rank*.stack.txt'}; "
        "pass a longer `timeout` if a step takes that long"
    )


def _innermost(directory: Path, rank: int) -> str:
    """The innermost frame of the main thread in a rank's stack dump."""
    try:
        text = (directory / "log" / f"rank{rank}.stack.txt").read_text()
    except OSError:
        return "an unknown place"
    main_thread = text[text.rfind("Current thread") :].splitlines()
    return main_thread[1].strip() if len(main_thread) > 1 else "an unknown place"


def _tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(nothing)"
