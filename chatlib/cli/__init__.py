"""The same stages from a shell: train, look at runs, talk to models.

A stage starts from its defaults, from the file of --config, or from the book's recipe for a
--profile; then its options count. Options may be spelled with - or with _.

`chatlib --tyro-print-completion bash` (or zsh) prints a completion script, `chatlib --version`
the version.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from chatlib.cli import models, records, stages
from chatlib.launch.failures import LaunchError
from chatlib.runs.files import RunError

COMMANDS: dict[str, Callable[..., int]] = {
    **{name: stages.command(name) for name in stages.STAGES},
    "e2e": stages.e2e,
    "slurm": stages.slurm,
    "runs": records.runs,
    "show": records.show,
    "logs": records.logs,
    "rm": records.rm,
    "chat": models.chat,
    "serve": models.serve,
    "eval": models.evaluate,
    "export": models.export,
    "compress": models.compress,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; the result is the exit code (1: a launch failed, 2: bad input)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments == ["--version"]:
            return version()
        return carry_out(arguments)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return error.code
    except ValidationError as error:
        print("\n".join(describe(error)), file=sys.stderr)
        return 2
    except BrokenPipeError:  # `chatlib logs RUN | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RunError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; no process of the launch is left", file=sys.stderr)
        return 130


def carry_out(arguments: list[str]) -> int:
    """Read the options of one command and call it; only its own options are built."""
    import tyro

    name, *rest = arguments or [""]
    if name in COMMANDS:
        return tyro.cli(COMMANDS[name], prog=f"chatlib {name}", args=rest)
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="chatlib", description=__doc__, args=arguments
    )


def version() -> int:
    """The version of chatlib, and the commit where there is one."""
    from importlib.metadata import version as installed

    from chatlib.runs.provenance import commit

    print(f"chatlib {installed('chatlib')} ({commit() or 'no commit known'})")
    return 0


def describe(error: ValidationError) -> list[str]:
    """One sentence for each value that a configuration refuses: field, value, what is allowed."""
    sentences = []
    for item in error.errors():
        field = ".".join(map(str, item["loc"])) or "the configuration"
        given = "" if item["type"] == "missing" or not item["loc"] else f" is {item['input']!r}"
        sentences.append(f"`{field}`{given}: {item['msg']}")
    return sentences
