"""Padding, positions, batches and shares, for any lengths."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatlib.data import collate

rows = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=6)


@given(rows, st.sampled_from(["right", "left"]), st.integers(0, 9))
def test_padded_rows_come_back_through_the_mask_even_when_the_pad_is_one_of_their_ids(
    some, side, pad
):
    ids, mask = collate.pad(some, pad, side)
    assert ids.shape == mask.shape == (len(some), max(map(len, some)))
    assert [i[m.bool()].tolist() for i, m in zip(ids, mask)] == some
    assert (ids[mask == 0] == pad).all()
    edge = mask[:, 0] if side == "right" else mask[:, -1]
    assert edge.all()


def test_padding_by_hand():
    ids, mask = collate.pad([[5, 6], [7]], 0, "left")
    assert ids.tolist() == [[5, 6], [0, 7]] and mask.tolist() == [[1, 1], [0, 1]]
    ids, mask = collate.pad([[5, 6], [7]], 0)
    assert ids.tolist() == [[5, 6], [7, 0]] and mask.tolist() == [[1, 1], [1, 0]]


@given(rows)
def test_positions_do_not_depend_on_the_side_of_the_padding(some):
    for side in ("left", "right"):
        _, mask = collate.pad(some, 0, side)
        found = [p[m.bool()].tolist() for p, m in zip(collate.positions(mask), mask)]
        assert found == [list(range(len(row))) for row in some]
    assert collate.positions(torch.zeros(1, 3, dtype=torch.long)).tolist() == [[0, 0, 0]]


sizes = st.tuples(
    st.lists(st.integers(1, 99), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 5)
)


@given(sizes)
def test_an_epoch_takes_every_example_at_most_once_in_full_batches(drawn):
    lengths, size, seed = drawn
    batches = collate.epoch_batches(lengths, size, seed)
    taken = [i for batch in batches for i in batch]
    assert all(len(batch) == size for batch in batches)
    assert len(set(taken)) == len(taken) == len(lengths) // size * size
    assert set(taken) <= set(range(len(lengths)))
    assert batches == collate.epoch_batches(lengths, size, seed)


def test_batches_hold_similar_lengths_and_come_in_no_order_of_length():
    lengths = [1 + i % 100 for i in range(2000)]
    batches = collate.epoch_batches(lengths, 20, seed=1)
    waste = sum(max(lengths[i] for i in b) * 20 - sum(lengths[i] for i in b) for b in batches)
    assert waste < 0.05 * sum(lengths)
    longest = [max(lengths[i] for i in b) for b in batches]
    assert longest != sorted(longest) and batches != collate.epoch_batches(lengths, 20, seed=2)


@given(sizes, st.integers(0, 40))
def test_a_step_names_the_same_batch_however_it_is_reached(drawn, step):
    """The data position of a resumed run is its step alone."""
    lengths, size, seed = drawn
    if len(lengths) < size:
        return
    forward, direct = (collate.Batches(lengths, size, seed) for _ in range(2))
    assert [forward.at(s) for s in range(step + 1)][-1] == direct.at(step)


def test_each_epoch_has_an_order_of_its_own():
    batches = collate.Batches([1] * 32, 4, seed=0)
    first, second = ([batches.at(e * 8 + s) for s in range(8)] for e in range(2))
    assert first != second and sorted(chain(*first)) == sorted(chain(*second)) == list(range(32))


def test_too_few_examples_for_one_batch():
    with pytest.raises(ValueError, match=r"3 examples do not fill one batch of 4; lower batch_"):
        collate.Batches([1, 2, 3], 4, seed=0)


@given(st.lists(st.integers(), max_size=40), st.integers(1, 8))
def test_shares_are_disjoint_and_complete(batch, world):
    parts = [collate.shard(batch, rank, world) for rank in range(world)]
    assert sorted(chain(*parts)) == sorted(batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    whole = [None] * len(batch)
    for rank, part in enumerate(parts):
        whole[rank::world] = part
    assert whole == batch


@pytest.mark.parametrize("n", [1, 4, 5, 7])
def test_equal_shards_are_of_equal_length_and_their_repeats_are_told(n):
    items, world = list(range(n)), 3
    shards = [collate.equal_shard(items, rank, world) for rank in range(world)]
    assert len({len(own) for own, _ in shards}) == 1
    assert sorted(i for own, real in shards for i in own[:real]) == items
