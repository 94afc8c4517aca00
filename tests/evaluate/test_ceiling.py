"""The ceiling against a numerical optimiser, on distributions whose every answer is listed."""

import numpy as np
import pytest
from scipy import optimize, special

from chatlib.evaluate import ceiling


def best_by_search(rewards, kl):
    """Highest mean reward of any distribution over the listed answers within KL of uniform."""
    count = len(rewards)

    def room(z):
        return kl - special.xlogy(special.softmax(z), special.softmax(z) * count).sum()

    found = optimize.minimize(
        lambda z: -(special.softmax(z) * rewards).sum(),
        0.1 * rewards,
        constraints=[{"type": "ineq", "fun": room}],
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    return -found.fun


@pytest.mark.parametrize("kl", [0.1, 0.5, 1.2])
def test_no_distribution_within_the_kl_gets_more(kl):
    rewards = np.array([0.3, 2.0, -1.0, 1.1, 1.7, -0.4, 0.9])
    fine = ceiling.tilt(rewards[None], strengths=np.linspace(0, 8, 4000))
    assert float(ceiling.at_kl(fine, kl)) == pytest.approx(best_by_search(rewards, kl), abs=1e-3)


def test_one_strength_for_all_prompts_spends_the_kl_where_it_pays():
    rng = np.random.default_rng(1)
    rewards = np.stack([rng.normal(size=8) * 3, rng.normal(size=8) * 0.1])
    both = ceiling.tilt(rewards, strengths=np.linspace(0, 30, 6000))
    alone = [ceiling.tilt(row[None], strengths=np.linspace(0, 300, 6000)) for row in rewards]
    shared = float(ceiling.at_kl(both, 0.5))
    equal = np.mean([float(ceiling.at_kl(one, 0.5)) for one in alone])
    splits = [(k, 1 - k) for k in np.linspace(0.01, 0.99, 99)]
    best = max(
        np.mean([float(ceiling.at_kl(one, k)) for one, k in zip(alone, split)]) for split in splits
    )
    assert shared > equal + 0.1
    assert shared == pytest.approx(best, abs=0.01)


def test_samples_find_the_ceiling_of_the_distribution_they_are_drawn_from():
    rng = np.random.default_rng(2)
    p, worth = rng.dirichlet(np.ones(30), size=40), rng.normal(size=(40, 30))
    exact = ceiling.STRENGTHS
    kls, means = [], []
    for strength in exact:
        q = p * np.exp(strength * worth)
        q /= q.sum(1, keepdims=True)
        kls.append(special.xlogy(q, q / p).sum(1).mean())
        means.append((q * worth).sum(1).mean())
    drawn = np.stack([w[rng.choice(30, size=400, p=row)] for w, row in zip(worth, p)])
    found = ceiling.interval_at(ceiling.tilt(drawn), 0.5)
    assert found.value == pytest.approx(np.interp(0.5, kls, means), abs=0.05)
    assert found.low < found.value < found.high


def test_without_tilt_everything_is_as_it_was_drawn():
    rewards, values = np.random.default_rng(3).normal(size=(2, 5, 9))
    found = ceiling.tilt(rewards, values, [0.0])
    assert found.kl == pytest.approx(0)
    assert found.worth[:, 0] == pytest.approx(values.mean(1))
    assert found.effective == pytest.approx(9)


def test_more_kl_never_lowers_what_is_tilted_for_and_leaves_fewer_answers():
    rewards = np.random.default_rng(4).normal(size=(20, 50))
    found = ceiling.tilt(rewards)
    assert (np.diff(found.worth.mean(0)) >= -1e-12).all()
    assert (np.diff(found.kl.mean(0)) >= -1e-12).all()
    assert (np.diff(found.effective.mean(0)) <= 1e-9).all()
    assert np.isnan(ceiling.at_kl(found, 100.0)) and np.isnan(ceiling.effective_at(found, 100.0))


def test_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"rewards \(2, 3\) and values \(2, 4\)"):
        ceiling.tilt(np.zeros((2, 3)), np.zeros((2, 4)))
