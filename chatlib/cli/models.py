"""The commands that use a model: talk to it, and measure it in the shop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from chatlib.cli import records

File = Annotated[Path | None, arg(metavar="FILE")]
Flag = FlagCreatePairsOff[bool]
Models = Positional[Annotated[list[str], arg(metavar="MODEL...", help_behavior_hint="")]]


def named(name: str) -> str:
    """A model's reference as the loaders read it: a run may be the beginning of its name."""
    if name.startswith("hub:") or Path(name).expanduser().exists():
        return name
    if "/" in name:
        raise ValueError(f"no folder {name}; give a model folder, a run's name or hub:NAME")
    return records.find(name).reference


def chat(
    models: Models,
    prompt: Annotated[str | None, arg(aliases=["-p"], metavar="TEXT")] = None,
    facts: str = "",
    temperature: float = 0.0,
    max_new_tokens: int = 64,
    seed: int = 0,
    context: Annotated[int | None, arg(metavar="INT")] = None,
) -> int:
    """Chat with models in the terminal, or get one answer on the standard output.

    Args:
        models: a run (the beginning of its name is enough), a model folder or hub:NAME
        prompt: answer this and end: the answer alone goes to the standard output
        facts: what the assistant knows (system message)
        temperature: 0 takes the most probable token each time
        max_new_tokens: longest answer, in tokens
        seed: of the draws, with a temperature
        context: tokens kept (default: the model's context)
    """
    places = [named(name) for name in models]
    if not places:
        raise ValueError("name a model to chat with: a run, a folder or hub:NAME")
    from chatlib.serve import terminal
    from chatlib.serve.chat import Sampling

    sampling = Sampling(temperature, max_new_tokens, seed)
    chats = terminal.open_chats(places, facts, sampling, context)
    return terminal.say_once(chats, prompt) if prompt is not None else terminal.converse(chats)


def evaluate(
    models: Models,
    n: Annotated[int, arg(metavar="INT")] = 300,
    seed: int = 0,
    json: FlagCreatePairsOff[bool] = False,
) -> int:
    """Measure models in the shop: gold reward with its parts, BLEU and ROUGE, 95 % intervals.

    Args:
        models: a run (the beginning of its name is enough), a model folder or hub:NAME
        n: scenarios that no stage trained on; each gets one answer, sampled at temperature 1
        seed: of the answers
        json: an object for each model, for programs
    """
    places = [named(name) for name in models]
    if not places or n < 2:
        raise ValueError(f"{len(places)} models and n {n}; give a model and at least 2 scenarios")
    from chatlib.evaluate import report

    tables = {place: report.measure(place, n, seed) for place in places}
    if json:
        print(records.dumps({p: table.to_dict("index") for p, table in tables.items()}))
    else:
        print(report.side_by_side(tables).to_string())
    return 0


def export(
    models: Models,
    gguf: File = None,
    f32: Flag = False,
    f16: Flag = False,
    q8: Flag = False,
    force: Flag = False,
) -> int:
    """Write a model as one file for programs without Python: GGUF for llama.cpp.

    Args:
        models: a run (the beginning of its name is enough), a model folder or hub:NAME
        gguf: the file to write
        f32: weights as they are
        f16: weights in 16 bits (the default)
        q8: weights in 8 bits, 32 to a scale
        force: replace a file that is there
    """
    places = [named(name) for name in models]
    chosen = [name for name, asked in {"f32": f32, "f16": f16, "q8": q8}.items() if asked]
    if gguf is None or len(places) != 1 or len(chosen) > 1:
        given = f"{len(places)} models, {len(chosen)} precisions"
        raise ValueError(f"{given}, --gguf {gguf}; give one model, --gguf FILE, one of --f32 ...")
    from chatlib.serve import chat
    from chatlib.serve import gguf as writer

    writer.check_target(gguf, force)  # before the model is loaded, which takes longer
    precision: writer.Precision = chosen[0] if chosen else "f16"  # type: ignore[assignment]
    print(writer.write(chat.load(places[0]), gguf, precision, force))
    return 0
