"""Two ways of doing the same work, measured in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chatlib.launch import plan

THREADS = 2


LAUNCH = {  # this process is a launch of one rank; a peer must not take itself for a part of it
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": str(plan.free_port()),
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
}
PEERS = Path(__file__).parent / "peers"

Side = Callable[[int], float]  # does a round's work and returns its seconds


@dataclass(frozen=True)
class Row:
    """One line of the table: seconds of both sides, round by round.

    ``units`` says how much work a round is (tokens, pairs, iterations) and ``target`` which
    ratio theirs / ours is asked for. A cost over a yardstick has the yardstick as ``ours``, and
    is asked to be ``at_most`` the target. Of a row without a target nothing is asked.
    """

    name: str
    target: float | None
    unit: str
    units: float
    ours: list[float]
    theirs: list[float]
    at_most: bool = False

    @property
    def ratio(self) -> float:
        """Median over rounds of how many times faster ours was."""
        return statistics.median(t / o for o, t in zip(self.ours, self.theirs))

    @property
    def reached(self) -> bool:
        """Is the ratio on the right side of the target, if there is one?"""
        if self.target is None:
            return True
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def figures(self) -> dict[str, object]:
        """What is stored: the ratio, its range over rounds, and the rates behind it."""
        ratios = [t / o for o, t in zip(self.ours, self.theirs)]
        return {
            "ratio": round(self.ratio, 3),
            "target": self.target,
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
            "rounds": len(ratios),
            "unit": f"{self.unit}/s",
            "ours": round(self.units / statistics.median(self.ours), 3),
            "theirs": round(self.units / statistics.median(self.theirs), 3),
        }


def in_turns(ours: Side, theirs: Side, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both sides for rounds 1 to ``rounds``; round 0 warms up and is not counted.

    What else runs on the machine then slows both, and the ratio of neighbours stays fair.
    """
    times = [(ours(k), theirs(k)) for k in range(rounds + 1)][1:]
    return [o for o, _ in times], [t for _, t in times]


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def keep(path: Path, measured: dict[str, dict]) -> None:
    """Put figures into a JSON file by name; those of other names stay as they were measured."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(known | measured, indent=2) + "\n", encoding="utf-8")


class Peer:
    """A trainer of another library in a process and an environment of its own.

    It stops after every round until it is asked for the next one (see peers/lockstep.py), so
    that nothing of it runs while our side is measured.
    """

    def __init__(self, python: Path, script: str, settings: dict) -> None:
        outside = {key: value for key, value in os.environ.items() if key not in LAUNCH}
        self.process = subprocess.Popen(
            [python, PEERS / script, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=outside | {"OMP_NUM_THREADS": str(THREADS), "TRL_EXPERIMENTAL_SILENCE": "1"},
        )

    def __call__(self, round: int) -> float:
        """Seconds of the next round. Raises `RuntimeError` when the process has ended."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps({"round": round}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.process.args[1]} ended at round {round}; see its error above"
            )
        return json.loads(line)["seconds"]

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
