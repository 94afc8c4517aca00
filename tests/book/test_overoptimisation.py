"""Over-optimisation's summary on curves that are known: what holds is found, noise is not."""

import itertools

import numpy as np
import pytest

from chatlib.book import readme
from chatlib.book.experiments import overoptimisation as experiment
from chatlib.evaluate.frontier import best_of_n_kl, curve, distance
from chatlib.lab import recipe, stored, stored_results

T = 160


def arms(lift=0.0, noise=0.0):
    """Runs along d (3 - d) from gold 2; a penalised one stops at a smaller d, ``lift`` above."""
    rng, made = np.random.default_rng(0), []
    for which in itertools.product(experiment.GROUPS, experiment.BETAS, experiment.SEEDS):
        furthest = 2.4 / (1 + 2 * which[1])
        d = np.linspace(0, 1, T) ** 0.5 * furthest
        gold = 2 + curve(d, 3.0, 1.0, "linear") + (lift if which[1] else 0)
        curves = {
            "step": list(range(1, T + 1)),
            "score": (3 * d).tolist(),
            "gold": (gold + rng.normal(0, noise, T)).tolist(),
            "kl": (d * d).tolist(),
        }
        names = ("group", "beta", "seed")
        made.append({**dict(zip(names, which)), "curves": curves})
    return made


def drawn():
    kl = best_of_n_kl(experiment.SIZES)
    gold = 2 + curve(distance(kl), 1.0, 0.1, "linear")
    rows = {"gold": [{"value": value} for value in gold.tolist()]}
    return {"kl": kl.tolist(), **dict.fromkeys(experiment.REWARD_MODELS, rows)}


def test_a_penalty_that_only_stops_early_is_told_from_one_that_lifts_the_frontier():
    same, lifted = (experiment.summary(arms(x, 0.2), drawn(), 2.0)["matched"] for x in (0, 0.5))
    assert same["verdict"]["low"] < 0 < same["verdict"]["high"]
    assert lifted["verdict"]["low"] > 0.3
    assert lifted["verdict"]["n"] == len(experiment.GROUPS) * len(experiment.SEEDS)


def test_the_form_that_the_curves_have_is_found():
    fits = experiment.summary(arms(), drawn(), 2.0)["fits"]
    found = fits["weak"]["all"]
    assert found["linear"]["r2"] > 0.99 > found["log"]["r2"]
    assert fits["best of n, weak"]["all"]["linear"] == pytest.approx(
        {"a": 1.0, "b": 0.1, "r2": 1.0}, abs=1e-3
    )


def test_early_stopping_is_chosen_on_the_other_seeds():
    made = arms()
    for arm in made:
        if arm["beta"] == 0 and arm["seed"] == 0:
            arm["curves"]["gold"] = [9.0 if t == 5 else 0.0 for t in range(T)]  # its own peak
    found = experiment.summary(made, drawn(), 2.0)["early_stopping"]["weak"]
    peak = 1 + int(np.abs(np.linspace(0, 1, T) ** 0.5 * 2.4 - 1.5).argmin())
    assert found["step"][0] == pytest.approx(peak, abs=3)
    assert found["gold"][0] == 0


def test_a_run_beyond_the_free_one_is_left_out():
    made = arms()
    for arm in made:
        if arm["beta"] == 0.05 and arm["seed"] == 1:
            arm["curves"]["kl"] = [4 * kl for kl in arm["curves"]["kl"]]
    rows = experiment.summary(made, drawn(), 2.0)["matched"]["rows"]
    left = {(row["beta"], row["seed"]) for row in rows}
    assert (0.05, 1) not in left and (0.05, 0) in left


def test_an_arm_differs_from_chapter_5_in_what_is_named(home):
    chapter = recipe("ppo").model_dump()
    for group, rates in {"weak": set(), "weak, fast": {"actor", "critic"}}.items():
        own = experiment.settings(group, 0.2, 2).model_dump()
        different = {name for name in own if own[name] != chapter[name]}
        named = {"reward_model", "kl_ctl", "steps", "seed", "lr_scheduler_type"}
        assert different == named | {f"{role}_learning_rate" for role in rates}


def test_what_the_readme_quotes_is_the_fast_arms_change_from_the_start():
    made = arms()
    for arm in made:
        worth = {"weak": 3.0, "strong": 4.0, "weak, fast": 1.0 + arm["beta"]}[arm["group"]]
        names = ("gold", "weak_score", "strong_score")
        arm["final"] = {name: {"value": worth + 0.1 * arm["seed"]} for name in names}
    start = {name: {"value": 2.0} for name in ("gold", "weak_score", "strong_score")}
    found = experiment.headline(made, start)
    assert found["gold_change"] == pytest.approx(-0.9)
    assert found["control_gold_change"] == pytest.approx(-0.4)
    assert all(row["gold"]["n"] == len(experiment.SEEDS) for row in found["changes"])


def test_what_the_readme_quotes_is_in_the_stored_figures():
    """A group that is renamed would make a row vanish from the README without a sound."""
    figures = {"overoptimisation": stored("overoptimisation").figures}
    keys = [key for _, key, *_ in readme.ROWS if key.startswith("overoptimisation.")]
    assert len(keys) == 3 and all(readme.at(figures, key) is not None for key in keys)


def test_a_computation_that_is_replaced_leaves_its_verdict(tmp_path):
    """Two computations with the same settings have disagreed; the second alone would not tell."""
    one, two = ({"value": x, "low": x - 0.1, "high": x + 0.1, "n": 9} for x in (0.0, 0.2))
    assert experiment.earlier(one, tmp_path) == []
    accuracy = {"weak": {"value": 0.6}}
    figures = {"accuracy": accuracy, "matched": {"verdict": one, "groups": {"weak": one}}}
    stored_results.keep("overoptimisation", figures, ("sft",), 1.0, tmp_path)
    assert experiment.earlier(one, tmp_path) == []  # the same, computed again
    (left,) = experiment.earlier(two, tmp_path)
    assert (left["verdict"], left["groups"], left["accuracy"]) == (one, {"weak": one}, 0.6)
    figures |= {"earlier": [left], "matched": {"verdict": two, "groups": {"weak": two}}}
    stored_results.keep("overoptimisation", figures, ("sft",), 1.0, tmp_path)
    assert [one["accuracy"] for one in experiment.earlier(one, tmp_path)] == [0.6, 0.6]
