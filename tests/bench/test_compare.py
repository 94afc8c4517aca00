"""What the benchmarks share."""

import json

from compare import Row, keep


def test_figures_that_were_not_measured_again_stay(tmp_path):
    path = tmp_path / "results.json"
    keep(path, {"sft": {"ratio": 1.8}, "ppo": {"ratio": 1.9}})
    keep(path, {"ppo": {"ratio": 2.0}})
    assert json.loads(path.read_text()) == {"sft": {"ratio": 1.8}, "ppo": {"ratio": 2.0}}


def test_a_cost_is_asked_to_be_small_and_a_speed_to_be_large():
    sides = dict(target=1.3, unit="launches", units=1, ours=[1.0, 1.0, 2.0], theirs=[1.5, 1.2, 2.4])
    assert Row("cost", **sides, at_most=True).ratio == 1.2
    assert Row("cost", **sides, at_most=True).reached
    assert not Row("speed", **sides).reached


def test_of_a_row_beside_nothing_is_asked():
    row = Row("beside", None, "tokens", 1, [2.0, 2.0], [1.0, 1.0])
    assert row.reached and row.figures()["target"] is None and row.ratio == 0.5
