"""Several answers in one row: what they have in common is read once, and none sees the others.

    row        common beginning | rest of the first | rest of the second | ...
    part              0                  1                   2
    position   0 .. n - 1       | n ..              | n ..               | ...

A token attends to part 0 and to its own part, so every figure is that of the answer alone, but for
the rounding of sums in another order. It needs a model whose forward takes positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatlib.data import collate

Rows = list[list[int]]


def side_by_side(
    groups: Sequence[Sequence[list[int]]], shared: Sequence[int]
) -> tuple[Rows, Rows, Rows]:
    """(ids, positions, parts), one row for each group of texts that begin alike.

    ``shared`` is how many tokens of a group's beginning are written once.
    """
    rows, positions, parts = [], [], []
    for texts, same in zip(groups, shared):
        row, position, part = list(texts[0][:same]), list(range(same)), [0] * same
        for i, text in enumerate(texts, start=1):
            row += text[same:]
            position += range(same, len(text))
            part += [i] * (len(text) - same)
        rows.append(row)
        positions.append(position)
        parts.append(part)
    return rows, positions, parts


def attended(parts: Rows) -> Tensor:
    """Which token attends to which, from the parts of right-padded rows. (batch, time, time)"""
    part = collate.pad(parts, -1)[0]
    own = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    return own.tril()


def ends(parts: Rows) -> Tensor:
    """1 at the last token of every part but the common one. (batch, time)"""
    part = collate.pad(parts, 0)[0]
    following = torch.cat([part[:, 1:], torch.zeros_like(part[:, :1])], dim=1)
    return ((part > 0) & (part != following)).long()
