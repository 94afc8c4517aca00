"""A byte-level BPE as programs without our libraries need it: tokens, merges, and the split.

Before any merge a text is cut into pieces, and no token reaches over a cut. Two programs with the
same tokens and merges still give other ids where they cut differently.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatlib.data import template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What `ByteLevel` of the tokenizers library cuts by where no other split is given.
GPT2_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  #


class ExportError(ValueError):
    """What cannot be exported, and where to; one sentence with the remedy."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id in the byte-level alphabet, merges in their order, the ids of special tokens.

    ``pieces`` is the regular expression of the split, None where it is no single one.
    """

    tokens: list[str]
    merges: list[tuple[str, str]]
    special: list[int]
    pieces: str | None


def read(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The vocabulary of a tokenizer. Raises `ExportError` where it is no byte-level BPE."""
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    model, decoder = stored["model"], (stored["decoder"] or {}).get("type")
    if model["type"] != "BPE" or decoder != "ByteLevel" or stored["normalizer"]:
        raise ExportError(
            f"the tokenizer is a {model['type']} with the decoder {decoder}; only byte-level BPE "
            "without a normalizer can be exported, such as GPT-2's, Llama 3's or the shop's"
        )
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    tokens = list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    return Vocabulary(tokens, merges, special, _pieces(stored["pre_tokenizer"]))


def _pieces(stored: dict[str, Any]) -> str | None:
    """The expression that a stored pre-tokenizer cuts by, None where it is not just one."""
    steps = stored["pretokenizers"] if stored["type"] == "Sequence" else [stored]
    *splits, last = steps
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not splits and last["use_regex"]:
        return GPT2_PIECES
    if [s["type"] for s in splits] == ["Split"] and not last["use_regex"]:
        one = splits[0]
        isolated = one["behavior"] == "Isolated" and not one["invert"]
        return one["pattern"].get("Regex") if isolated else None
    return None


def neutral(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict]) -> list[dict]:
    """The messages with every special token in their text broken up, as `template.render` does.

    For a program that renders the template itself: llama.cpp takes ``<|end|>`` in a customer's
    text for the end of the turn.
    """
    safe = []
    for message in messages:
        text = message["content"]
        for token in template.special_tokens(tokenizer):
            text = text.replace(token, f"{token[:1]} {token[1:]}")
        safe.append({**message, "content": text})
    return safe


NOISE = (
    " 12345 1999. 3.50 #417 007 ½ ²",
    "  two  spaces\ttab\n\nlines\r\n \x85\u2003\ufeff\u200b",
    "it's we'll I'd they'RE don't 'tis O'Neil",
    "'so they said' 'today, 'made 'delivered 'll 'red",
    "😀👩‍👩‍👧‍👦🇫🇷✌🏽 → ½ €",
    "你好，世界。こんにちは 안녕하세요 สวัสดี",
    "Ünïcödé naïve Ελλάδα Привет שלום مرحبا हिन्दी",
    "\x00\x01\x07\x1b[31m\x7f\u202e",
    "<|end|> <|user|><|assistant|> <s> {{ x }} ...!?--",
)


def varied_texts(vocabulary: Vocabulary, n: int = 200, seed: int = 0) -> list[str]:
    """``n`` texts to compare two tokenizers on, the same for a seed.

    Half are runs of the vocabulary's own tokens; half are cut from `NOISE`: numbers, white space,
    contractions, emoji, scripts, control characters, role tokens.
    """
    rng = random.Random(seed)
    words = [_text(t) for i, t in enumerate(vocabulary.tokens) if i not in vocabulary.special]
    words = [word for word in words if word]
    own = ["".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(n - n // 2)]
    return own + [_cuttings(rng) for _ in range(n // 2)]


def _cuttings(rng: random.Random) -> str:
    """Up to four stretches of noise, one after another."""
    found = ""
    for line in rng.choices(NOISE, k=rng.randint(1, 4)):
        start = rng.randrange(len(line))
        found += line[start : start + rng.randint(1, 24)]
    return found


def _text(token: str) -> str:
    """A token of the byte-level alphabet as text; empty where its bytes are no whole characters."""
    try:
        return bytes(BYTE_OF[c] for c in token).decode()
    except (KeyError, UnicodeDecodeError):
        return ""


def _alphabet() -> dict[str, int]:
    """The byte that each character of the alphabet stands for: printable ones are themselves."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


BYTE_OF = _alphabet()
