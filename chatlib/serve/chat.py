"""The dialogue system: multi-turn chat with any Hugging Face causal model that has a chat template.

`Assistant` is a loaded model; `Chat` holds one conversation with it. A conversation that
outgrows the model's context loses its oldest turns, never its system message, and says so.
"""

from __future__ import annotations

import contextlib
import html
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from chatlib.data.template import encode_prompts
from chatlib.runs import identity
from chatlib.runs.store import Run
from chatlib.settings.device import accelerator

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Messages = list[dict]
THREAD = "chatlib answer"
# C0 but tab and newline, DEL, C1, and what turns the direction of writing: a terminal obeys these.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class ChatError(ValueError):
    """A model that cannot chat, or a turn that does not fit; one sentence with the remedy."""


def printable(text: str) -> str:
    """A text without control characters, which would steer a terminal or hide what is written."""
    return CONTROL.sub("", text)


# --- loading


def _folder(place: Path) -> Path:
    """The folder itself, or its `model`, after a look at whether it holds all that a chat needs."""
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


def load(reference: Run | Path | str, name: str | None = None) -> Assistant:
    """Load a finished `Run`, a model folder, ``run:NAME`` or ``hub:NAME[@REVISION]``.

    Only safetensors weights are read. Raises `ChatError` when the folder lacks weights, a
    tokenizer or a chat template, and `RunError` when it is no model or no finished run.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from chatlib.train.models import no_bar

    found = identity.resolve(reference.model_dir if isinstance(reference, Run) else reference)
    local = isinstance(found, Path)
    place, revision = (str(_folder(found)), None) if isinstance(found, Path) else found
    options = {"revision": revision, "local_files_only": local}
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    if not tokenizer.chat_template:
        raise ChatError(f"{place} has no chat template; set `tokenizer.chat_template` and save it")
    with no_bar() if local else contextlib.nullcontext():
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
    if not starts:
        raise ChatError("the conversation has no user message; there is nothing to answer")
    tokens = lambda start: count(system + rest[start:])
    fits = lambda start: tokens(start) <= limit
    # Mostly all fits. Else, as fewer turns take fewer tokens, halving finds the first start.
    dropped = 0 if fits(starts[0]) else bisect_left(starts, True, lo=1, key=fits)
    if dropped < len(starts):
        return system + rest[starts[dropped] :], dropped
    raise ChatError(
        f"the last message takes {tokens(starts[-1])} tokens with the system message, "
        f"and {limit} fit; "
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


@dataclass(frozen=True)
class Reply:
    """An answer with what it took: the turns that no longer fitted, and the prompt's tokens.

    ``cut``: the answer was as long as it may be, and had not come to its end.
    """

    text: str
    dropped: int
    prompt_tokens: int
    cut: bool = False


def stream(
    assistant: Assistant, messages: Messages, sampling: Sampling | None = None, turn: int = 0
) -> Iterator[str]:
    """Yield the answer's text piece by piece while the model still generates.

    ``generate`` runs in a thread that fills a queue; an error there is raised here, and
    leaving the loop early ends the thread. The same seed and turn give the same answer.
    """
    yield from _pieces(assistant, Asked(messages, sampling or Sampling(), turn))


@dataclass
class Asked:
    """What `generate` is asked for, and how it ended: tokens, ``cut`` at their limit, an error.

    ``ids`` are the prompt's tokens where they are known. Setting ``stop`` ends it at the next one.
    """

    messages: Messages
    sampling: Sampling
    turn: int = 0
    ids: list[int] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    tokens: int = 0
    cut: bool = False


def _pieces(assistant: Assistant, asked: Asked) -> Iterator[str]:
    """`stream` for a caller who looks at what became of it."""
    queue: SimpleQueue[str | None] = SimpleQueue()

    def work() -> None:
        try:
            generate(assistant, asked, queue.put)
        finally:  # whoever reads the queue would wait for ever
            queue.put(None)

    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    thread.start()
    try:
        yield from iter(queue.get, None)
    finally:
        asked.stop.set()
        thread.join()
    if asked.error:
        raise asked.error


def generate(assistant: Assistant, asked: Asked, put: Callable[[str], object]) -> None:
    """Hand every piece of the answer to ``put``; how it ended is noted in ``asked``."""
    try:
        ids = _tokens(assistant, asked, _Pieces(assistant.tokenizer, put))
    except BaseException as error:
        asked.error = error
        return
    ends = _ends(assistant)
    asked.tokens = len(ids)
    asked.cut = len(ids) == asked.sampling.max_new_tokens and ids[-1] not in ends


def _ends(assistant: Assistant) -> list[int]:
    """The tokens that end an answer."""
    ends = assistant.model.generation_config.eos_token_id or assistant.tokenizer.eos_token_id
    return ends if isinstance(ends, list) else [ends]


def _tokens(assistant: Assistant, asked: Asked, pieces: _Pieces) -> list[int]:
    """The answer's tokens by transformers' ``generate``, each given to ``pieces`` at once."""
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    model, tokenizer = assistant.model, assistant.tokenizer
    ids = asked.ids or assistant.encode(asked.messages)
    inputs = torch.tensor([ids], device=model.device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    halt = lambda tokens, scores, **_: torch.full(
        (len(tokens),), asked.stop.is_set(), dtype=torch.bool, device=tokens.device
    )
    with torch.inference_mode():
        return model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=asked.sampling.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=_ends(assistant),
            streamer=pieces,
            stopping_criteria=StoppingCriteriaList([halt]),
            logits_processor=LogitsProcessorList(_draws(asked, model.device)),
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
        )[0, inputs.shape[1] :].tolist()


def _draws(asked: Asked, device: Any) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """With a temperature: what makes the drawn token the likeliest one.

    It draws as ``generate`` does, from a generator of its own: several models may answer at
    once, and torch's is one for the whole process.
    """
    import torch

    temperature = asked.sampling.temperature
    if temperature == 0:
        return []
    generator = torch.Generator(device).manual_seed(1000 * asked.sampling.seed + asked.turn)

    def draw(ids: Tensor, scores: Tensor) -> Tensor:
        token = torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)

    return [draw]


class _Pieces:
    """Takes tokens as ``generate`` makes them and hands on their text, character by character.

    A text is decoded together with the piece before it, as a token may read differently at a
    beginning, and waits as long as it ends in half a character.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, put: Callable[[str], object]) -> None:
        self._tokenizer, self._put = tokenizer, put
        self._ids: list[int] | None = None  # of the last piece and what came after it
        self._known = 0  # how many of them were handed on

    def put(self, tokens: Tensor) -> None:
        """Called with the prompt, then with every token."""
        if self._ids is None:
            self._ids = []
            return
        self._ids += tokens.flatten().tolist()
        if (text := self._new()) and not text.endswith("\ufffd"):
            self._ids, self._known = self._ids[self._known :], len(self._ids) - self._known
            self._put(text)

    def end(self) -> None:
        """Called after the last token: what waited goes out as it is."""
        if text := self._new():
            self._put(text)

    def _new(self) -> str:
        ids, decode = self._ids or [], self._tokenizer.decode
        known = decode(ids[: self._known], skip_special_tokens=True)
        return str(decode(ids, skip_special_tokens=True))[len(known) :]


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
        pieces, asked = [], Asked(kept, self.sampling, len(self.messages) // 2)
        for piece in _pieces(self.assistant, asked):
            pieces.append(piece)
            yield piece
        answer = "".join(pieces).strip()
        self.messages += [question, {"role": "assistant", "content": answer}]
        self.last = Reply(answer, dropped, count(kept), asked.cut)

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
