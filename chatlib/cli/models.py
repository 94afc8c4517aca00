"""The commands that use a model: talk to it, serve it, and measure it in the shop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from chatlib.cli import records

File = Annotated[Path | None, arg(metavar="FILE")]
Flag = FlagCreatePairsOff[bool]
CALIBRATION = 500  # seed of the dialogues that scales are taken from
Models = Positional[Annotated[list[str], arg(metavar="MODEL...", help_behavior_hint="")]]


def named(name: str) -> str:
    """A model's reference as the loaders read it: a run may be the beginning of its name."""
    if name.startswith(("hub:", "gguf:", "pypi:")) or Path(name).expanduser().exists():
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
        models: a run (the beginning of its name is enough), a folder, hub:NAME or gguf:FILE
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


def serve(
    models: Models,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: Annotated[str | None, arg(metavar="KEY")] = None,
    max_tokens: int = 256,
    queue: int = 64,
    max_body: int = 256,
) -> int:
    """Serve models by OpenAI's interface and on a page to chat with two of them side by side.

    Without a temperature an answer is greedy, and it has at most 64 tokens unless asked for more.

    Args:
        models: a run (the beginning of its name is enough), a folder, hub:NAME or gguf:FILE
        host: the address to listen on; 0.0.0.0 lets other machines in
        port: 0 takes a free one
        api_key: clients must send it; the variable CHATLIB_API_KEY shows it to fewer eyes
        max_tokens: longest answer that a client may ask for
        queue: answers of a model under way and waiting; who comes then is told to come back
        max_body: of a request, in KiB
    """
    places = [named(name) for name in models]
    if not places:
        raise ValueError("name a model to serve: a run, a folder or hub:NAME")
    try:
        from chatlib.serve import server
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn"):
            raise
        raise ValueError(f"no {error.name} here; pip install 'chatlib[serve]'") from None
    from chatlib.serve.chat import load

    limits = server.Limits(1024 * max_body, max_tokens, queue)
    access = server.Access(host, api_key or os.environ.get("CHATLIB_API_KEY") or None)
    listening = server.listen(host, port)
    return server.serve([load(place) for place in places], limits, access, listening)


def evaluate(
    models: Models,
    n: Annotated[int, arg(metavar="INT")] = 300,
    seed: int = 0,
    json: FlagCreatePairsOff[bool] = False,
) -> int:
    """Measure models in the shop: gold reward with its parts, BLEU and ROUGE, 95 % intervals.

    Args:
        models: a run (the beginning of its name is enough), a folder, hub:NAME or gguf:FILE
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
    browser: File = None,
    f32: Flag = False,
    f16: Flag = False,
    q8: Flag = False,
    force: Flag = False,
) -> int:
    """Write models as one file for programs without Python: GGUF for llama.cpp, or a page's script.

    Args:
        models: a run (the beginning of its name is enough), a folder, hub:NAME or gguf:FILE
        gguf: GGUF file to write; of one model
        browser: script to write; of policies and reward models with one tokenizer
        f32: weights as they are
        f16: 16 bits a weight, in a script integers with a scale a row (GGUF's default)
        q8: 8 bits a weight, 32 to a scale (a script's default)
        force: replace a file that is there
    """
    places = [named(name) for name in models]
    chosen = [name for name, asked in {"f32": f32, "f16": f16, "q8": q8}.items() if asked]
    if len(chosen) > 1 or not places or not (gguf or browser) or (gguf and len(places) > 1):
        raise ValueError(
            f"{len(places)} models, --gguf {gguf}, --browser {browser}, precisions {chosen}; give "
            "one model and --gguf FILE, or models and --browser FILE, and at most one of --f32 ..."
        )
    precision: Any = chosen[0] if chosen else None
    if gguf:
        print(export_gguf(places[0], gguf, precision or "f16", force))
    if browser:
        from chatlib.serve import browser as scripts

        print(scripts.write(places, browser, precision or "q8", force))
    return 0


def compress(
    model: Positional[Annotated[str, arg(metavar="MODEL", help_behavior_hint="")]],
    folder: Positional[Annotated[Path, arg(metavar="FOLDER", help_behavior_hint="")]],
    int8: Flag = False,
    int4: Flag = False,
    aware: Flag = False,
) -> int:
    """Write a model folder whose matrices are small integers, packed.

    Args:
        model: a run (the beginning of its name is enough), a folder, hub:NAME or gguf:FILE
        folder: to write; must not exist
        int8: 8 bits a weight, a step a row (the default)
        int4: 4 bits a weight, 32 to a step
        aware: finer steps for what is large when the model answers questions of the shop
    """
    if int8 and int4:
        raise ValueError("--int8 and --int4 exclude each other; give one")
    place = named(model)
    from chatlib.compress import folder as folders
    from chatlib.serve import chat

    folders.check_target(folder)
    assistant = chat.load(place)
    how = folders.INT4 if int4 else folders.INT8
    scales = _scales(assistant, how) if aware else None
    written = folders.write(assistant.model, assistant.tokenizer, folder, how, scales)
    before = folders.size(assistant.model)
    print(f"{folder}: {written / 1e6:.2f} MB of weights, {how}; {before / 1e6:.2f} MB before.")
    print(f'Open it with chatlib.compress.folder.load("{folder}").')
    return 0


def _scales(assistant: Any, how: Any) -> Any:
    """Input scales from dialogues of the shop that no evaluation reads."""
    from chatlib.compress import activation
    from chatlib.data import shop, template

    shown = [d.messages for d in shop.demonstrations(64, seed=CALIBRATION)]
    texts = [example.ids for example in template.encode(assistant.tokenizer, shown)]
    return activation.scales(assistant.model, texts, how)


def export_gguf(place: str, path: Path, precision: Any, force: bool) -> object:
    """Write one model as GGUF; what is in the way is said before the model is loaded."""
    from chatlib.serve import chat
    from chatlib.serve import gguf as writer

    writer.check_target(path, force)
    return writer.write(chat.load(place), path, precision, force)
