"""Disjoint parts of a corpus, decided by what a prompt says and not by where it stands.

A prompt's content hash decides its part: every copy of a prompt lands on the same side, and
records that are added later move none of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from chatlib.data.schema import Record, content_hash

STAGES = ("sft", "reward", "ppo")


def _place(prompt: list[dict], salt: str) -> float:
    """A number in [0, 1), uniform over prompts and equal for equal prompts."""
    digest = hashlib.sha256(f"{salt}:{content_hash(prompt)}".encode()).hexdigest()
    return int(digest[:13], 16) / 16**13


def stage_of(
    prompt: list[dict], shares: tuple[float, float, float] = (2, 4, 4), seed: int = 0
) -> str:
    """The stage that a prompt belongs to, in proportion to `shares` (DeepSpeed-Chat's data_split).

    Raises `ValueError` for shares that are no proportion.
    """
    if len(shares) != len(STAGES) or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"split shares {shares}: give three numbers of 0 or more, not all 0")
    edges = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares))]
    place = _place(prompt, f"split {seed}")
    return next(stage for stage, edge in zip(STAGES, edges) if place < edge)


def split(
    records: Iterable[Record], shares: tuple[float, float, float] = (2, 4, 4), seed: int = 0
) -> dict[str, list[Record]]:
    """Parts for the three stages, which hold different prompts; see `stage_of`."""
    parts: dict[str, list[Record]] = {stage: [] for stage in STAGES}
    for record in records:
        parts[stage_of(record.prompt, shares, seed)].append(record)
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
        groups.setdefault(_place(record.prompt, f"hold out {seed}"), []).append(i)
    taken: set[int] = set()
    for place in sorted(groups):
        if len(taken) + len(groups[place]) <= n:
            taken.update(groups[place])
        if len(taken) == n:
            break
    train = [record for i, record in enumerate(records) if i not in taken]
    return train, [records[i] for i in sorted(taken)]


def fingerprint(sources: Iterable[object]) -> str:
    """sha256 over what the sources hold: files' bytes, a folder's files, `shop`'s program.

    A source is a name or has a `.name`. Of a hub data set only the name and revision are known
    without a download, so they stand for it. Raises `FileNotFoundError` naming the source.
    """
    digest = hashlib.sha256()
    for source in sources:
        name = str(source if isinstance(source, str | Path) else source.name)
        for file in _files(name):
            content = file.read_bytes()
            digest.update(len(content).to_bytes(8, "big") + content)
        if name.startswith("hub:"):
            digest.update(name.encode())
    return digest.hexdigest()


def _files(name: str) -> list[Path]:
    """The local files behind a source. Raises `FileNotFoundError`."""
    here, path = Path(__file__).parent, Path(name.removeprefix("hub:"))
    if name == "shop":
        return [here / "shop.py", here / "shop_text.py"]
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    if not path.is_file() and not name.startswith("hub:"):
        raise FileNotFoundError(f"{name}: no such file; check the name and the folder")
    return [path] if path.is_file() else []
