"""The same stages from a shell: `python -m chatlib sft|reward|ppo|e2e|slurm|runs|chat`.

Every field of a stage's configuration is an option of the same name; `--help` lists them
with unit and default. A stage starts from these defaults, from the file of `--config`, or from
the book's recipe for a `--profile`; then the options count.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from chatlib.lab import launch
from chatlib.launch.failures import LaunchError
from chatlib.runs import identity
from chatlib.runs.files import RunError
from chatlib.runs.recorder import read_metrics
from chatlib.runs.store import Run, all_runs
from chatlib.settings import stages
from chatlib.settings.stages import StageConfig

NOT_SHOWN = ("status", "stage", "seed", "world", "device", "started", "versions", "commit", "data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; the result is the exit code (1: a launch failed, 2: bad input)."""
    options, rest = build_parser().parse_known_args(arguments)
    if rest and options.command != "chat":
        build_parser().error(f"no such option: {' '.join(rest)} (see `{options.command} --help`)")
    try:
        return options.run(options, rest)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return error.code
    except ValidationError as error:
        print("\n".join(describe(error)), file=sys.stderr)
        return 2
    except (RunError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; no process of the launch is left", file=sys.stderr)
        return 130


def describe(error: ValidationError) -> list[str]:
    """One sentence for each value that a configuration refuses: field, value, what is allowed."""
    sentences = []
    for item in error.errors():
        field = ".".join(map(str, item["loc"])) or "the configuration"
        given = "" if item["type"] == "missing" or not item["loc"] else f" is {item['input']!r}"
        sentences.append(f"`{field}`{given}: {item['msg']}")
    return sentences


# ---------------------------------------------------------------------- the options


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="python -m chatlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in stages.STAGES:
        add_stage(commands, name)
    e2e = commands.add_parser(
        "e2e", help="the three stages in order, by the book's recipes", allow_abbrev=False
    )
    add_launch_options(e2e)
    add_recipe_options(e2e)
    e2e.set_defaults(run=run_e2e)
    add_slurm(commands)
    listed = commands.add_parser("runs", help="the runs on this machine, finished or not")
    listed.set_defaults(run=list_runs)
    chat = commands.add_parser("chat", help="chat with models in the terminal", add_help=False)
    chat.set_defaults(run=run_chat)
    return parser


def add_stage(commands: argparse._SubParsersAction, name: str) -> None:
    """`python -m chatlib sft ...`, and `reward` and `ppo`."""
    model = stages.STAGES[name]
    text = (model.__doc__ or "").split("\n")[0]
    usage = f"python -m chatlib {name} [options]"
    stage = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
    add_launch_options(stage)
    stage.add_argument(
        "--profile",
        help="start from the book's recipe for laptop, gpu, node, cluster or a .json file "
        "(default: $CHATLIB_PROFILE, unless there is a --config; else the defaults below)",
    )
    stage.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON; wins over --profile, options over both"
    )
    add_fields(stage, model)
    stage.set_defaults(run=run_stage)


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of `lab.launch`."""
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--timeout", type=float, help="seconds without a heartbeat (default 600)")
    parser.add_argument("--hosts", type=Path, help="DeepSpeed hostfile: a line `NAME slots=RANKS`")
    parser.add_argument("--node_rank", type=int, help="this machine's place in it; no ssh then")


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """What chooses the configuration of a recipe."""
    parser.add_argument("--seed", type=int, default=0, help="of every stage (default 0)")
    parser.add_argument(
        "--profile", help="laptop, gpu, node, cluster or a .json file (default: $CHATLIB_PROFILE)"
    )


def add_slurm(commands: argparse._SubParsersAction) -> None:
    """`python -m chatlib slurm CONFIG_OR_RECIPE ...`."""
    text = "print a batch script for Slurm that trains stages one after another"
    slurm = commands.add_parser("slurm", help=text, description=text, allow_abbrev=False)
    slurm.add_argument(
        "stages", nargs="+", metavar="CONFIG_OR_RECIPE", help="a run's config.json, or a recipe"
    )
    add_recipe_options(slurm)
    slurm.add_argument("--nodes", type=int, help="machines (default: the profile's)")
    slurm.add_argument("--cpu", action="store_true", help="ask for no GPUs")
    slurm.add_argument("--time", default="24:00:00", help="limit, D-HH:MM:SS (default 24:00:00)")
    slurm.add_argument("--resume", action="store_true", help="continue from the last checkpoints")
    slurm.add_argument("--timeout", type=float, help="seconds without a heartbeat (default 600)")
    slurm.set_defaults(run=print_slurm)


def add_fields(parser: argparse.ArgumentParser, model: type[StageConfig]) -> None:
    """One option for each field, with its description and default as help."""
    group = parser.add_argument_group("configuration", "lists and objects are given as JSON")
    for name, field in model.model_fields.items():
        if name == "stage":
            continue
        common: dict[str, Any] = {"help": help_text(field), "default": argparse.SUPPRESS}
        if field.annotation is bool:
            group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, **common)
        elif name == "sources":
            group.add_argument(f"--{name}", nargs="+", type=value, metavar="SOURCE", **common)
        else:
            group.add_argument(f"--{name}", type=value, metavar="VALUE", **common)


def help_text(field: FieldInfo) -> str:
    """A field's description, choices and default; argparse reads % as a format."""
    allowed = ", ".join(map(str, stages.choices(field.annotation)))
    parts = [field.description or "", f"one of {allowed}" if allowed else ""]
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        parts.append("required")
    else:
        dumped = default.model_dump() if isinstance(default, stages.Strict) else default
        parts.append(f"default {json.dumps(dumped, default=lambda part: part.name)}")
    return "; ".join(filter(None, parts)).replace("%", "%%")


def value(text: str) -> Any:
    """JSON where the text is JSON, else the text; the configuration checks the rest."""
    try:
        return json.loads(text)
    except ValueError:
        return text


# --------------------------------------------------------------------- the commands


def run_stage(options: argparse.Namespace, _: list[str]) -> int:
    """Launch one stage and print what it reached."""
    given = read_config(options.config) if options.config else {}
    fields = stages.STAGES[options.command].model_fields
    given |= {k: v for k, v in vars(options).items() if k in fields}
    begun = recipe_fields(options, given.get("seed", 0))
    config = stages.parse({**begun, **given, "stage": options.command})
    run = launch_with(config, options)
    if not options.dry_run:
        print(table([run]))
    return 0


def recipe_fields(options: argparse.Namespace, seed: Any) -> dict:
    """What a stage starts from: the fields of its recipe for a profile, if one is named.

    The environment's profile leaves a file alone, which says what it said on any machine.
    """
    named = options.profile or (not options.config and os.environ.get("CHATLIB_PROFILE"))
    if not named:
        return {}
    from chatlib.lab import profiles

    return profiles.recipe(options.command, seed, named).model_dump()


def launch_with(config: StageConfig, options: argparse.Namespace) -> Run:
    """`launch` with the options of the command line."""
    names = ("dry_run", "resume", "timeout", "hosts", "node_rank")
    return launch(config, **{name: getattr(options, name) for name in names})


def read_config(path: Path) -> dict:
    """The object in a JSON file. Raises `ValueError` naming file and line."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}; give an object of settings")
    return data


def run_e2e(options: argparse.Namespace, _: list[str]) -> int:
    """SFT, reward model and PPO in order; finished ones are found, not repeated."""
    from chatlib.lab import profiles

    configs = [profiles.recipe(name, options.seed, options.profile) for name in stages.STAGES]
    finished = [launch_with(config, options) for config in configs]
    if not options.dry_run:
        print(table(finished))
    return 0


def print_slurm(options: argparse.Namespace, _: list[str]) -> int:
    """The batch script of some stages; nothing is started."""
    from chatlib.lab import profiles
    from chatlib.launch import slurm

    at = profiles.choose(options.profile)
    configs = [
        stages.parse(read_config(Path(name)))
        if name.endswith(".json")
        else profiles.recipe(name, options.seed, at)
        for name in options.stages
    ]
    limits = {"time": options.time, "resume": options.resume, "timeout": options.timeout}
    print(slurm.script(configs, options.nodes or at.nodes, not options.cpu, **limits), end="")
    return 0


def list_runs(_options: argparse.Namespace, _: list[str]) -> int:
    """Every run: name, status, the last step that was logged, seconds, folder."""
    found = all_runs()
    for run in found:
        seconds = run.manifest.get("seconds")
        spent = f"{seconds:.0f} s" if seconds else "-"
        rows = read_metrics(run.directory / "metrics.jsonl")
        steps = rows[-1]["step"] if rows else 0
        print(f"{run.name:<20} {run.status:<12} {steps:>6} steps {spent:>8}  {run.directory}")
    if not found:
        print(f"no runs in {identity.root()}")
    return 0


def run_chat(_: argparse.Namespace, rest: list[str]) -> int:
    """`python -m chatlib chat MODEL ...`."""
    from chatlib.serve import chat

    return chat.main(rest)


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


if __name__ == "__main__":
    sys.exit(main())
