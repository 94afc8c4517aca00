"""Stored figures say which code trained for them, and pages which runs and results they drew on."""

import json

import pytest

from chatlib import lab
from chatlib.lab import plots, stored_results
from chatlib.runs.store import Run


def test_what_is_kept_is_found_with_its_origin(tmp_path):
    kept = stored_results.keep("scaling", {"loss": [0.5]}, ("sft",), 12.34, tmp_path)
    found = stored_results.stored("scaling", tmp_path)
    assert found == kept and found.figures == {"loss": [0.5]} and found.seconds == 12.3
    assert found.changed == [] and found.provenance["cores"] >= 1
    (tmp_path / "gpu.json").write_text(json.dumps({"parts": {}}))  # of `make gpu`
    assert stored_results.everything(tmp_path) == [found]


def test_figures_of_other_code_say_which_stage_changed(tmp_path):
    stored_results.keep("scaling", {}, ("sft", "reward"), 1, tmp_path)
    path = tmp_path / "scaling.json"
    tree = json.loads(path.read_text())
    tree["code"]["reward"] = "0" * 64
    path.write_text(json.dumps(tree))
    assert stored_results.stored("scaling", tmp_path).changed == ["reward"]


def test_what_was_never_made_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"there are: none.*`make results museum`"):
        stored_results.stored("museum", tmp_path)


def test_what_is_no_figure_is_refused_by_its_place(tmp_path):
    with pytest.raises(ValueError, match=r"`scaling\.loss\[1\]`"):
        stored_results.keep("scaling", {"loss": [1.0, float("nan")]}, (), 1, tmp_path)


def finished(folder):
    folder.mkdir()
    manifest = {"status": "complete", "seed": 3, "seconds": 61.4, "code": {"train/sft.py": "ab"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Run(folder)


def test_a_card_names_seed_seconds_code_and_state(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_results.stored, "__defaults__", (tmp_path,))
    stored_results.keep("museum", {"seed_list": [0, 1]}, ("sft",), 60, tmp_path)
    card = lab.card(finished(tmp_path / "sft-1"), results=("museum",))
    table = card._repr_markdown_().splitlines()
    assert table[2].startswith("| run `sft-1` | 3 | 61 s |") and "| complete |" in table[2]
    assert "| 0, 1 | 60 s | sft " in table[3] and "| stored |" in table[3]
    assert "torch" in table[-1] and repr(card) == "runs of this build: 1; stored results: 1"


@pytest.mark.parametrize("here", plots._PIPELINE)
def test_the_pipeline_lights_one_chapter(here):
    texts = plots.pipeline(here, {here: "60 s"}).axes[0].texts
    lit = [t.get_text() for t in texts if t.get_color() == "white"]
    assert len(lit) == 1 and lit[0].startswith(here) and lit[0].endswith("60 s")
