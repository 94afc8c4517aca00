"""Start, watch and stop a launch: `launch(config)` is as dependable as a function call.

The launch is a real `deepspeed` process in a process group of its own. Each rank keeps a
state file (`log/rank{r}.json`: step, place, error, how it ended); this module watches those,
shows progress, and turns whatever goes wrong into one sentence. Nothing outlives a launch:
the group is ended on return, and the ranks end themselves when this process dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from chatlib.launch import hosts as machines
from chatlib.launch import plan
from chatlib.launch.directory import POLL, claimed, prepare, require_unchanged, writable
from chatlib.launch.failures import (
    LaunchError,
    RankFailed,
    failure,
    has_failed,
    port_was_taken,
    stuck,
)
from chatlib.launch.hosts import Hosts, Nodes
from chatlib.launch.resume import adopt, planned_checkpoint, run_to_continue
from chatlib.runs import meeting, provenance
from chatlib.runs.files import write_atomically, write_json
from chatlib.runs.identity import fingerprints, models_of, resolve
from chatlib.runs.recorder import (
    Tail,
    read_data_report,
    read_states,
    state_path,
    write_state,
)
from chatlib.runs.store import Run, run_of
from chatlib.settings.deepspeed import all_deepspeed_json
from chatlib.settings.device import accelerator
from chatlib.settings.stages import StageConfig

START_TIMEOUT = 120.0  # seconds until every rank's first sign of life, at least
TIMEOUT = 600.0  # seconds without a heartbeat; loading a large model may take minutes
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
SSH_GRACE = 15.0  # seconds for ranks on other machines to end after they were dismissed
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


Show = Callable[[list[dict], list[str]], None]
Progress = Callable[[str, int], AbstractContextManager[Show]]


@contextlib.contextmanager
def silent(name: str, steps: int) -> Iterator[Show]:
    """Progress that nobody sees."""
    yield lambda rows, report: None


@dataclass(frozen=True)
class Job:
    """What the parts of a launch need to know."""

    run: Run
    config: StageConfig
    prints: dict[str, str]  # of the data: `runs.fingerprints`
    resume: bool
    timeout: float
    several: Nodes | None  # machines; None: this one alone
    progress: Progress

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
    progress: Progress = silent,
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
    `progress` shows the metrics while they come: `(name, steps)` gives a context that yields a
    function of the rows so far and of the data report.

    Raises `RankFailed`, `RankStuck` or `LaunchError`, and their base `RunError` where a model or
    a source is missing; but it ends every process it started first, also when it is interrupted.
    """
    if ranks is not None:
        config = type(config).model_validate({**config.model_dump(), "ranks": ranks})
    several = machines.read(hosts, config.ranks, node_rank)
    prints = fingerprints(config)
    run = run_of(config, prints)
    if dry_run:
        checkpoint = planned_checkpoint(run, config, prints) if resume else None
        print(plan.describe(config, run.directory, several, checkpoint))
    elif not run.complete:
        for model in models_of(config):
            resolve(model)  # a missing one is told now, not by a rank
        job = Job(run, config, prints, resume, timeout or TIMEOUT, several, progress)
        _join(job) if job.follows else _lead(job)
    return run


def _lead(job: Job) -> None:
    """The part of the process that owns the run directory."""
    if job.several:
        machines.require_ssh_launcher(job.several)
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
    try:
        said = meeting.await_meeting(run.directory, lambda: run.complete, patience)
    except TimeoutError as error:
        raise LaunchError(str(error)) from None
    if said is None:
        return
    checkpoint = Path(said["checkpoint"]) if said["checkpoint"] else None
    try:
        _run_group(job, checkpoint, said["port"])
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
                write_json(path, {**run.manifest, **outcome})


def _write_start(job: Job, started: float) -> None:
    """The files that a run has from its start."""
    directory, config, several = job.run.directory, job.config, job.several
    (directory / "log").mkdir(exist_ok=True)
    write_json(directory / "config.json", config.model_dump(mode="json"))
    device = accelerator()
    write_json(directory / "deepspeed.json", all_deepspeed_json(config, device, directory))
    known = known_at_start(config, job.prints, started)
    if begun := job.run.manifest.get("continues"):
        known["continues"] = begun  # another run, on other ranks: see `adopt`
    if several:
        known["hosts"] = several.slots
        write_atomically(directory / "hostfile", several.hostfile)
        write_json(meeting.hosts_path(directory), {"ranks": several.host_of_rank})
        if job.over_ssh:
            added = plan.environment(config.ranks, several)
            machines.write_exports(directory / "exports.txt", added)
    write_json(directory / "manifest.json", known)


def known_at_start(config: StageConfig, prints: dict[str, str], started: float) -> dict:
    """The part of the manifest that is known before training."""
    return {
        "status": "running",
        "stage": config.stage,
        "seed": config.seed,
        "world": config.ranks,
        "device": accelerator(),
        "started": started,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "data": prints,
    }


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
                meeting.announce(run.directory, port, checkpoint)
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
        write_state(state_path(directory, rank), waiting)


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
    with job.progress(run.name, job.config.steps) as show:
        metrics, report = Tail(run.directory / "metrics.jsonl"), []
        while process.poll() is None:
            if job.is_watched:
                meeting.still_here(run.directory)
            states = read_states(run.directory, ranks)
            known, report = report, report or read_data_report(run.directory)
            if metrics.read() or report != known:
                show(metrics.rows, report)
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
        meeting.dismiss(job.run.directory)
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
