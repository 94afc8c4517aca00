"""What the museum's experiment keeps of a run, and that a healthy start is under every mistake."""

from types import SimpleNamespace

import pandas as pd
import pytest

from chatlib.book import museum
from chatlib.book.experiments import museum as experiment
from chatlib.lab import recipe


def test_long_curves_are_thinned_to_means_and_missing_rows_left_out():
    steps = 4 * experiment.POINTS
    held_out = [1.0 if i % 10 == 9 else None for i in range(steps)]
    metrics = pd.DataFrame({"loss": range(steps), "held_out_loss": held_out})
    found = experiment.curves(SimpleNamespace(metrics=metrics), "sft")
    assert found["loss"][:2] == [1.5, 5.5] and len(found["loss"]) == experiment.POINTS
    assert found["held_out_loss"] == [1.0] * (steps // 10)


@pytest.mark.parametrize("name", museum.SHORT)
def test_other_seeds_start_from_the_same_models(name, monkeypatch):
    monkeypatch.setenv("CHATLIB_PROFILE", "laptop")
    first, *others = (museum.settings_of(name, seed) for seed in experiment.seeds_of(name))
    assert {first.seed, *(other.seed for other in others)} == {*experiment.seeds_of(name)}
    for other in others:
        assert other.model_copy(update={"seed": first.seed}) == first


@pytest.mark.parametrize("exhibit", museum.EXHIBITS, ids=lambda one: one.name)
def test_a_mistake_changes_no_model_that_its_run_starts_from(exhibit, monkeypatch):
    """A configuration is made before the mistake is in force: what it names is the healthy run."""
    monkeypatch.setenv("CHATLIB_PROFILE", "laptop")
    entered = []
    monkeypatch.setattr(experiment, "trained", lambda name: entered.append(name))
    monkeypatch.setattr(experiment, "launch", lambda config: config)
    config = experiment.launched(exhibit.config(), exhibit)
    healthy = recipe(exhibit.recipe)
    assert config.model == healthy.model
    assert entered == {"sft": [], "reward": ["sft"]}.get(config.stage, ["reward"])
