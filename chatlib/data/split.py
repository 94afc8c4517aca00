"""Disjoint parts of a corpus, decided by what a prompt says and not by where it stands.

A prompt's content hash decides its part: every copy of a prompt lands on the same side, and
records that are added later move none of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from chatlib.data.schema import Record, content_hash

PARTS = ("sft", "reward", "ppo")  # named after the stages for which they were first made


def _fraction(prompt: list[dict], salt: str) -> float:
    """A number in [0, 1), uniform over prompts and equal for equal prompts."""
    digest = hashlib.sha256(f"{salt}:{content_hash(prompt)}".encode()).hexdigest()
    return int(digest[:13], 16) / 16**13


def part_of(
    prompt: list[dict], shares: tuple[float, float, float] = (2, 4, 4), seed: int = 0
) -> str:
    """The part that a prompt belongs to, in proportion to `shares` (DeepSpeed-Chat's data_split).

    Raises `ValueError` for shares that are no proportion.
    """
    if len(shares) != len(PARTS) or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"split shares {shares}: give three numbers of 0 or more, not all 0")
    edges = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares))]
    fraction = _fraction(prompt, f"split {seed}")
    return next(part for part, edge in zip(PARTS, edges) if fraction < edge)


def split(
    records: Iterable[Record], shares: tuple[float, float, float] = (2, 4, 4), seed: int = 0
) -> dict[str, list[Record]]:
    """Parts that hold different prompts; see `part_of`. A stage says which one it trains on."""
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for record in records:
        parts[part_of(record.prompt, shares, seed)].append(record)
    return parts


def hold_out(records: list[Record], n: int, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """(train, held_out): at most `n` records held out, all those of each prompt together.

    The prompts with the smallest hashes are taken while they fit. Raises `ValueError` when
    nothing would be left to train on.
    """
    if n and n >= len(records):
        raise ValueError(
            f"held_out {n} of {len(records)} records leaves none to train on; "
            "lower held_out or give more records"
        )
    groups: dict[float, list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault(_fraction(record.prompt, f"hold out {seed}"), []).append(i)
    taken: set[int] = set()
    for fraction in sorted(groups):
        if len(taken) + len(groups[fraction]) <= n:
            taken.update(groups[fraction])
        if len(taken) == n:
            break
    train = [record for i, record in enumerate(records) if i not in taken]
    return train, [records[i] for i in sorted(taken)]
