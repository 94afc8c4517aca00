"""The commands that train: a stage, all three in order, and their batch script."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from chatlib.cli import options
from chatlib.lab import launch
from chatlib.runs.store import Run
from chatlib.settings import registry
from chatlib.settings.registry import STAGES
from chatlib.settings.stages import StageConfig

NOT_SHOWN = ("status", "stage", "seed", "world", "device", "started", "versions", "commit", "data")
PROFILE = "laptop, small, gpu, node, cluster or a .json file (default: $CHATLIB_PROFILE)"
Profile = Annotated[str | None, arg(metavar="NAME", help=PROFILE, help_behavior_hint="")]
Seed = Annotated[int, arg(help="of every stage")]
File = Annotated[Path | None, arg(metavar="FILE")]
Flag = FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Launching:
    """How a stage is launched; these change no run's name."""

    dry_run: Flag = False
    """print what would be done, and stop"""
    resume: Flag = False
    """continue from the last checkpoint"""
    force: Flag = False
    """with --resume: although the code that trains has been edited since"""
    fresh: Flag = False
    """train anew, although the run is finished"""
    port: Annotated[int | None, arg(metavar="INT")] = None
    """where the ranks meet, instead of a port that is free here"""
    timeout: Annotated[float | None, arg(metavar="SECONDS")] = None
    """seconds without a heartbeat after which a rank counts as stuck (600)"""
    hosts: File = None
    """DeepSpeed hostfile: a line `NAME slots=RANKS` for each machine"""
    node_rank: Annotated[int | None, arg(metavar="INT")] = None
    """this machine's place in it, where each machine launches for itself; no ssh then"""

    def __call__(self, config: StageConfig) -> Run:
        """Launch a stage in this way."""
        return launch(config, **vars(self))


@dataclass(frozen=True)
class Start:
    """What a stage starts from; the settings below count over it."""

    profile: Profile = None
    config: File = None
    """JSON of settings, a run's config.json too; wins over --profile, options over both"""


def command(stage: str) -> Callable[..., int]:
    """The command of a stage, with an option for each of its settings."""

    def train(launching: Any, start: Any, settings: Any) -> int:
        config = configuration(stage, start, settings)
        run = launching(config)
        if not launching.dry_run:
            print(table([run]))
        return 0

    model = STAGES[stage]
    train.__doc__ = (model.__doc__ or "").split("\n")[0]
    train.__name__ = stage
    unprefixed: Any = OmitArgPrefixes  # of a type that is made here, which no checker can know
    train.__annotations__ = {
        "launching": OmitArgPrefixes[Launching],
        "start": OmitArgPrefixes[Start],
        "settings": unprefixed[options.settings_type(model)],
        "return": int,
    }
    return train


def configuration(stage: str, start: Start, given: dict[str, Any]) -> StageConfig:
    """The settings of a stage: recipe, file and options, the later over the earlier."""
    from_file = read_config(start.config) if start.config else {}
    seed = options.value(given.get("seed", from_file.get("seed", 0)))
    begun = {**recipe_fields(stage, start, seed), **from_file}
    return registry.parse({**options.overlay(begun, given), "stage": stage})


def recipe_fields(stage: str, start: Start, seed: Any) -> dict[str, Any]:
    """What a stage starts from: the fields of its recipe for a profile, if one is named.

    The environment's profile leaves a file alone, which says what it said on any machine.
    """
    named = start.profile or (not start.config and os.environ.get("CHATLIB_PROFILE"))
    if not named:
        return {}
    from chatlib.lab import profiles

    return profiles.recipe(stage, seed, named).model_dump()


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `ValueError` naming file and line."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give its path") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}; give an object of settings")
    return data


def e2e(launching: OmitArgPrefixes[Launching], seed: Seed = 0, profile: Profile = None) -> int:
    """The three stages in order, by the book's recipes; finished ones are found, not repeated."""
    from chatlib.lab import profiles

    configs = [profiles.recipe(name, seed, profile) for name in ("sft", "reward", "ppo")]
    finished = [launching(config) for config in configs]
    if not launching.dry_run:
        print(table(finished))
    return 0


def slurm(
    stages: Positional[
        Annotated[list[str], arg(metavar="CONFIG_OR_RECIPE...", help_behavior_hint="")]
    ],
    seed: Seed = 0,
    profile: Profile = None,
    nodes: Annotated[int | None, arg(metavar="INT")] = None,
    cpu: Flag = False,
    time: str = "24:00:00",
    resume: Flag = False,
    timeout: Annotated[float | None, arg(metavar="SECONDS")] = None,
) -> int:
    """Print a batch script for Slurm that trains stages one after another.

    Args:
        stages: a run's config.json, or a recipe: sft reward ppo
        nodes: machines (default: the profile's)
        cpu: ask for no GPUs
        time: limit, D-HH:MM:SS
        resume: continue from the last checkpoints
        timeout: seconds without a heartbeat after which a rank counts as stuck (600)
    """
    from chatlib.lab import profiles
    from chatlib.launch import slurm

    if not stages:
        raise ValueError("name what to train: recipes (sft reward ppo), or runs' config.json")
    at = profiles.choose(profile)
    configs = [
        registry.parse(read_config(Path(name)))
        if name.endswith(".json")
        else profiles.recipe(name, seed, at)
        for name in stages
    ]
    text = slurm.script(configs, nodes or at.nodes, not cpu, time, resume, timeout)
    print(text, end="")
    return 0


def table(finished: list[Run]) -> str:
    """What runs reached, a column each: seconds, tokens, and the figures of their summaries."""
    columns = [reached(run) for run in finished]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [["", *(run.name for run in finished)]]
    rows += [[name, *(column.get(name, "") for column in columns)] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"{run.name}: {run.model_dir}" for run in finished)])


def reached(run: Run) -> dict[str, str]:
    """The figures of a manifest, as text."""
    figures = {}
    for name, figure in run.manifest.items():
        if name == "peak_bytes":
            figures["peak MiB/rank"] = " ".join(f"{peak / 2**20:.0f}" for peak in figure)
        elif name not in NOT_SHOWN and isinstance(figure, int | float):
            figures[name] = f"{figure:,}" if isinstance(figure, int) else f"{figure:,.3f}"
    return figures
