"""The dialogue system in a terminal: a conversation, or one answer for a script."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from chatlib.serve.chat import Chat, ChatError, Sampling, load, printable

COMMANDS = "/facts TEXT sets the system message, /reset forgets the turns, /help, /quit"
HELP = f"{COMMANDS}; /facts alone removes the system message"


def open_chats(
    places: Sequence[str], facts: str, sampling: Sampling, context: int | None
) -> list[Chat]:
    """A conversation with each model. Raises `ChatError` and `RunError` as `load` does."""
    return [Chat(load(place), facts, sampling, context) for place in places]


def say_once(chats: Sequence[Chat], prompt: str) -> int:
    """One answer of each model, alone on the standard output; notes go to the standard error."""
    for chat in chats:
        print(printable(chat.ask(prompt)).strip())
        if said := notes(chat):
            print(said, file=sys.stderr)
    return 0


def converse(chats: Sequence[Chat]) -> int:
    """Chat until /quit or the end of the input. Returns the exit code."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives `input` line editing and a history)

    print(COMMANDS)
    while (line := _read()) not in (None, "/quit"):
        if line.startswith("/"):
            print(command(line, chats))
        elif line:
            for chat in chats:
                _answer(chat, line, label=len(chats) > 1)
    return 0


def notes(chat: Chat) -> str:
    """What is to be known of the last answer: it was cut, turns were left out."""
    limit = chat.sampling.max_new_tokens
    cut = f"[cut at {limit} tokens: --max-new-tokens]" if chat.last and chat.last.cut else ""
    return "\n".join(filter(None, [cut, chat.note]))


def _read() -> str | None:
    """The next line of the terminal without outer spaces; None at the end of the input."""
    try:
        return input("you> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return None


def command(line: str, chats: Sequence[Chat]) -> str:
    """Carry out a line that starts with a slash; returns what to print."""
    name, _, text = line.partition(" ")
    if name == "/reset":
        for chat in chats:
            chat.reset()
        return "(the turns are forgotten, the facts stay)"
    if name == "/facts":
        for chat in chats:
            chat.facts = text.strip()
        return f"(facts: {chats[0].facts or 'none; /facts TEXT sets them'})"
    return HELP if name == "/help" else f"(no command {name}) {COMMANDS}"


def _answer(chat: Chat, text: str, label: bool) -> None:
    """Print the answer as it comes; an interrupt ends this answer only."""
    print(f"{chat.assistant.name}> " if label else "> ", end="", flush=True)
    try:
        for piece in chat.stream(text):
            print(printable(piece), end="", flush=True)
        print(f"\n{said}" if (said := notes(chat)) else "")
    except KeyboardInterrupt:
        print(" (interrupted)")
    except ChatError as error:
        print(f"({error})")
