"""Faults that tests put into ranks, as a mutation of `Recorder.beat`.

`$FAULT` says which: `rank=1,step=3,kind=raise`, with `,where=PLACE` to wait for a place. The
mutation is in force for all runs of these tests, with a fault or without, so that a run keeps
its name when the fault is gone and can be resumed.
"""

import contextlib
import os
import signal
import sys
import time

from chatlib.runs.mutations import mutated

BEAT, STAGE = "chatlib.runs.recorder.Recorder.beat", "chatlib.train.worker.stage_module"


def beat(self, step, where=""):
    """A heartbeat, and then the fault of this rank at this step, if it has one."""
    beat.__wrapped__(self, step, where)
    wanted = dict(part.split("=") for part in os.environ.get("FAULT", "").split(",") if part)
    here = {"rank": str(self.rank), "step": str(int(step)), "where": where}
    if wanted and all(here[name] == wanted[name] for name in here if name in wanted):
        commit_fault(wanted["kind"])


def commit_fault(kind):
    """Fail in the named way."""
    if kind == "raise":
        raise RuntimeError("a fault was asked for")
    if kind in ("kill", "stop"):
        os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    if kind == "sleep":
        time.sleep(3600)
    if kind == "slow":
        time.sleep(0.4)
    if kind == "exit0":
        sys.stdout.flush()
        os._exit(0)


def stage(module):
    """Let ranks run another module than their stage's."""
    source = f"def stage_module(stage):\n    return importlib.import_module({module!r})\n"
    return mutated(STAGE, source)


@contextlib.contextmanager
def faulty():
    """Let ranks look at `$FAULT`."""
    with mutated(BEAT, "faults:beat"):
        yield
