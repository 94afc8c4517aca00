"""What the benchmarks share."""

import json

from compare import keep


def test_figures_that_were_not_measured_again_stay(tmp_path):
    path = tmp_path / "results.json"
    keep(path, {"sft": {"ratio": 1.8}, "ppo": {"ratio": 1.9}})
    keep(path, {"ppo": {"ratio": 2.0}})
    assert json.loads(path.read_text()) == {"sft": {"ratio": 1.8}, "ppo": {"ratio": 2.0}}
