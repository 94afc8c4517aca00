"""What the DeepSpeed launcher starts once per rank: `python -m chatlib.train.worker --run DIR`.

The process forks before anything heavy is imported. The child trains; the parent waits for
it and writes down how it ended, because a process that was killed cannot do that itself.
Rank 0 completes the manifest, and only after every rank has reported that it is done.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import TextIO

from chatlib.runs import meeting, mutations
from chatlib.runs.files import read_json, write_json
from chatlib.runs.meeting import PEER_LOST
from chatlib.runs.recorder import Recorder, Stopped, read_states, state_path, write_state
from chatlib.settings import registry
from chatlib.settings.device import accelerator, take_selection

STAGES = {name: f"chatlib.train.{name}" for name in registry.LAUNCHED}
KIB = 1024  # ru_maxrss is in KiB on Linux
_stacks: TextIO  # where this process writes its stacks, once it trains


def main(argv: list[str] | None = None) -> int:
    """Run one rank; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="chatlib.train.worker", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--checkpoint", type=Path, help="continue from this folder")
    parser.add_argument("--local_rank", type=int, help="from the launcher; $LOCAL_RANK is used")
    options = parser.parse_args(argv)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    write_to_log(options.run / "log" / f"rank{rank}.txt")
    child = os.fork()
    if child:
        return supervise(child, state_path(options.run, rank))
    code = 1
    try:
        dump_stacks_on_signal(options.run / "log" / f"rank{rank}.stack.txt")
        end_with_the_launcher(options.run)
        mutations.apply()
        code = run_rank(Recorder(options.run, rank, world, options.checkpoint))
    except BaseException:  # sys.exit, or nothing that could carry a report
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):  # a full disk
            sys.stdout.flush()
        os._exit(code)  # never into the parent's code, and past libraries that crash at exit


def write_to_log(path: Path) -> None:
    """Send standard output and error of this process and its children to `path`."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def supervise(child: int, state_file: Path) -> int:
    """Wait for the training process, add its end to its state, and return an exit code.

    The code is 0 only for a rank that reported itself done: one that leaves early with code 0
    would otherwise keep the others waiting for it.
    """
    _, status, usage = os.wait4(child, 0)
    killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = None if killed_by else os.WEXITSTATUS(status)
    state = read_json(state_file)
    done = state.get("status") in ("done", "stopped")
    if not done and state.get("status") != "failed":
        state.update(status="ended", time=time.time())
    state.update(signal=killed_by, code=code, peak_bytes=usage.ru_maxrss * KIB)
    write_state(state_file, state)
    return 0 if done else code or 1


def run_rank(recorder: Recorder) -> int:
    """Train, report, and on rank 0 complete the manifest. Returns the exit code."""
    gc.set_threshold(100_000)  # records live long: walking them was a third of reading them
    try:
        settings = registry.parse(read_json(recorder.directory / "config.json"))
        meeting.use_interface(recorder.directory, recorder.rank)
        take_selection()
        summary = stage_module(settings.stage).train(settings, recorder)
        recorder.report(status="done", peak_bytes=peak_resident(), **device_facts())
        if recorder.rank == 0:
            complete(recorder, summary or {})
        leave_process_group()
    except Stopped:
        recorder.report(status="stopped")
        leave_process_group()
    except Exception as error:
        text = traceback.format_exc()
        message = f"{type(error).__name__}: {error}"[:2000]
        recorder.report(status="failed", error=message, traceback=text)
        with contextlib.suppress(OSError):  # the log may be what fills the disk
            print(text, file=sys.stderr)
        return 1
    return 0


def stage_module(stage: str) -> ModuleType:
    """The module whose `train` a rank runs."""
    return importlib.import_module(STAGES[stage])


def end_with_the_launcher(directory: Path) -> None:
    """End the whole process group when the launching process is gone, however it went.

    It holds the other end of standard input and writes nothing: the end of the stream means
    that it has died. Ranks started over ssh have no such stream; they look at what it announces
    in the run directory. `$CHATLIB_ATTACHED` says which; without it there is nobody to follow.
    """
    attached = os.environ.get("CHATLIB_ATTACHED")

    def wait() -> None:
        if attached == "announcement":
            meeting.await_dismissal(directory, launch=os.environ.get("CHATLIB_LAUNCH", ""))
            faulthandler.dump_traceback(_stacks)  # no signal reaches a rank on another machine
        else:
            while os.read(0, 1):
                pass
        os.killpg(0, signal.SIGKILL)

    if attached:
        threading.Thread(target=wait, daemon=True).start()


def dump_stacks_on_signal(path: Path) -> None:
    """Write the stacks of all threads to `path` on SIGUSR1, and to the log on a crash."""
    global _stacks
    _stacks = open(path, "w")  # noqa: SIM115 (open as long as the process)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, file=_stacks, all_threads=True)


def complete(recorder: Recorder, summary: dict) -> None:
    """Write the complete manifest once every rank is done; raise when one fails instead."""
    while True:
        states = read_states(recorder.directory, recorder.world)
        if all(state.get("status") == "done" for state in states):
            break
        failed = [s["rank"] for s in states if s.get("status") in ("failed", "ended")]
        if failed:
            raise RuntimeError(f"{PEER_LOST}: rank {failed[0]}")
        time.sleep(0.02)
    path = recorder.directory / "manifest.json"
    manifest = read_json(path)
    manifest.update(
        summary,
        status="complete",
        models=sorted(p.name for p in recorder.directory.glob("model*") if p.is_dir()),
        device=recorder.state["device"],
        seconds=round(time.time() - manifest.get("started", time.time()), 3),
        peak_bytes=[state["peak_bytes"] for state in states],
        peak_device_bytes=[state["peak_device_bytes"] for state in states],
    )
    json.dumps(manifest)  # a summary that is no JSON fails here, before anything is written
    write_json(path, manifest)


def peak_resident() -> int:
    """Most bytes of memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def device_facts() -> dict:
    """The device's name, and the most bytes that torch has held on an accelerator."""
    torch = sys.modules.get("torch")
    if not torch or accelerator() == "cpu":
        return {"device": "cpu", "peak_device_bytes": 0}
    return {
        "device": torch.cuda.get_device_name(),
        "peak_device_bytes": torch.cuda.max_memory_allocated(),
    }


def leave_process_group() -> None:
    """Close torch.distributed where a stage left it open; its destructor would warn."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    from chatlib.train import worker  # under its own name, by which mutations find it

    sys.exit(worker.main())
