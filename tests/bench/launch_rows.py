"""What a launch costs beside its training steps, over one import of what every rank imports."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

from compare import Row, in_turns, timed

from chatlib import lab
from chatlib.launch import warm
from chatlib.settings.stages import SFTConfig

IMPORT = "import torch, transformers, deepspeed"
STEPS = {"sft": 2, "reward": 2, "ppo": 2}
TENTH = {"sft": 200, "reward": 23, "ppo": 5}  # of the book's recipes


def importing(round: int) -> float:
    """Seconds of one process that imports torch, transformers and deepspeed."""
    around = {**os.environ, "DS_ACCELERATOR": "cpu"}
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command = [sys.executable, "-c", IMPORT]
    return timed(lambda: subprocess.run(command, env=around, check=True, **quiet))


@contextmanager
def fresh_runs():
    """A folder of runs in which none is finished, so that every launch trains."""
    before = os.environ.get("CHATLIB_RUNS")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHATLIB_RUNS"] = folder
        try:
            yield
        finally:
            os.environ.pop("CHATLIB_RUNS")
            if before is not None:
                os.environ["CHATLIB_RUNS"] = before


def two_steps(round: int) -> float:
    """Seconds of a launch of two ranks and two steps on a few records."""
    config = SFTConfig(ranks=2, steps=2, records=200, held_out=8, batch_size=8, seed=round)
    with fresh_runs():
        return timed(lambda: lab.launch(config))


def first(round: int) -> float:
    """Seconds of a launch in a process that has launched nothing before."""
    warm.stop()
    return two_steps(round)


def stages(steps: dict[str, int], round: int) -> list[tuple[float, float]]:
    """(wall seconds, seconds of its steps) of the three stages, each on the book's own data.

    Each builds on the models of those before it, which are hardly trained: their answers are long.
    """
    found, built_on = [], {}
    with fresh_runs():
        for name, count in steps.items():
            config = lab.recipe(name, seed=round, profile="laptop", steps=count, **built_on)
            began = time.perf_counter()
            run = lab.launch(config)
            found.append((time.perf_counter() - began, run.manifest["train_seconds"]))
            built_on |= {"model" if name == "sft" else "reward_model": str(run.model_dir)}
    return found


def outside(round: int) -> float:
    """Seconds of the three launches outside their training steps."""
    return sum(wall - steps for wall, steps in stages(STEPS, round))


def whole(round: int) -> float:
    """Seconds of the three launches with a tenth of the book's steps."""
    return sum(wall for wall, _ in stages(TENTH, round))


def launch(rounds: int) -> Row:
    """The smallest launch, the first of a process: it imports once for all ranks."""
    times = in_turns(importing, first, rounds)
    return Row("launch, 2 ranks, 2 steps / import", 1.3, "launches", 1, *times, at_most=True)


def relaunch(rounds: int) -> Row:
    """A later launch of the same process, or of the same notebook."""
    two_steps(rounds)
    times = in_turns(importing, two_steps, rounds)
    return Row("a later launch / import", 0.6, "launches", 1, *times, at_most=True)


def overhead(rounds: int) -> Row:
    """SFT, reward model and PPO outside their steps: data, models, evaluation, saving."""
    times = in_turns(importing, outside, rounds)
    return Row("three stages outside their steps / import", 3.0, "times", 1, *times, at_most=True)


def end_to_end(rounds: int) -> Row:
    """SFT, reward model and PPO, a tenth of each."""
    times = in_turns(importing, whole, rounds)
    return Row("three stages, a tenth of each / import", 12.0, "times", 1, *times, at_most=True)
