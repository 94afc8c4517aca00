"""Stored figures stay those of the code when their witnesses, computed again, are as stored."""

import sys
from types import SimpleNamespace

import pytest

from chatlib.book import experiments
from chatlib.lab import stored_results

FIGURES = {"arms": [{"gold": 1.25, "seconds": 9.0}, {"gold": 2.5, "seconds": 8.0}], "seeds": 2}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Figures of an experiment, measured by code that has changed since; what code gives here."""
    monkeypatch.setattr(stored_results, "fingerprint", lambda stage, corpora: "old")
    stored_results.keep("probing", FIGURES, ("sft",), 60, tmp_path)
    monkeypatch.setattr(stored_results, "fingerprint", lambda stage, corpora: "new")
    found = {"gold": 2.4, "seconds": 7.0}  # on another machine than the stored ones
    module = SimpleNamespace(witnesses=lambda: {("arms", 1): lambda: found})
    monkeypatch.setitem(sys.modules, "chatlib.book.experiments.probing", module)
    monkeypatch.setattr(experiments, "NAMES", ("probing",))
    before = {"arms.1": {"gold": 2.4, "seconds": 9.0}}
    monkeypatch.setattr(experiments, "at_commit", lambda commit, name: before)
    return SimpleNamespace(folder=tmp_path, now=found)


def test_equal_digits_are_confirmed_whatever_the_clock_said(kept):
    assert stored_results.stored("probing", kept.folder).changed == ["sft"]
    experiments.confirm("probing", at=kept.folder)
    found = stored_results.stored("probing", kept.folder)
    assert found.changed == [] and found.figures == FIGURES and found.seconds == 60
    assert found.provenance["confirmed"]["parts"] == ["arms.1"]
    assert found.provenance["cores"] >= 1


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"gold": 2.4000001}, r"probing\.arms\.1\.gold was 2\.4 and is 2\.4000001; `make results"),
        ({"length": 3}, r"probing\.arms\.1 was .* and is .*length"),
        ({"gold": [2.4]}, r"probing\.arms\.1\.gold was 2\.4 and is \[2\.4\]"),
    ],
)
def test_another_digit_is_named_and_nothing_is_written(kept, now, said):
    before = (kept.folder / "probing.json").read_bytes()
    kept.now.update(now)
    with pytest.raises(ValueError, match=said):
        experiments.confirm("probing", at=kept.folder)
    assert (kept.folder / "probing.json").read_bytes() == before


def test_a_commit_that_is_none_is_refused_and_leaves_no_work_tree():
    with pytest.raises(ValueError, match="invalid reference: no-such-commit"):
        experiments.at_commit("no-such-commit", "scaling")
    assert not (experiments.pages.BUILD / "confirm" / "tree").exists()


def test_the_place_of_a_difference_in_a_list():
    assert experiments.difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == (
        ".a[1].b was 2 and is 3"
    )
    assert experiments.difference([1, 2], [1]) == " was [1, 2] and is [1]"
    assert experiments.difference([1, 2], [1, 2]) == ""


def test_an_experiment_that_does_not_exist():
    with pytest.raises(ValueError, match="no experiment 'x'; use one of ppo"):
        experiments.confirm("x")


@pytest.mark.parametrize("found", stored_results.everything(), ids=lambda found: found.name)
def test_every_stored_experiment_names_witnesses_among_its_figures(found):
    import functools
    import importlib
    import operator

    module = importlib.import_module(f"chatlib.book.experiments.{found.name}")
    places = list(module.witnesses())
    assert places and all(functools.reduce(operator.getitem, p, found.figures) for p in places)
