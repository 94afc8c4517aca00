"""Figures of executed pages end in one file, with seconds and where they were measured."""

from pathlib import Path

from chatlib.book import __main__ as command
from chatlib.lab import results, stored_results


def test_figures_of_pages_join_those_of_earlier_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(command.pages, "ROOT", tmp_path)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(
        command.pages, "notebooks", lambda: [Path("01_a.ipynb"), Path("02_b.ipynb")]
    )
    kept = stored_results.Stored("bands", {"seeds": 3}, {}, 1.0, {})
    monkeypatch.setattr(command.stored_results, "everything", lambda: [kept])
    results.write(tmp_path / "results.json", {"ppo": {"seeds": [1]}, "sft": {"grounded": 0.1}})
    results.write(tmp_path / "pages" / "results.json", {"sft": {"grounded": 0.9}})
    command.gather({"01_a": 2.0, "02_b": 3.5}, tmp_path / "pages")
    written = results.read(tmp_path / "results.json")
    assert written["sft"] == {"grounded": 0.9} and written["ppo"] == {"seeds": [1]}
    assert written["bands"] == {"seeds": 3}  # stored figures are there without being executed
    assert written["book"] == {"seconds": 5.5, "pages": {"01_a": 2.0, "02_b": 3.5}}
    command.gather({"01_a": 1.0}, tmp_path / "pages")
    written = results.read(tmp_path / "results.json")
    assert written["book"] == {"seconds": 5.5, "pages": {"01_a": 1.0, "02_b": 3.5}}
    assert {"cpu", "cores", "commit", "versions", "date"} <= set(written["provenance"]["book"])
