"""Best of n against enumeration of all choices of n answers."""

import itertools
import math

import numpy as np
import pytest

from chatlib.evaluate import selection


def test_each_answer_counts_as_often_as_it_is_the_best_of_n():
    rng = np.random.default_rng(0)
    scores, values = rng.normal(size=(2, 3, 6))
    found = selection.best_of(scores, values, (1, 2, 4, 6))
    for prompt, n in itertools.product(range(3), (1, 2, 4, 6)):
        chosen = itertools.combinations(range(6), n)
        best = [values[prompt][max(some, key=lambda i: scores[prompt][i])] for some in chosen]
        assert found.loc[prompt, n] == pytest.approx(np.mean(best))


def test_chances_sum_to_one_and_the_best_of_all_is_the_best():
    for n in range(1, 8):
        assert selection.chance_to_be_best(7, n).sum() == pytest.approx(1)
    assert selection.chance_to_be_best(7, 7).tolist() == [0] * 6 + [1]


def test_equal_scores_do_not_look_at_the_values():
    values = np.array([[3.0, 1.0, 2.0]])
    tied = selection.best_of(np.zeros((1, 3)), values, (3,))
    assert tied.loc[0, 3] == 2.0  # the last drawn, whatever it is worth


def test_the_kl_is_that_of_the_best_of_n_equally_likely_answers_in_the_limit():
    m, n = 2000, 4  # of m answers the k-th worst is the best of n with p = (k/m)^n - ((k-1)/m)^n
    edges = (np.arange(m + 1) / m) ** n
    p = np.diff(edges)
    exact = float((p * np.log(p * m)).sum())
    assert selection.best_of_kl(n) == pytest.approx(exact, abs=1e-3)
    assert exact <= selection.best_of_kl(n) and selection.best_of_kl(1) == 0
    assert selection.best_of_kl(2) == pytest.approx(math.log(2) - 0.5)


def test_ties_lower_the_kl_to_that_of_the_distribution_that_is_kept():
    scores, n = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 2.0]), 3
    kept = np.zeros(6)  # equal scores by lot: of all ordered draws, an equal share to each best one
    for draw in itertools.product(range(6), repeat=n):
        best = [i for i in draw if scores[i] == max(scores[j] for j in draw)]
        for i in best:
            kept[i] += 1 / len(best) / 6**n
    exact = float((kept * np.log(kept * 6)).sum())
    assert selection.best_of_kl_drawn(scores[None], n) == pytest.approx(exact)
    assert exact < selection.best_of_kl(n)
    assert selection.best_of_kl_drawn(np.ones((2, 9)), n) == pytest.approx(0)
    many = np.random.default_rng(0).normal(size=(2, 4000))
    assert selection.best_of_kl_drawn(many, n) == pytest.approx(selection.best_of_kl(n), abs=2e-3)


def test_what_cannot_be_chosen():
    with pytest.raises(ValueError, match="n is 4; give 1 to 3"):
        selection.best_of(np.zeros((1, 3)), np.zeros((1, 3)), (1, 4))
    with pytest.raises(ValueError, match=r"both are \(prompts, answers\)"):
        selection.best_of(np.zeros((1, 3)), np.zeros((1, 2)), (1,))
    with pytest.raises(ValueError, match="n is 0"):
        selection.best_of_kl(0)
