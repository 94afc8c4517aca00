"""The measurement that waits for an accelerator, on the CPU with a small model."""

import accelerator
import pytest


@pytest.mark.launch
@pytest.mark.timeout(300)
def test_the_gpu_profile_runs_its_three_stages_and_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "FOLDER", tmp_path / "accelerator")
    monkeypatch.setattr(accelerator.pages, "ROOT", tmp_path)
    monkeypatch.setenv("CHATLIB_RUNS", "")
    asked = ["--shape", "tiny", "--steps", "2", "--batch", "8", "--peak", "0.5"]
    found = accelerator.main(asked)["stages"]
    assert list(found) == ["sft", "reward", "ppo"]
    for figures in found.values():
        assert figures["tokens_per_second"] > 0 and figures["peak_resident_gib"] > 0.1
        assert figures["mfu"] == pytest.approx(figures["tflops"] / 0.5, abs=2e-3)
    assert 0 < found["ppo"]["generation_share"] < 1
