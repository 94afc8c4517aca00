"""Splits: disjoint in prompts, in proportion, and stable."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data.readers import read
from chatlib.data.schema import Dialogue, Preference, content_hash
from chatlib.data.split import hold_out, split


def asked(question, answer="Yes."):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Dialogue(turns)


RECORDS = [asked(f"question {i}") for i in range(3000)]


def prompts(records):
    return {content_hash(record.prompt) for record in records}


def test_parts_are_disjoint_complete_and_in_proportion():
    parts = split(RECORDS)
    assert list(parts) == ["sft", "reward", "ppo"]
    assert sum(map(len, parts.values())) == len(RECORDS)
    assert not prompts(parts["sft"]) & prompts(parts["reward"])
    # 4 standard deviations of a binomial draw
    for part, share in zip(parts.values(), (0.2, 0.4, 0.4)):
        assert abs(len(part) - 3000 * share) < 4 * (3000 * share * (1 - share)) ** 0.5


def test_added_records_move_no_other():
    before, after = split(RECORDS[1000:]), split(RECORDS)
    for stage in before:
        assert prompts(before[stage]) <= prompts(after[stage])


def test_one_prompt_one_part_whatever_the_kind_of_record():
    question = [{"role": "user", "content": "q"}]
    records = [asked("q", "a"), asked("q", "b"), Preference(question, "a", "b")]
    assert sorted(map(len, split(records).values())) == [0, 0, 3]


def test_the_seed_and_the_shares_matter():
    assert split(RECORDS, seed=1) != split(RECORDS)
    assert len(split(RECORDS, (1, 0, 0))["sft"]) == len(RECORDS)
    with pytest.raises(ValueError, match="not all 0"):
        split(RECORDS, (0, 0, 0))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.integers(0, 59), st.integers(0, 5))
def test_hold_out_never_puts_a_prompt_on_both_sides(questions, n, seed):
    records = [asked(str(q), str(i)) for i, q in enumerate(questions)]
    if n >= len(records):
        with pytest.raises(ValueError, match=f"held_out {n} of {len(records)} records"):
            hold_out(records, n, seed)
        return
    train, held = hold_out(records, n, seed)
    assert len(held) <= n and len(train) + len(held) == len(records)
    assert not prompts(train) & prompts(held)


def test_hold_out_takes_exactly_n_of_distinct_prompts_and_is_no_part_of_split():
    train, held = hold_out(RECORDS, 256)
    assert (len(train), len(held)) == (2744, 256)
    assert all(len(part) > 20 for part in split(held).values())
    assert hold_out(RECORDS, 256, seed=1)[1] != held
    assert hold_out(RECORDS, 0) == (RECORDS, [])


def test_real_records_split_without_overlap(real):
    parts = split(read(real / "dpo_en_demo.json").records)
    assert sum(map(len, parts.values())) == 299
    stages = [prompts(part) for part in parts.values()]
    assert len(set.union(*stages)) == sum(map(len, stages))
