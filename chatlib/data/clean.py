"""Cleaning: small pure functions from text to text, and a pipeline that counts what each did.

A step never guesses: what it removes is listed in its docstring. `clean` applies the steps to
every text of every record, then drops what became empty and what is there twice, and reports
every change in a table.
"""

from __future__ import annotations

import html
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import pandas as pd
import regex  # knows Unicode's emoji properties, which `re` does not

from chatlib.data.schema import BadRecord, Dialogue, Preference, Record

Step = Callable[[str], str]

# --- markup
_TAG_NAMES = (
    "a|abbr|article|b|blockquote|body|br|code|dd|del|div|dl|dt|em|font|footer|h[1-6]|head|header|"
    "hr|html|i|img|ins|li|link|main|meta|nav|ol|p|pre|s|section|small|span|strike|strong|sub|sup|"
    "table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul"
)
_TAG = re.compile(rf"</?(?P<name>{_TAG_NAMES})(\s[^<>]*)?/?>", re.I)
_UNSEEN = re.compile(r"<!--.*?-->|<(script|style)\b[^>]*>.*?</\1\s*>", re.I | re.S)
_BREAKS = re.compile(r"br|p|div|li|tr|h[1-6]|hr|table|ul|ol|blockquote|pre", re.I)


def strip_markup(text: str) -> str:
    """Text without HTML tags, comments and scripts, entities resolved.

    Only names that HTML knows are tags, so "a < b" and "List<int>" stay. A tag that starts a
    new line on a screen becomes a line break. Entities come last: "&lt;b&gt;" means the text <b>.
    """
    text = _UNSEEN.sub("", text)
    text = _TAG.sub(lambda tag: "\n" if _BREAKS.fullmatch(tag["name"]) else "", text)
    return html.unescape(text)


# --- Unicode
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code - 0xFEE0).isalnum()}
_WIDE[0x3000] = ord(" ")


def normal_form(text: str, form: Literal["NFC", "NFKC"] = "NFC") -> str:
    """Equal-looking text with equal code points: NFC composes (e + ´ -> é), NFKC also replaces
    what is only a variant: ﬁ -> fi, ² -> 2, full-width １ -> 1, and Chinese ，-> , with it.
    """
    return unicodedata.normalize(form, text)


def fold_width(text: str) -> str:
    """Full-width letters, digits and spaces as ordinary ones; Chinese punctuation stays."""
    return text.translate(_WIDE)


def whitespace(text: str) -> str:
    """One space between words, at most one blank line, none at the ends.

    Removed: control characters and the invisible U+00AD, U+200B, U+2060 and U+FEFF. The joiners
    U+200C and U+200D stay: scripts and emoji are spelled with them.
    """
    text = re.sub(r"\r\n?|[\u2028\u2029\x0b\x0c]", "\n", text)
    text = re.sub(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff]", "", text)
    text = re.sub(r"[^\S\n]+", " ", text.replace("\x85", "\n"))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


# --- emoji
_EMOJI = regex.compile(
    r"(?:\p{RI}{2}|[0-9#*]\uFE0F?\u20E3|"
    r"(?:\p{Emoji_Presentation}|\p{Extended_Pictographic}\uFE0F)\p{EMod}?"
    r"(?:\u200D\p{Extended_Pictographic}\uFE0F?\p{EMod}?)*)"
)


def emoji(text: str, policy: str = "drop") -> str:
    """Emoji by policy: `keep`, `drop`, or `name` (🙏 -> :person with folded hands:).

    © and ™ are text unless a variation selector makes them pictures. Raises `ValueError` for
    another policy.
    """
    if policy not in ("keep", "drop", "name"):
        raise ValueError(f"emoji policy {policy!r} is unknown; use keep, drop or name")
    if policy == "keep":
        return text
    return _EMOJI.sub(_emoji_name if policy == "name" else "", text)


def _emoji_name(found: regex.Match) -> str:
    return f":{unicodedata.name(found[0][0], 'emoji').lower()}:"


# --- personal data
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{2,}")
_PHONE = re.compile(r"(?<![\w.,+/-])(?:\+|\()?\d(?:[ .\-/()]{0,2}\d){6,14}(?![\w/]|[.,-]\d)")
_NO_PHONE = re.compile(
    r"\d{4}([-./])\d{1,2}\1\d{1,2}"  # a date, year first
    r"|\d{1,2}([-./])\d{1,2}\2\d{4}"  # a date, year last
    r"|\d{1,3}(\.\d{1,3}){3}"  # an IP address
    r"|\d{1,3}([ .]\d{3})+"  # a number with separators between thousands
    r"|\d+\.\d+"  # a decimal fraction
    r"|\d{1,9}"  # a bare number below ten digits: an order, not a call
)


def redact(text: str) -> str:
    """E-mail addresses as [EMAIL], telephone numbers (7 to 15 digits) as [PHONE].

    A number is taken for a telephone's when it is written like one: with +, separators, or ten
    digits in a row. Dates, IP addresses and grouped thousands are left alone.
    """
    text = EMAIL.sub("[EMAIL]", text)
    return _PHONE.sub(lambda n: n[0] if _NO_PHONE.fullmatch(n[0]) else "[PHONE]", text)


def strip_signature(text: str) -> str:
    """Text before the line "-- " that opens a signature in mail and news (RFC 3676, 4.3)."""
    return re.split(r"\n--[^\S\n]*\n", text, maxsplit=1)[0]


# --- duplicates


def shingles(text: str, k: int = 5) -> set[str]:
    """All runs of `k` characters of the text, lower-cased, spaces and punctuation left out."""
    letters = "".join(c for c in text.lower() if c.isalnum())
    return {letters[i : i + k] for i in range(max(1, len(letters) - k + 1))}


def jaccard(a: set, b: set) -> float:
    """``|a and b| / |a or b|``: 1 for equal sets, 0 for disjoint ones (Jaccard 1912)."""
    return len(a & b) / len(a | b) if a or b else 1.0


def minhash(items: set[str], hashes: int = 128, seed: int = 0) -> np.ndarray:
    """The smallest value of each of `hashes` random hash functions over a set: (hashes,) uint32.

    P(two sets agree in one place) is their Jaccard similarity (Broder 1997), so the share of
    equal places estimates it. The functions are h(x) = ((a x + b) mod 2^64) >> 32.
    """
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, 2**63, (2, hashes, 1), dtype=np.uint64) | np.uint64(1)
    x = np.array([zlib.crc32(item.encode()) for item in sorted(items)], dtype=np.uint64)
    return ((a * x + b) >> np.uint64(32)).min(axis=1).astype(np.uint32)


def candidate_probability(similarity: float, bands: int = 32, rows: int = 4) -> float:
    """P(two texts share a band) = 1 - (1 - s^rows)^bands (Leskovec et al. 2020, ch. 3.4)."""
    return 1 - (1 - similarity**rows) ** bands


def near_duplicates(
    texts: list[str], threshold: float = 0.8, bands: int = 32, rows: int = 4
) -> dict[int, int]:
    """{index of a later text: index of the first text that it nearly repeats}.

    Texts that share a band of their MinHash are compared by their true Jaccard similarity, so
    `threshold` is exact and only a pair whose bands all differ is missed.
    """
    sets = [shingles(text) for text in texts]
    buckets: dict[tuple[int, bytes], list[int]] = {}
    copies: dict[int, int] = {}
    for i, items in enumerate(sets):
        bands_of_i = enumerate(minhash(items, bands * rows).reshape(bands, rows))
        places = [buckets.setdefault((j, band.tobytes()), []) for j, band in bands_of_i]
        for first in sorted(set().union(*places)):
            if jaccard(items, sets[first]) >= threshold:
                copies[i] = first
                break
        else:
            for place in places:
                place.append(i)
    return copies


# --- the pipeline

STEPS: dict[str, Step] = {
    "markup": strip_markup,
    "normal form": normal_form,
    "width": fold_width,
    "signature": strip_signature,
    "emoji": emoji,
    "redaction": redact,
    "whitespace": whitespace,
}


def clean_text(text: str, steps: dict[str, Step] = STEPS) -> str:
    """A text after all steps, in their order."""
    for step in steps.values():
        text = step(text)
    return text


def texts(record: Record) -> list[str]:
    """All texts of a record: its messages, or the prompt's messages and the two answers."""
    if isinstance(record, Dialogue):
        return [message["content"] for message in record.messages]
    return [*(message["content"] for message in record.prompt), record.chosen, record.rejected]


def with_texts(record: Record, new: list[str]) -> Record | None:
    """The record with other texts, or None where they make no valid record (one is empty).

    Annotations by position (`spans`, `marked`) go when a text changed: they would point at
    other characters.
    """
    if new == texts(record):
        return record
    meta = {k: v for k, v in record.meta.items() if k not in ("spans", "marked")}
    turns = record.messages if isinstance(record, Dialogue) else record.prompt
    turns = [{**turn, "content": text} for turn, text in zip(turns, new)]
    try:
        if isinstance(record, Dialogue):
            return Dialogue(turns, meta)
        return Preference(turns, new[-2], new[-1], meta)
    except BadRecord:
        return None


def clean(
    records: Iterable[Record], steps: dict[str, Step] = STEPS, near: float | None = 0.8
) -> tuple[list[Record], pd.DataFrame]:
    """The records worth keeping, and a table of what was done: one row for each step.

    Columns: `step`, `changed` (texts), `dropped` (records). After the steps a record is dropped
    when a text of it became empty (or chosen equal to rejected), when it repeats another one
    exactly, or nearly (Jaccard similarity of at least `near`; None switches this off).
    """
    records, table = list(records), []
    rows = [texts(record) for record in records]
    for name, step in steps.items():
        new = [[step(text) for text in row] for row in rows]
        changed = sum(a != b for before, after in zip(rows, new) for a, b in zip(before, after))
        rows = new
        table.append((name, changed, 0))
    kept = [r for r in map(with_texts, records, rows) if r is not None]
    table.append(("empty", 0, len(records) - len(kept)))
    single = list({"\n".join(texts(record)): record for record in reversed(kept)}.values())[::-1]
    table.append(("exact duplicate", 0, len(kept) - len(single)))
    whole = ["\n".join(texts(record)) for record in single]
    copies = near_duplicates(whole, near) if near is not None else {}
    table.append(("near duplicate", 0, len(copies)))
    result = [record for i, record in enumerate(single) if i not in copies]
    return result, pd.DataFrame(table, columns=["step", "changed", "dropped"])
