"""The dialogue system: multi-turn chat with any Hugging Face causal model that has a chat template.

`Assistant` is a loaded model; `Chat` holds one conversation with it. A conversation that
outgrows the model's context loses its oldest turns, never its system message, and says so.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlib.data.template import encode_prompts
from chatlib.runs import identity
from chatlib.runs.files import RunError
from chatlib.settings.device import accelerator

if TYPE_CHECKING:
    import pandas as pd

Messages = list[dict]
THREAD = "chatlib answer"
COMMANDS = "/facts TEXT sets the system message, /reset forgets the turns, /help, /quit"


class ChatError(ValueError):
    """A model that cannot chat, or a turn that does not fit; one sentence with the remedy."""


# --- loading


def _folder(reference: object) -> Path | None:
    """The local folder of a Run, a path (a run's directory too) or run:NAME; None for hub:NAME."""
    place = identity.resolve(getattr(reference, "model_dir", reference))
    if not isinstance(place, Path):
        return None
    place = place / "model" if (place / "model/config.json").is_file() else place
    if not any(place.glob("*.safetensors")):
        raise ChatError(
            f"{place} holds no .safetensors weights; save it again with "
            "`save_pretrained` (pickled weights are not opened)"
        )
    if not any((place / n).exists() for n in ("tokenizer.json", "tokenizer_config.json")):
        raise ChatError(f"{place} holds no tokenizer; save one there with `save_pretrained`")
    return place


@dataclass
class Assistant:
    """A causal language model with its tokenizer, ready to answer."""

    name: str
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)

    @property
    def context(self) -> int:
        """Longest sequence, in tokens, that the model was built for."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or 2**20

    def encode(self, messages: Messages) -> list[int]:
        """Token ids of the conversation, up to where the next answer starts."""
        return encode_prompts(self.tokenizer, [messages])[0]


def load(reference: object, name: str | None = None) -> Assistant:
    """Load a finished `Run`, a model folder, ``run:NAME`` or ``hub:NAME[@REVISION]``.

    Only safetensors weights are read. Raises `ChatError` when the folder lacks weights, a
    tokenizer or a chat template, and `RunError` when it is no model or no finished run.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from chatlib.train.models import no_bar

    folder = _folder(reference)
    place, revision = (str(folder), None) if folder else identity.resolve(reference)
    options = {"revision": revision, "local_files_only": folder is not None}
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    if not tokenizer.chat_template:
        raise ChatError(f"{place} has no chat template; set `tokenizer.chat_template` and save it")
    with no_bar() if folder else contextlib.nullcontext():
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype="auto", use_safetensors=True, trust_remote_code=False, **options
        )
    return Assistant(name or _short_name(place), model.eval().to(accelerator()), tokenizer)


def _short_name(place: str) -> str:
    """A run's name for RUN/model, else the last part of the path."""
    path = Path(place)
    return path.parent.name if path.name == "model" else path.name


# --- the context limit


def fit(messages: Messages, count: Callable[[Messages], int], limit: int) -> tuple[Messages, int]:
    """Drop the oldest turns until the conversation has at most ``limit`` tokens.

    A turn is a user message with the answers that follow it. The system message and the
    last turn stay. ``count`` gives a conversation's tokens. Returns the messages kept and
    the number of turns dropped; raises `ChatError` when the last turn alone is too long.
    """
    system = [m for m in messages[:1] if m["role"] == "system"]
    rest = messages[len(system) :]
    starts = [i for i, m in enumerate(rest) if m["role"] == "user"]
    for dropped, start in enumerate(starts):
        kept = system + rest[start:]
        tokens = count(kept)
        if tokens <= limit:
            return kept, dropped
    if not starts:
        raise ChatError("the conversation has no user message; there is nothing to answer")
    raise ChatError(
        f"the last message takes {tokens} tokens with the system message, and {limit} fit; "
        "shorten one of them or ask for a shorter answer"
    )


# --- answering


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: ``temperature`` 0 takes the most probable token each time."""

    temperature: float = 0.0
    max_new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ChatError(f"temperature is {self.temperature}; use 0 (greedy) or more")
        if self.max_new_tokens < 1:
            raise ChatError(f"max_new_tokens is {self.max_new_tokens}; use at least 1")

    def arguments(self) -> dict:
        """The same, as arguments of transformers' ``generate``."""
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        temperature = float(self.temperature)
        return {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}


@dataclass(frozen=True)
class Reply:
    """An answer with what it took: the turns that no longer fitted, and its tokens."""

    text: str
    dropped: int
    prompt_tokens: int


def stream(
    assistant: Assistant, messages: Messages, sampling: Sampling | None = None, turn: int = 0
) -> Iterator[str]:
    """Yield the answer's text piece by piece while the model still generates.

    ``generate`` runs in a thread that fills a queue; an error there is raised here, and
    leaving the loop early ends the thread. The same seed and turn give the same answer.
    """
    from transformers import TextIteratorStreamer

    sampling = sampling or Sampling()
    queue = TextIteratorStreamer(assistant.tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop, errors = threading.Event(), []
    arguments = (assistant, assistant.encode(messages), sampling, turn, queue, stop, errors)
    thread = threading.Thread(target=_generate, args=arguments, name=THREAD, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in queue if piece)
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def _generate(assistant, ids, sampling, turn, queue, stop, errors) -> None:
    """Body of the generating thread; always ends the queue."""
    import torch
    from transformers import StoppingCriteriaList

    model, tokenizer = assistant.model, assistant.tokenizer
    inputs = torch.tensor([ids], device=model.device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    halt = lambda tokens, scores, **_: torch.full(
        (len(tokens),), stop.is_set(), dtype=torch.bool, device=tokens.device
    )
    try:
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(1000 * sampling.seed + turn)
            model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=pad,
                eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
                streamer=queue,
                stopping_criteria=StoppingCriteriaList([halt]),
                **sampling.arguments(),
            )
    except Exception as error:
        errors.append(error)
        queue.end()


@dataclass(repr=False)
class Chat:
    """One conversation: the history, and the model that answers.

    ``facts`` is the system message (empty: none), ``context`` the most tokens that prompt and
    answer may take (default: what the model was built for). ``messages`` is everything said,
    also the turns that no longer fit; ``last`` is the latest `Reply`.
    """

    assistant: Assistant
    facts: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    context: int | None = None
    messages: Messages = field(default_factory=list)
    last: Reply | None = None

    def __post_init__(self) -> None:
        if self.context and self.context > self.assistant.context:
            raise ChatError(
                f"context is {self.context} tokens, but {self.assistant.name} was built for "
                f"{self.assistant.context}; give at most that"
            )

    def ask(self, text: str) -> str:
        """Say ``text`` and return the whole answer."""
        return "".join(self.stream(text))

    def stream(self, text: str) -> Iterator[str]:
        """Say ``text`` and yield the answer piece by piece; the history grows at its end."""
        if not text.strip():
            raise ChatError("the message is empty; type something to answer")
        question = {"role": "user", "content": text}
        system = [{"role": "system", "content": self.facts}] if self.facts else []
        limit = (self.context or self.assistant.context) - self.sampling.max_new_tokens
        count = lambda messages: len(self.assistant.encode(messages))
        kept, dropped = fit([*system, *self.messages, question], count, limit)
        pieces = []
        for piece in stream(self.assistant, kept, self.sampling, len(self.messages) // 2):
            pieces.append(piece)
            yield piece
        answer = "".join(pieces).strip()
        self.messages += [question, {"role": "assistant", "content": answer}]
        self.last = Reply(answer, dropped, count(kept))

    def reset(self) -> None:
        """Forget the turns; the facts stay."""
        self.messages, self.last = [], None

    @property
    def note(self) -> str:
        """One line when the last answer was given without the oldest turns, else nothing."""
        if not self.last or not self.last.dropped:
            return ""
        limit = self.context or self.assistant.context
        turns = "turn" if self.last.dropped == 1 else "turns"
        return f"({self.last.dropped} oldest {turns} left out: the context holds {limit} tokens)"

    def __repr__(self) -> str:
        return f"Chat with {self.assistant.name}, {len(self.messages)} messages"

    def _repr_html_(self) -> str:
        """The conversation as a notebook shows it."""
        lines = [("facts", self.facts)] if self.facts else []
        names = {"user": "customer", "assistant": self.assistant.name}
        lines += [(names[m["role"]], m["content"]) for m in self.messages]
        return bubbles([*lines, *([("", self.note)] if self.note else [])])


def side_by_side(
    assistants: Sequence[Assistant], prompts: Sequence[Messages], sampling: Sampling | None = None
) -> pd.DataFrame:
    """Answers of several models to the same prompts: one row a prompt, one column a model.

    ``prompts`` are conversations that end with the user's turn.
    """
    import pandas as pd

    columns = {
        a.name: [
            "".join(stream(a, prompt, sampling, turn=i)).strip() for i, prompt in enumerate(prompts)
        ]
        for a in assistants
    }
    return pd.DataFrame(columns, index=[prompt[-1]["content"] for prompt in prompts])


# --- showing


def bubbles(lines: Sequence[tuple[str, str]]) -> str:
    """HTML of (speaker, text) lines; colours are given, so that dark mode reads the same."""
    box = "margin:.3em 0;padding:.4em .7em;border-radius:.5em;color:#111;background:"
    colours = {"facts": "#eee", "customer": "#dcebf7", "": "#fff3cd"}
    rows = [
        f'<div style="{box}{colours.get(speaker, "#e3f1e3")}">'
        f"{f'<b>{html.escape(speaker)}</b> ' if speaker else ''}{html.escape(text)}</div>"
        for speaker, text in lines
    ]
    return f'<div style="max-width:40em">{"".join(rows)}</div>'


# --- the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m chatlib chat``."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder, run:NAME or hub:NAME")
    parser.add_argument("--facts", default="", help="what the assistant knows (system message)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer, in tokens")
    parser.add_argument("--seed", type=int, default=0, help="of the draws, with a temperature")
    parser.add_argument("--context", type=int, help="tokens kept (default: the model's context)")


def run(options: argparse.Namespace) -> int:
    """Chat in the terminal until /quit or the end of the input. Returns the exit code."""
    try:
        sampling = Sampling(options.temperature, options.max_new_tokens, options.seed)
        chats = [
            Chat(load(model), options.facts, sampling, options.context) for model in options.models
        ]
    except (ChatError, RunError) as error:
        print(error, file=sys.stderr)
        return 2
    print(COMMANDS)
    while (line := _read()) not in (None, "/quit"):
        if line.startswith("/"):
            print(command(line, chats))
        elif line:
            for chat in chats:
                _answer(chat, line, label=len(chats) > 1)
    return 0


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
            chat.facts = text.strip() or chat.facts
        return f"(facts: {chats[0].facts or 'none; /facts TEXT sets them'})"
    return COMMANDS if name == "/help" else f"(no command {name}) {COMMANDS}"


def _answer(chat: Chat, text: str, label: bool) -> None:
    """Print the answer as it comes; an interrupt ends this answer only."""
    print(f"{chat.assistant.name}> " if label else "> ", end="", flush=True)
    try:
        for piece in chat.stream(text):
            print(piece, end="", flush=True)
        print(f"\n{chat.note}" if chat.note else "")
    except KeyboardInterrupt:
        print(" (interrupted)")
    except ChatError as error:
        print(f"({error})")


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m chatlib chat MODEL [MODEL ...]``."""
    parser = argparse.ArgumentParser("python -m chatlib chat", description="Chat with models.")
    add_arguments(parser)
    return run(parser.parse_args(arguments))
