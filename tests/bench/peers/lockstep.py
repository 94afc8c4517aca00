"""Lets a Trainer run a round of steps at a time, when asked: JSON lines on stdin and stdout."""

import json
import os
import sys
import time

from transformers import TrainerCallback

QUIET = dict(  # what every peer is spared: nothing is logged, saved or shown
    report_to="none",
    logging_strategy="no",
    save_strategy="no",
    eval_strategy="no",
    disable_tqdm=True,
    dataloader_pin_memory=False,
    use_cpu=True,
)


class Lockstep(TrainerCallback):
    """Stops the trainer before the first step and after every ``steps`` steps.

    A round's time runs from being asked to the end of its last step: batches, forward,
    backward and optimizer.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.began = steps, 0.0
        self.answers = os.fdopen(os.dup(1), "w")  # what libraries print goes to stderr instead
        os.dup2(2, 1)

    def on_train_begin(self, args, state, control, **_):
        self.wait()

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.steps == 0:
            seconds = time.perf_counter() - self.began
            print(json.dumps({"seconds": seconds}), file=self.answers, flush=True)
            self.wait()

    def wait(self) -> None:
        if not sys.stdin.readline():
            sys.exit()
        self.began = time.perf_counter()


def settings() -> dict:
    """What the benchmark wants measured: the script's only argument."""
    return json.loads(sys.argv[1])


def read(path: str) -> list[dict]:
    """The records of a JSON lines file."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
