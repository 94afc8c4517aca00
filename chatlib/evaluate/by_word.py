"""Where an answer's loss falls: on facts, on stop words, on punctuation, on the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from chatlib.data import shop
from chatlib.data.clean import with_texts
from chatlib.data.schema import Dialogue
from chatlib.data.segment import STOP_WORDS, without_stop_words, word_spans, words
from chatlib.data.tag import OUTSIDE, Span, labels_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FACT, OTHER, STOP, MARK, END = KINDS = ("fact", "other word", "stop word", "mark", "end")


def kinds_of(text: str, facts: Iterable[Span]) -> list[Span]:
    """(start, end, kind) of every word and punctuation mark of an English text.

    A mark is a mark and a stop word a stop word wherever it stands; any other word is a fact
    if it overlaps one of the spans ``facts``, else another word.
    """
    places = word_spans(text, "en")
    inside = labels_of(list(facts), places)
    found = []
    for (start, end), fact in zip(places, inside):
        word = text[start:end].lower()
        kind = OTHER if fact == OUTSIDE else FACT
        kind = MARK if not word[0].isalnum() else STOP if word in STOP_WORDS else kind
        found.append((start, end, kind))
    return found


def stripped(text: str, kinds: Iterable[Span]) -> tuple[str, list[Span]]:
    """(text, kinds) without stop words and marks, the kept words where they now stand.

    The text is `segment.without_stop_words`'s, one space between words.
    """
    left: list[str] = []
    kept, place = [], 0
    for start, end, kind in kinds:
        if kind not in (STOP, MARK):
            left.append(text[start:end])
            kept.append((place, place + end - start, kind))
            place += end - start + 1
    return " ".join(left), kept


def strip_turns(messages: Sequence[dict], roles: Iterable[str]) -> list[dict]:
    """The messages of these roles without stop words and marks, the others as they are."""
    return [
        m | {"content": without_stop_words(m["content"])} if m["role"] in roles else dict(m)
        for m in messages
    ]


def strip_dialogues(records: Iterable[Dialogue], roles: Iterable[str]) -> list[Dialogue]:
    """Dialogues with some roles' turns stripped; one of which a turn is left empty is left out."""
    new = [(r, [m["content"] for m in strip_turns(r.messages, roles)]) for r in records]
    kept = [with_texts(record, texts) for record, texts in new]
    return [record for record in kept if isinstance(record, Dialogue)]


def facts_said(meta: dict, answer: str) -> float | None:
    """Share of the facts asked for whose words stand in the answer; None where none is asked for.

    It reads words and no grammar, so an answer that is no sentence loses nothing by it. ``meta``
    is `shop.Scenario.meta`.
    """
    needed = [meta["facts"][key] for key in shop.REQUIRED[meta["intent"]]]
    said = f" {' '.join(words(answer))} "
    return sum(f" {fact} " in said for fact in needed) / len(needed) if needed else None


def invents(meta: dict, answer: str) -> float:
    """1 when an answer names a number, day, product or person that its prompt does not, else 0."""
    return float(any(shop.unsupported(meta, answer).values()))


def nats_by_word(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[dict]],
    answers: Sequence[tuple[str, list[Span]]],
    batch_size: int = 64,
) -> pd.DataFrame:
    """-log p of every token of given answers: a row a token, columns answer, token, kind, nats.

    ``answers`` are texts with their `kinds_of`; a token has the kind of the word that it
    overlaps, the end token `END`. ``model`` maps ``input_ids`` and ``attention_mask`` (B, T) to
    an object with ``logits`` (B, T, V).
    """
    import torch

    from chatlib.data import collate, template
    from chatlib.maths.likelihood import token_log_probs

    said = template.encode_answers(tokenizer, list(prompts), [text for text, _ in answers])
    asked = template.encode_prompts(tokenizer, list(prompts))
    rows: list[tuple[int, str, str, float]] = []
    for first in range(0, len(answers), batch_size):
        part = range(first, min(first + batch_size, len(answers)))
        pad = tokenizer.pad_token_id
        ids, valid = collate.pad([asked[i] + said[i] for i in part], pad)
        ids, valid = ids.to(model.device), valid.to(model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=valid).logits
        nats = -token_log_probs(logits[:, :-1], ids[:, 1:])
        for i, costs in zip(part, nats.tolist()):
            own = costs[len(asked[i]) - 1 :][: len(said[i])]
            tokens = tokenizer.convert_ids_to_tokens(said[i])
            kinds = _token_kinds(tokenizer, *answers[i])
            rows += [(i, *row) for row in zip(tokens, kinds, own)]
    return pd.DataFrame(rows, columns=["answer", "token", "kind", "nats"])


def _token_kinds(tokenizer: PreTrainedTokenizerBase, text: str, kinds: list[Span]) -> list[str]:
    """The kind of each token of an answer, its end token included; a space is the next word's."""
    ends = [0, *(end for _, end, _ in kinds)]
    kinds = [(before, end, kind) for before, (_, end, kind) in zip(ends, kinds)]
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [*labels_of(kinds, found["offset_mapping"]), END]
