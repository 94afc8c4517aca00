"""Answers that go out: the curve against counting, the confidence against one answer at a time."""

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chatlib.data import shop, template
from chatlib.evaluate import attribution, policy, rulers, selective
from chatlib.settings.stages import TinyModel
from chatlib.train import models, rollout


def test_the_curve_counts_who_is_right_above_each_threshold():
    rng = np.random.default_rng(0)
    scores, right = rng.normal(size=50), rng.random(50) < 0.7
    for row in selective.curve(scores, right).itertuples():
        out = scores >= row.threshold
        assert row.coverage == pytest.approx(out.mean())
        assert row.right == pytest.approx(right[out].mean())


def test_a_perfect_score_lets_all_right_answers_out_first():
    right = np.array([False, True, True, False])
    found = selective.curve(right.astype(float), right)
    assert found["right"].tolist() == [1, 1, pytest.approx(2 / 3), 0.5]


def test_verdicts_without_a_score_are_refused():
    with pytest.raises(ValueError, match="3 scores and 2 verdicts"):
        selective.curve([1.0, 2.0, 3.0], [True, False])


def test_pairs_in_order_are_counted_and_only_within_a_group():
    rng = np.random.default_rng(1)
    values, right = rng.integers(0, 6, 40), rng.random(40) < 0.6
    kind = rng.choice(["a", "b", "c"], 40)
    for group in (None, kind):
        pairs = [
            (values[i] > values[j]) + 0.5 * (values[i] == values[j])
            for i in range(40)
            for j in range(40)
            if right[i] and not right[j] and (group is None or kind[i] == kind[j])
        ]
        assert selective.in_order(values, right, group) == (sum(pairs), len(pairs))
    won, count = selective.in_order(values, right)
    assert won / count == pytest.approx(attribution.auc(values, right))
    shift = values + np.array([{"a": 50, "b": 0, "c": -7}[one] for one in kind])
    assert selective.in_order(shift, right, kind) == selective.in_order(values, right, kind)


@pytest.fixture(scope="module")
def small():
    texts = [m["content"] for d in shop.demonstrations(200) for m in d.messages]
    tokenizer = template.train_tokenizer(texts, 400)
    torch.manual_seed(0)
    tiny = TinyModel(hidden_size=32, intermediate_size=64, init_std=0.2)
    return models.tiny_policy(tiny, tokenizer).eval(), tokenizer


def test_an_answer_is_right_if_it_tells_all_and_nothing_else(small, monkeypatch):
    net, tokenizer = small
    cases = policy.scenarios(4)
    rng = Random(0)
    drawn = [[shop.answer(rng, case) for _ in range(60)] for case in cases]
    said = [next(shop.plain(t) for t, how in many if not how["flaws"]) for many in drawn]
    said[1] = "It costs 98765 euros."
    monkeypatch.setattr(rollout, "answer", lambda *given, **more: said)
    scorer = SimpleNamespace(score=lambda asked, texts: np.arange(len(texts)))
    table = selective.served(net, tokenizer, scorer, cases)
    assert table["right"].tolist() == [True, False, True, True]
    assert table[selective.LEARNT].tolist() == [0, 1, 2, 3] and (table[selective.OWN] < 0).all()


def test_confidence_is_the_mean_log_probability_of_the_answer_and_of_nothing_else(small):
    net, tokenizer = small
    dialogues = shop.demonstrations(7, seed=5)
    prompts, answers = [d.prompt for d in dialogues], [d.answer for d in dialogues]
    found = rulers.log_likelihood(net, tokenizer, prompts, answers, batch_size=3)
    for prompt, text, value in zip(prompts, answers, found):
        before = template.encode_prompts(tokenizer, [prompt])[0]
        own = template.encode_answers(tokenizer, [prompt], [text])[0]
        with torch.no_grad():
            logp = net(torch.tensor([before + own])).logits[0].log_softmax(-1)
        at = torch.arange(len(own)) + len(before) - 1
        assert own[-1] == tokenizer.eos_token_id
        assert value == pytest.approx(logp[at, own].mean().item(), abs=1e-4)
