"""Lists of token ids in, padded tensors and batches out.

Masks are made from lengths, never by looking for a pad id. Batches hold examples of similar
length, so that little is computed on padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def pad(rows: Sequence[Sequence[int]], value: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """(ids, mask), both (batch, longest row) and int64; mask is 1 on the rows' own tokens."""
    width = max(map(len, rows))

    def filled(row: Sequence[int], value: int) -> list[int]:
        gap = [value] * (width - len(row))
        return [*row, *gap] if side == "right" else [*gap, *row]

    ids = [filled(row, value) for row in rows]
    mask = [filled([1] * len(row), 0) for row in rows]
    return torch.tensor(ids, dtype=torch.long), torch.tensor(mask, dtype=torch.long)


def to_device(device: torch.device | str, *tensors: Tensor) -> list[Tensor]:
    """The tensors on a device; through pinned memory to a GPU, which need not wait for them."""
    if torch.device(device).type != "cuda":
        return [t.to(device) for t in tensors]
    return [t.pin_memory().to(device, non_blocking=True) for t in tensors]


def positions(mask: Tensor) -> Tensor:
    """Position of each token among its row's own: cumsum(mask) - 1, (batch, time).

    Padding on the left then shifts no position. Padded places get 0.
    """
    return (mask.cumsum(1) - 1).clamp(min=0)


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, bucket: int = 50
) -> list[list[int]]:
    """Indices of one pass over the data in batches of similar length, in random order.

    Examples are shuffled, sorted by length within groups of ``bucket`` batches, and the batches
    shuffled again. The remainder that fills no batch waits for the next epoch's shuffle.
    """
    rng = Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    order = order[: len(order) // batch_size * batch_size]
    size = batch_size * bucket
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    tidy = [i for group in groups for i in sorted(group, key=lambda j: lengths[j])]
    batches = [tidy[i : i + batch_size] for i in range(0, len(tidy), batch_size)]
    rng.shuffle(batches)
    return batches


class Batches:
    """The batch of any step, counted over all epochs, so that the data position is the step."""

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, report: Sequence[str] = ()
    ) -> None:
        """Raises `ValueError` when there are fewer examples than one batch holds.

        ``report`` says what became of the others, for that message.
        """
        self.lengths, self.batch_size, self.seed = list(lengths), batch_size, seed
        self.per_epoch = len(lengths) // batch_size
        self.epoch: tuple[int, list[list[int]]] = (-1, [])
        if not self.per_epoch:
            raise ValueError(
                f"{len(lengths)} examples do not fill one batch of {batch_size}; "
                "lower batch_size or give more data" + (f" ({'; '.join(report)})" if report else "")
            )

    def at(self, step: int) -> list[int]:
        """Indices of the examples of step 0, 1, 2, ..."""
        epoch, index = divmod(step, self.per_epoch)
        if self.epoch[0] != epoch:
            seed = self.seed + 1_000_003 * epoch
            self.epoch = (epoch, epoch_batches(self.lengths, self.batch_size, seed))
        return self.epoch[1][index]


def shard(batch: Sequence[T], rank: int, world: int) -> list[T]:
    """The part of a batch that a rank computes: every world-th example, so lengths stay even."""
    return list(batch[rank::world])


def equal_shard(batch: Sequence[T], rank: int, world: int) -> tuple[list[T], int]:
    """(`shard`, how many of it are its own): every rank gets as many examples as any other.

    A rank with one too few computes the batch's first example again, at the end of its share; the
    collectives of ZeRO stage 3 would otherwise wait for it. What it finds there must not count.
    """
    own = shard(batch, rank, world)
    return own + list(batch[: -(-len(batch) // world) - len(own)]), len(own)
