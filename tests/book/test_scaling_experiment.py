"""The experiment of chapter 9 keeps its rule: one pass, one held-out set, one thing at a time."""

from types import SimpleNamespace

import pytest

from chatlib.book.experiments import scaling


@pytest.fixture
def launched(monkeypatch):
    """The configurations that the experiment launches, in order."""
    found = []

    def launch(config):
        found.append(config)
        keys = ("tokens", "examples", "held_out_loss", "seconds")
        return SimpleNamespace(manifest=dict.fromkeys(keys, 1.0))

    monkeypatch.setattr(scaling, "launch", launch)
    monkeypatch.setattr(scaling, "part", lambda key, compute: compute())
    return found


def test_every_width_meets_every_amount_of_data_once(launched):
    cells = scaling.results()["cells"]
    assert {(c["width"], c["steps"]) for c in cells} == {
        (w, s) for w in scaling.WIDTHS for s in scaling.STEPS
    }
    assert len(cells) == 16 and len(launched) == 16 + 4 + 4


def test_no_dialogue_is_seen_twice_and_all_are_judged_on_the_same(launched):
    scaling.results()
    for config in launched:
        assert config.steps * config.batch_size <= config.records - config.held_out
    same = {(c.records, c.held_out, c.split) for c in launched}
    assert len(same) == 1


def test_the_schedule_ends_with_each_run_and_the_rate_follows_the_width():
    wide, narrow = scaling.config(128, 400), scaling.config(32, 400)
    assert narrow.learning_rate == pytest.approx(2 * wide.learning_rate)
    assert wide.learning_rate == scaling.RATE and wide.num_warmup_steps == 40
    assert scaling.config(128, 400, rate=0.5).learning_rate == scaling.RATE / 2


def test_weights_are_counted_without_the_embedding(launched):
    width, row = 32, scaling.cell(32, 64)
    block = 4 * width**2 + 3 * 2 * width**2 + 2 * width  # attention, feed-forward, two norms
    assert row["weights"] == 2 * block + width and row["embedding"] == 1536 * width
