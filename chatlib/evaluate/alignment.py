"""Attention as alignment: which token of the prompt a word was taken from (chapters 15 and 17).

Bahdanau et al. 2015 read a translation model's attention as an alignment of two sentences. Here
the true alignment of some words is known: both languages' texts have the same marked facts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from chatlib.data import template


@dataclass(frozen=True)
class Linked:
    """A prompt and its answer, token by token, with the facts that both of them name.

    ``links`` maps a place that predicts the first token of a fact to the places of the prompt in
    which the same fact stands. ``attention`` is (layers, heads, time, time).
    """

    tokens: list[str]
    prompt: int
    links: dict[int, list[int]]
    attention: torch.Tensor


def linked(
    net: Any, tokenizer: Any, asked: list[dict], target: str, facts: Sequence[tuple[str, str]]
) -> Linked:
    """A prompt and its answer under a model; ``facts`` are (in the prompt, in the answer)."""
    prompt = template.encode_prompts(tokenizer, [asked])[0]
    answer = template.encode_answers(tokenizer, [asked], [target])[0]
    ids = prompt + answer
    with torch.no_grad():
        out = net(torch.tensor([ids]), output_attentions=True, use_cache=False)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    places = {
        spot - 1: there
        for ours, theirs in facts
        for spot in found(pieces, theirs, len(prompt), len(ids))[:1]
        if (there := found(pieces, ours, 0, len(prompt)))
    }
    return Linked(pieces, len(prompt), places, torch.stack(out.attentions)[:, 0])


def found(pieces: Sequence[str], text: str, start: int, end: int) -> list[int]:
    """The places between ``start`` and ``end`` whose tokens hold a text first; [] if none do."""
    return next(iter(occurrences(pieces, text, start, end)), [])


def occurrences(pieces: Sequence[str], text: str, start: int, end: int) -> list[list[int]]:
    """The places between ``start`` and ``end`` whose tokens together hold a text, each time.

    Tokens are written in the byte-level alphabet, in which a Chinese sign may be cut in two; so
    the text is looked for in that alphabet.
    """
    from tokenizers import pre_tokenizers

    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = alphabet.pre_tokenize_str(text)[0][0]
    at, offsets = 0, []
    for piece in pieces[start:end]:
        offsets.append((at, at + len(piece)))
        at += len(piece)
    whole = re.finditer(rf"(?<![0-9]){re.escape(text)}(?![0-9])", "".join(pieces[start:end]))
    return [
        [start + i for i, (a, b) in enumerate(offsets) if a < one.end() and b > one.start()]
        for one in whole
    ]


def hits(pairs: Sequence[Linked]) -> np.ndarray:
    """Share of facts on which each head looks most, of all places in the prompt. (layers, heads)

    What counts is where the place that *predicts* the word looks, as it is there that it is taken.
    """
    layers, heads = pairs[0].attention.shape[:2]
    right, total = np.zeros((layers, heads)), 0
    for pair in pairs:
        for spot, places in pair.links.items():
            looks = pair.attention[:, :, spot, : pair.prompt].argmax(-1)
            right += np.isin(looks.numpy(), places)
            total += 1
    return right / max(total, 1)


def chance(pairs: Sequence[Linked]) -> float:
    """The same share for a head that looks at a random place of the prompt."""
    shares = [len(places) / pair.prompt for pair in pairs for places in pair.links.values()]
    return float(np.mean(shares))
