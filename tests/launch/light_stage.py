"""A stage that trains nothing: it beats, logs, saves and returns; for faults that need no torch.

`$LIGHT_SECONDS` is the time of a step, `$LIGHT_BYTES` what a step adds to a file.
"""

import json
import os
import time

from chatlib.runs import checkpoints
from chatlib.runs.recorder import read_states


def train(config, recorder):
    start = 0
    if recorder.checkpoint:
        start = json.loads((recorder.checkpoint / "state.json").read_text())["step"]
        recorder.rewind(start)
    meet(recorder, start)
    for step in range(start + 1, config.steps + 1):
        recorder.beat(step, "forward")
        recorder.log(step, loss=1 / step)
        fill(recorder)
        time.sleep(float(os.environ.get("LIGHT_SECONDS", 0.01)))
        if recorder.rank == 0 and config.save_every and step % config.save_every == 0:
            save(config, recorder, step)
    if recorder.rank == 0:
        (recorder.directory / "model").mkdir(exist_ok=True)
    return {"tokens": 10 * config.steps, "started_at_step": start}


def meet(recorder, start):
    """A barrier: no rank may save, and prune, before every rank has read its checkpoint."""
    recorder.beat(start, "ready")
    not_ready = ("not started", "start")
    while any(s.get("where") in not_ready for s in read_states(recorder.directory, recorder.world)):
        time.sleep(0.02)


def fill(recorder):
    size = int(os.environ.get("LIGHT_BYTES", 0))
    if size and recorder.rank == 0:
        with open(recorder.directory / "filler", "ab") as file:
            file.write(b"0" * size)


def save(config, recorder, step):
    final = checkpoints.checkpoint_path(recorder.directory, step)
    temporary = final.with_suffix(".tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    (temporary / "state.json").write_text(json.dumps({"step": step}))
    recorder.beat(step, "checkpoint")
    checkpoints.commit_checkpoint(temporary, final, config.keep_checkpoints)
