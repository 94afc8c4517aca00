"""What an experiment cost is the sum of the calls that computed its parts."""

import pytest

from chatlib.book import experiments


@pytest.fixture
def clock(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(experiments, "PARTS", tmp_path)
    monkeypatch.setattr(experiments.time, "monotonic", lambda: now[0])
    return now


def test_a_call_that_was_stopped_counts_and_one_under_other_code_does_not(clock):
    with pytest.raises(KeyboardInterrupt), experiments.spent("x", {"sft": "a"}):
        clock[0] += 40
        raise KeyboardInterrupt
    with experiments.spent("x", {"sft": "a"}) as seconds:
        clock[0] += 2
    assert seconds() == 42
    with experiments.spent("x", {"sft": "b"}) as seconds:
        clock[0] += 5
    assert seconds() == 5
    with experiments.spent("y", {"sft": "b"}) as seconds:
        clock[0] += 1
    assert seconds() == 1
