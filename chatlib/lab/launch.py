"""Start, watch and stop a launch: `launch(config)` is as dependable as a function call.

The launch is a real `deepspeed` process in a process group of its own. Each rank keeps a
state file (`log/rank{r}.json`: step, place, error, how it ended); this module watches those,
shows progress, and turns whatever goes wrong into one sentence. Nothing outlives a launch:
the group is ended on return, and the ranks end themselves when this process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatlib.lab import display, nodes, plan, runs
from chatlib.lab.config import StageConfig
from chatlib.lab.deepspeed_json import all_deepspeed_json
from chatlib.lab.failures import (
    FULL,
    LaunchError,
    RankFailed,
    failure,
    has_failed,
    live_ranks,
    port_was_taken,
    stuck,
)
from chatlib.lab.nodes import Hosts, Nodes
from chatlib.lab.runs import Run

START_TIMEOUT = 120.0  # seconds until every rank's first sign of life, at least
TIMEOUT = 600.0  # seconds without a heartbeat; loading a large model may take minutes
POLL = 0.1  # seconds between two looks at the ranks
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
SSH_GRACE = 15.0  # seconds for ranks on other machines to end after they were dismissed
SHARING = frozenset({"ranks", "gradient_accumulation_steps"})  # how, not which examples a step has
PACKAGES = ("chatlib", "torch", "deepspeed", "transformers", "tokenizers", "peft", "datasets")
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Job:
    """What the parts of a launch need to know."""

    run: Run
    config: StageConfig
    prints: dict[str, str]  # of the data: `runs.fingerprints`
    resume: bool
    timeout: float
    several: Nodes | None  # machines; None: this one alone

    @property
    def over_ssh(self) -> bool:
        """Does DeepSpeed start the ranks of other machines from here?"""
        return self.several is not None and self.several.here is None

    @property
    def leads(self) -> bool:
        """Is this the first of several machines that launch for themselves?"""
        return self.several is not None and self.several.here == 0

    @property
    def is_watched(self) -> bool:
        """Do other machines look at what this one announces?"""
        return self.over_ssh or self.leads

    @property
    def follows(self) -> bool:
        """Is this a further one of them?"""
        return self.several is not None and bool(self.several.here)


def launch(
    config: StageConfig,
    ranks: int | None = None,
    dry_run: bool = False,
    resume: bool = False,
    timeout: float | None = None,
    hosts: Hosts | None = None,
    node_rank: int | None = None,
) -> Run:
    """Train one stage with DeepSpeed and return its finished run.

    The same configuration on the same data finds its finished run and returns at once.
    `ranks` replaces the configuration's; `dry_run` prints what would be done and starts
    nothing; `resume` continues an unfinished run from its newest checkpoint (from the start
    where there is none); `timeout` is the number of seconds without a heartbeat after which
    a rank counts as stuck (default 600): a training step, an evaluation or a save must fit in.

    A run that was begun on another number of ranks can be resumed, too: DeepSpeed's universal
    checkpoint shares its state out anew. Its loss goes on as it would have; what is drawn at
    random does not (`chatlib.train.engine.restore`). Where several numbers of ranks have
    checkpoints, that of the most steps is taken.

    `hosts` names several machines: a DeepSpeed hostfile's path, or its lines (`"node1 slots=8"`);
    None stands for `$CHATLIB_HOSTS`, or for this machine alone. DeepSpeed starts their ranks
    over ssh, unless the same launch runs on every machine, each with its own `node_rank` (0, 1,
    ...). The folder of runs must be on a file system that all machines share under one path.
    Over ssh, ranks on other machines outlive a killed launching process by two minutes.

    Raises `RankFailed`, `RankStuck` or `LaunchError`, and their base `RunError` where a model or
    a source is missing; but it ends every process it started first, also when it is interrupted.
    """
    if ranks is not None:
        config = type(config).model_validate({**config.model_dump(), "ranks": ranks})
    several = nodes.read(hosts, config.ranks, node_rank)
    prints = runs.fingerprints(config)
    run = runs.run_of(config, prints)
    if dry_run:
        checkpoint = planned_checkpoint(run, config, prints) if resume else None
        print(plan.describe(config, run.directory, several, checkpoint))
    elif not run.complete:
        for model in runs.models_of(config):
            runs.resolve(model)  # a missing one is told now, not by a rank
        job = Job(run, config, prints, resume, timeout or TIMEOUT, several)
        _join(job) if job.follows else _lead(job)
    return run


def _lead(job: Job) -> None:
    """The part of the process that owns the run directory."""
    if job.several:
        nodes.require_ssh_launcher(job.several)
    else:
        plan.require_gpus(job.config.ranks)
    earlier = run_to_continue(job.run, job.config, job.prints) if job.resume else None
    with claimed(job.run.directory):
        if not job.run.complete:  # another process may have finished it in between
            require_unchanged(job.run.directory, job.config)
            if earlier not in (None, job.run):
                adopt(job.run.directory, earlier)
            _train(job)


def _join(job: Job) -> None:
    """The part of every further node: run its ranks, and leave the record to the first node."""
    run, patience = job.run, max(job.timeout, START_TIMEOUT)
    meeting = nodes.await_meeting(run.directory, lambda: run.complete, patience)
    if meeting is None:
        return
    checkpoint = Path(meeting["checkpoint"]) if meeting["checkpoint"] else None
    try:
        _run_group(job, checkpoint, meeting["port"])
    except LaunchError as error:
        deadline = time.monotonic() + 2 * GRACE  # it knows better why, and says so on its way out
        while not (reason := run.manifest.get("reason")) and time.monotonic() < deadline:
            time.sleep(POLL)
        if reason and reason not in str(error):
            error.args = (f"{error}\nthe first node says: {reason}",)
        raise


def _train(job: Job) -> None:
    """The launch proper, with its outcome written into the manifest."""
    run, started = job.run, time.time()
    checkpoint = prepare(run.directory, job.resume)
    outcome = {"status": "failed"}
    try:
        with writable(run.directory):
            _write_start(job, started)
        _run_with_retry(job, checkpoint)
        outcome = {"status": "complete", "seconds": round(time.time() - started, 3)}
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            outcome = {"status": "interrupted"}
        outcome["reason"] = str(error).split("\n")[0]
        raise
    finally:
        if outcome["status"] == "complete" or not run.complete:
            with contextlib.suppress(OSError):  # a full disk must not hide what happened
                path = run.directory / "manifest.json"
                runs.write_json(path, {**run.manifest, **outcome})


# -------------------------------------------------------------------- the directory


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


def _wait_for_old_ranks(directory: Path, seconds: float = 10.0) -> None:
    """Ranks whose launcher was killed end themselves; wait until they have."""
    deadline = time.monotonic() + seconds
    while pids := live_ranks(directory):
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{directory} is in use by processes {pids} of an earlier launch; stop them"
            )
        time.sleep(POLL)


def planned_checkpoint(run: Run, config: StageConfig, prints: dict[str, str]) -> Path | None:
    """Where the checkpoint lies, or will lie, from which `resume` continues."""
    source = run_to_continue(run, config, prints)
    found = source and runs.newest_checkpoint(source.directory)
    return found and runs.checkpoint_path(run.directory, runs.checkpoint_step(found))


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
        if other == run or (same and not (run.config and runs.is_held(other.directory))):
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
        if not run.complete and (whole := runs.whole_checkpoints(run.directory)):
            yield run, runs.checkpoint_step(whole[-1])


def adopt(directory: Path, other: Run) -> None:
    """Give a run another's newest checkpoint, its metrics, and a note of where they are from.

    A copy: whatever becomes of the other run, and of the first attempt, this one can go on.
    """
    with claimed(other.directory):  # a live run would go on without us
        checkpoint = runs.newest_checkpoint(other.directory)
        step = runs.checkpoint_step(checkpoint)
        final = runs.checkpoint_path(directory, step)
        with writable(directory):
            _clear(directory)
            shutil.copytree(checkpoint, final.with_suffix(".tmp"))
            os.rename(final.with_suffix(".tmp"), final)
            shutil.copy(other.directory / "metrics.jsonl", directory)
            begun = {"run": other.name, "ranks": other.config["ranks"], "step": step}
            runs.write_json(directory / "manifest.json", {"continues": begun})


def require_unchanged(directory: Path, config: StageConfig) -> None:
    """Raise `LaunchError` where somebody has edited the configuration of a run that was begun."""
    wanted, found = config.model_dump(mode="json"), runs.read_json(directory / "config.json")
    if found and found != wanted:
        changed = [k for k in wanted if found.get(k) != wanted[k]]
        raise LaunchError(
            f"{directory / 'config.json'} was changed after the run had started "
            f"({', '.join(changed)}); launch the changed configuration as a run of its own"
        )


def prepare(directory: Path, resume: bool) -> Path | None:
    """Make room for a launch; returns the checkpoint to continue from, or None."""
    checkpoint = runs.newest_checkpoint(directory)
    if checkpoint and not resume:
        raise LaunchError(
            f"{directory} holds an unfinished run with a checkpoint of step "
            f"{runs.checkpoint_step(checkpoint)}; continue with resume=True or remove the folder"
        )
    if not checkpoint:
        with writable(directory):
            _clear(directory)
    return checkpoint


def _clear(directory: Path) -> None:
    """Remove what an earlier attempt left, except the lock."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _write_start(job: Job, started: float) -> None:
    """The files that a run has from its start."""
    directory, config, several = job.run.directory, job.config, job.several
    (directory / "log").mkdir(exist_ok=True)
    runs.write_json(directory / "config.json", config.model_dump(mode="json"))
    device = plan.accelerator()
    runs.write_json(directory / "deepspeed.json", all_deepspeed_json(config, device, directory))
    known = provenance(config, job.prints, started)
    if begun := job.run.manifest.get("continues"):
        known["continues"] = begun  # another run, on other ranks: see `adopt`
    if several:
        known["hosts"] = several.slots
        runs.write_atomically(directory / "hostfile", several.hostfile)
        if job.over_ssh:
            added = plan.environment(config.ranks, several)
            nodes.write_exports(directory / "exports.txt", added)
    runs.write_json(directory / "manifest.json", known)


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
        "device": plan.accelerator(),
        "started": started,
        "versions": versions,
        "commit": commit(),
        "data": prints,
    }


def commit() -> str | None:
    """The commit of this code, with `+changes` if the files differ from it; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40"]
    command += ["--exclude=*", "--dirty=+changes"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


# ----------------------------------------------------------------- running and watching


def _run_with_retry(job: Job, checkpoint: Path | None) -> None:
    """Run the group, and once more on another port when its port was taken in between.

    Nodes that launch for themselves were told the port, and are not called a second time.
    """
    try:
        _run_group(job, checkpoint)
    except RankFailed as error:
        if not port_was_taken(error) or job.leads:
            raise
        _run_group(job, checkpoint)


def _run_group(job: Job, checkpoint: Path | None, port: int | None = None) -> None:
    """Start the ranks, watch them to their end, and leave no process behind.

    Without a port, which a further node was told, this process begins the run.
    """
    run, ranks = job.run, job.config.ranks
    node = job.several.here if job.follows else ""
    log = run.directory / "log" / f"launcher{node}.txt"
    if port is None:
        port = plan.free_port()
        with writable(run.directory):
            _expect_ranks(run.directory, ranks)
            if job.is_watched:
                nodes.announce(run.directory, port, checkpoint)
    process = _start(job, port, checkpoint, log)
    try:
        _watch(process, job)
    finally:
        _end(process, job)
    if not run.complete:
        raise failure(run, ranks, process.returncode, log)


def _expect_ranks(directory: Path, ranks: int) -> None:
    """State files of ranks that have not started."""
    for rank in range(ranks):
        waiting = {"rank": rank, "status": "waiting", "step": 0, "where": "not started"}
        runs.write_state(runs.state_path(directory, rank), waiting)


def _start(job: Job, port: int, checkpoint: Path | None, log: Path) -> subprocess.Popen:
    """The `deepspeed` process of a launch, in a group of its own."""
    directory, ranks = job.run.directory, job.config.ranks
    arguments = plan.command(directory, ranks, port, checkpoint, job.several)
    inherited = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
    if job.over_ssh:
        inherited["DS_ENV_FILE"] = str(directory / "exports.txt")
    with writable(directory), open(log, "ab") as output:
        return subprocess.Popen(
            [str(plan.executable()), *arguments[1:]],
            env=inherited | plan.environment(ranks, job.several),
            stdin=subprocess.PIPE,  # never written: its end tells the ranks that we have died
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _watch(process: subprocess.Popen, job: Job) -> None:
    """Follow the ranks until they end, one fails, or one makes no progress for `timeout`."""
    run, ranks, timeout = job.run, job.config.ranks, job.timeout
    hosts = job.several.host_of_rank if job.several else []
    beats = [(0.0, time.monotonic())] * ranks  # (a rank's own time, when we saw it)
    with display.progress(run.name, job.config.steps) as show:
        metrics = runs.Tail(run.directory / "metrics.jsonl")
        while process.poll() is None:
            if job.is_watched:
                nodes.still_here(run.directory)
            states = runs.read_states(run.directory, ranks)
            if metrics.read():
                show(metrics.rows)
            if any(has_failed(state) for state in states):
                return time.sleep(3 * POLL)  # let the others say how they fared
            if all("code" in state for state in states):
                # By itself the launcher takes seconds to notice; over ssh others have to, too.
                return None if job.over_ssh else process.kill()
            now = time.monotonic()
            times = [state.get("time", old) for state, (old, _) in zip(states, beats)]
            beats = [b if t == b[0] else (t, now) for t, b in zip(times, beats)]
            silent = silences(states, [now - seen for _, seen in beats])
            started = all(own for own, _ in beats)
            if max(silent) > (timeout if started else max(timeout, START_TIMEOUT)):
                raise stuck(run, states, silent, hosts)
            time.sleep(POLL)


def silences(states: list[dict], seconds: list[float]) -> list[float]:
    """Seconds without a heartbeat; a rank that is done may be silent while another is not."""
    done = [state.get("status") == "done" for state in states]
    return [0.0 if d and not all(done) else s for d, s in zip(done, seconds)]


def _end(process: subprocess.Popen, job: Job) -> None:
    """Leave no process of a launch behind, here or on other machines.

    Over ssh the launcher must not get SIGTERM: DeepSpeed answers it with a `pkill -f` on every
    host that ends the ranks of all runs there, not only of this one.
    """
    if not job.over_ssh:
        return end_group(process)
    try:
        nodes.dismiss(job.run.directory)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SSH_GRACE)
    finally:
        end_group(process, [signal.SIGKILL])


def end_group(
    process: subprocess.Popen, signals: Sequence[int] = (signal.SIGTERM, signal.SIGKILL)
) -> None:
    """End the launcher and every process of its group, politely at first, and wait for them."""
    try:
        for sent in signals:
            deadline = time.monotonic() + GRACE
            if _members(process.pid):
                os.killpg(process.pid, sent)
            while _members(process.pid) and time.monotonic() < deadline:
                process.poll()
                time.sleep(POLL / 2)
    except ProcessLookupError:  # they ended by themselves
        pass
    except KeyboardInterrupt:  # a second one
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        process.stdin.close()
    process.wait()


def _members(group: int) -> list[int]:
    """Live processes of a process group."""
    import psutil

    found = []
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found
