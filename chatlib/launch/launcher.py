"""Start, watch and stop a launch: `launch(config)` is as dependable as a function call.

The launch is a real `deepspeed` process in a process group of its own. Each rank keeps a
state file (`log/rank{r}.json`: step, place, error, how it ended); this module watches those,
shows progress, and turns whatever goes wrong into one sentence. Nothing outlives a launch:
the group is ended on return, and the ranks end themselves when this process dies.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlib.launch import hosts as machines
from chatlib.launch import plan, warm
from chatlib.launch.directory import (
    POLL,
    claimed,
    clear,
    prepare,
    require_unchanged,
    unwritable,
    writable,
)
from chatlib.launch.failures import (
    LaunchError,
    LaunchStopped,
    RankFailed,
    failure,
    has_failed,
    port_was_taken,
    stuck,
)
from chatlib.launch.hosts import Hosts, Nodes
from chatlib.launch.resume import adopt, other_code, planned_checkpoint, run_to_continue
from chatlib.runs import code, meeting, provenance
from chatlib.runs.checkpoints import is_ours
from chatlib.runs.files import write_atomically, write_json
from chatlib.runs.identity import corpora_of, fingerprints, models_of, resolve, without_code
from chatlib.runs.recorder import (
    Tail,
    read_data_report,
    read_states,
    state_path,
    stop_path,
    write_state,
)
from chatlib.runs.store import Run, run_of
from chatlib.settings.deepspeed import all_deepspeed_json
from chatlib.settings.device import accelerator
from chatlib.settings.stages import StageConfig

START_TIMEOUT = 120.0  # seconds until every rank's first sign of life, at least
TIMEOUT = 600.0  # seconds without a heartbeat; loading a large model may take minutes
LOADING = {"read the data", "load the models"}  # places in which a rank may download
DOWNLOAD_TIMEOUT = 3600.0  # seconds for what comes from the hub: it is slow, not stuck
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
SHARED_POLL = 1.0  # seconds between two looks at ranks on several machines: files on a network
SSH_GRACE = 15.0  # seconds for ranks on other machines to end after they were dismissed
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


Process = subprocess.Popen | warm.Forked
Show = Callable[[list[dict], list[str]], None]
Progress = Callable[[str, int], AbstractContextManager[Show]]


@contextlib.contextmanager
def silent(name: str, steps: int) -> Iterator[Show]:
    """Progress that nobody sees."""
    yield lambda rows, report: None


def unheard(text: str) -> None:
    """What a launch says of earlier runs, where nobody wants to know."""


@dataclass(frozen=True)
class Job:
    """What the parts of a launch need to know."""

    run: Run
    config: StageConfig
    prints: dict[str, str]  # of the data and the code: `identity.fingerprints`
    resume: bool
    fresh: bool
    timeout: float
    several: Nodes | None  # machines; None: this one alone
    progress: Progress
    say: Callable[[str], None]
    port: int | None = None
    name: str = field(default_factory=lambda: secrets.token_hex(8))  # of this launch alone

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
    say: Callable[[str], None] = unheard,
    fresh: bool = False,
    force: bool = False,
    port: int | None = None,
) -> Run:
    """Train one stage with DeepSpeed and return its finished run.

    The same configuration, data and code find their finished run and return at once; `fresh`
    trains it anew. After an edit of the code that trains, a run is another one: `say` is told
    which files made it so, and so is one who resumes; `force` resumes nevertheless.
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
    `port` is where the ranks meet; without it one that is free on this machine.
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
    elif fresh or not is_intact(run, config):
        for model in models_of(config):
            resolve(model)  # a missing one is told now, not by a rank
        job = Job(
            run, config, prints, resume, fresh, timeout or TIMEOUT, several, progress, say, port
        )
        _join(job) if job.follows else _lead(job, force)
    return run


def is_intact(run: Run, config: StageConfig) -> bool:
    """Whether a run is finished and still holds what it left: its configuration and its models."""
    if not run.complete:
        return False
    require_unchanged(run.directory, config)
    return all((run.directory / name).is_dir() for name in run.manifest.get("models", []))


def _lead(job: Job, force: bool) -> None:
    """The part of the process that owns the run directory; `force` resumes other code's run."""
    if job.several:
        machines.require_ssh_launcher(job.several)
    plan.require_gpus(job.config.ranks, job.several)
    earlier = None
    if job.resume and not job.fresh:
        earlier = run_to_continue(job.run, job.config, job.prints, job.say, force)
    elif before := other_code(job.run, job.config, job.prints):
        job.say(f"{job.run.name} is trained anew: {before}")
    with claimed(job.run.directory):
        lost = job.run.complete and not is_intact(job.run, job.config)
        if lost:
            job.say(f"{job.run.name} has lost its model and is trained anew")
        if lost or job.fresh:
            with writable(job.run.directory):
                clear(job.run.directory)
        if not job.run.complete:  # another process may have finished it in between
            require_unchanged(job.run.directory, job.config)
            if earlier not in (None, job.run):
                adopt(job.run.directory, earlier)
            _train(job)


def _join(job: Job) -> None:
    """The part of every further node: run its ranks, and leave the record to the first node."""
    run, patience = job.run, max(job.timeout, START_TIMEOUT)
    plan.require_gpus(job.config.ranks, job.several)
    try:
        said = meeting.await_meeting(run.directory, lambda: run.complete, patience)
    except TimeoutError as error:
        raise LaunchError(str(error)) from None
    if said is None:
        return
    checkpoint = Path(said["checkpoint"]) if said["checkpoint"] else None
    if checkpoint and not is_ours(checkpoint):
        raise LaunchError(f"{checkpoint} was not written by your runs and is not loaded")
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
    outcome: dict[str, str | float] = {"status": "failed"}
    try:
        with writable(run.directory):
            _write_start(job, started)
        _run_with_retry(job, checkpoint)
        outcome = {"status": "complete", "seconds": round(time.time() - started, 3)}
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            outcome = {"status": "interrupted"}
        if isinstance(error, LaunchStopped):
            outcome = {"status": "stopped"}
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
            added = plan.environment(config.ranks, several) | {"CHATLIB_LAUNCH": job.name}
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
        "data": without_code(prints),
        "code": code.code_of(config.stage, corpora_of(config)),
    }


def _run_with_retry(job: Job, checkpoint: Path | None) -> None:
    """Run the group, and once more on another port when its port was taken in between.

    Nodes that launch for themselves were told the port, and are not called a second time.
    """
    try:
        _run_group(job, checkpoint)
    except RankFailed as error:
        if not port_was_taken(error) or job.leads or job.port:
            raise
        _run_group(job, checkpoint)


def _run_group(job: Job, checkpoint: Path | None, port: int | None = None) -> None:
    """Start the ranks, watch them to their end, and leave no process behind.

    Without a port, which a further node was told, this process begins the run.
    """
    run, ranks = job.run, job.config.ranks
    node = job.several.here if job.several and job.follows else ""
    log = run.directory / "log" / f"launcher{node}.txt"
    if port is None:
        port = job.port or plan.free_port()
        with writable(run.directory):
            _expect_ranks(run.directory, ranks)
            stop_path(run.directory).unlink(missing_ok=True)
            if job.is_watched:
                meeting.announce(run.directory, port, checkpoint, job.name)
    # Slurm warns every process of a step with SIGUSR1: what is started here ignores it, too.
    with handled({signal.SIGUSR1: signal.SIG_IGN}):
        process = _start(job, port, checkpoint, log)
        try:
            with handled(requests(job)):
                _watch(process, job)
        finally:
            _end(process, job)
    if not run.complete:
        hosts = job.several.host_of_rank if job.several else []
        raise unwritable(run) or failure(run, ranks, process.wait(), log, hosts)


@contextlib.contextmanager
def handled(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """Signal handlers in the context; nothing outside the main thread, which alone may have any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def requests(job: Job) -> dict[signal.Signals, Any]:
    """On SIGUSR1 or SIGTERM the ranks save a checkpoint and end; a second SIGTERM interrupts.

    The first node asks for all; further ones leave both signals as they are.
    """
    asked = stop_path(job.run.directory)

    def ask(number: int, frame: object) -> None:
        if number == signal.SIGTERM and asked.exists():
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):
            asked.touch()

    return {} if job.follows else {signal.SIGUSR1: ask, signal.SIGTERM: ask}


def _expect_ranks(directory: Path, ranks: int) -> None:
    """State files of ranks that have not started."""
    for rank in range(ranks):
        waiting = {"rank": rank, "status": "waiting", "step": 0, "where": "not started"}
        write_state(state_path(directory, rank), waiting)


def _start(job: Job, port: int, checkpoint: Path | None, log: Path) -> Process:
    """The `deepspeed` process of a launch, in a group of its own: forked warm, or started."""
    directory, ranks = job.run.directory, job.config.ranks
    arguments = plan.command(directory, ranks, port, checkpoint, job.several)
    inherited = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
    if job.over_ssh:
        inherited["DS_ENV_FILE"] = str(directory / "exports.txt")
    command = [str(plan.executable(arguments[0])), *arguments[1:]]
    environment = inherited | plan.environment(ranks, job.several)
    with writable(directory), open(log, "ab") as output:
        output.write(f"cmd = {shlex.join(command)}\n".encode())
        output.flush()
        if not job.several and (forked := warm.start(arguments[4:], environment, output)):
            return forked
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,  # never written: its end tells the ranks that we have died
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _watch(process: Process, job: Job) -> None:
    """Follow the ranks until they end, one fails, or one makes no progress for `timeout`."""
    run, ranks, timeout = job.run, job.config.ranks, job.timeout
    hosts = job.several.host_of_rank if job.several else []
    beats = [(0.0, time.monotonic())] * ranks  # (a rank's own time, when we saw it)
    with job.progress(run.name, job.config.steps) as show:
        metrics = Tail(run.directory / "metrics.jsonl")
        report: list[str] = []
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
            if max(silent) > patience(states, timeout, job.config):
                raise stuck(run, states, silent, hosts)
            time.sleep(POLL if not job.several else SHARED_POLL)


def patience(states: list[dict], timeout: float, config: StageConfig) -> float:
    """Seconds that a rank may be silent where the ranks are: longer to start, or to download."""
    places = {state.get("where") for state in states}
    names = [source.name for source in config.sources] + models_of(config)
    if LOADING & places and any(name.startswith("hub:") for name in names):
        return max(timeout, DOWNLOAD_TIMEOUT)
    return max(timeout, START_TIMEOUT) if "not started" in places else timeout


def silences(states: list[dict], seconds: list[float]) -> list[float]:
    """Seconds without a heartbeat; a rank that is done waits in silence for the last of them."""
    done = [state.get("status") == "done" for state in states]
    if all(done):
        return [min(seconds)] * len(states)
    return [0.0 if d else s for d, s in zip(done, seconds)]


def _end(process: Process, job: Job) -> None:
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


def end_group(process: Process, signals: Sequence[int] = (signal.SIGTERM, signal.SIGKILL)) -> None:
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
        if process.stdin:
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
