"""Figures reach the file that the environment names, merged and never half written."""

import json
import subprocess
import sys

import numpy as np
import pytest

from chatlib.lab import results


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "figures" / "results.json"
    monkeypatch.setenv(results.VARIABLE, str(path))
    return path


def test_dotted_keys_become_groups(file):
    results.record({"sft.grounded": 0.87, "sft.seconds": 110})
    assert json.loads(file.read_text()) == {"sft": {"grounded": 0.87, "seconds": 110}}


def test_later_figures_join_and_replace_earlier_ones(file):
    results.record({"sft.grounded": 0.5, "sft.seconds": 110})
    results.record({"sft.grounded": 0.87, "ppo.seeds": [{"gain": 1.2}]})
    assert results.read(file) == {
        "sft": {"grounded": 0.87, "seconds": 110},
        "ppo": {"seeds": [{"gain": 1.2}]},
    }


def test_returns_the_figures_and_writes_nothing_when_not_asked(tmp_path, monkeypatch):
    monkeypatch.delenv(results.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert results.record({"sft.grounded": 0.87}) == {"sft.grounded": 0.87}
    assert not list(tmp_path.iterdir())


def test_numpy_scalars_are_numbers(file):
    results.record({"a": np.float32(0.5), "b": [np.int64(3)]})
    assert results.read(file) == {"a": 0.5, "b": [3]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), np.zeros(2)])
def test_what_is_no_figure_is_refused_and_nothing_is_written(file, value):
    with pytest.raises(ValueError, match=r"`ppo\.gain` is .*, not a figure"):
        results.record({"ppo.gain": value})
    assert not file.exists()


def test_a_figure_cannot_also_be_a_group(file):
    results.record({"sft.seconds": 3})
    with pytest.raises(ValueError, match="both a figure and a group"):
        results.record({"sft.seconds.launch": 3})
    assert results.read(file) == {"sft": {"seconds": 3}}


def test_leaves_no_temporary_file(file):
    results.record({"a": 1})
    assert {path.name for path in file.parent.iterdir()} == {"results.json", ".results.json.lock"}


def test_two_processes_that_record_at_once_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(results.VARIABLE, str(tmp_path / "results.json"))
    code = (
        "import sys; from chatlib.lab.results import record\n"
        "for i in range(40): record({f'{sys.argv[1]}.n{i}': i})"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b")]
    assert [process.wait(60) for process in started] == [0, 0]
    found = results.read(tmp_path / "results.json")
    assert {name: len(group) for name, group in found.items()} == {"a": 40, "b": 40}
