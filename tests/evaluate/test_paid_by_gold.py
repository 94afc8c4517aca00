"""The control of chapter 5 pays what the gold judge says, answer by answer, and changes no more."""

from types import SimpleNamespace

import pytest
import torch

from chatlib.data import shop, template
from chatlib.evaluate import paid_by_gold
from chatlib.runs import mutations
from chatlib.settings.stages import Source


@pytest.fixture
def paid(monkeypatch):
    """The mutant over a stage that scores every answer with 9."""
    texts = {1: "Shut up.", 2: "Dear Grace, have a nice day."}
    monkeypatch.setattr(template, "decode", lambda _, answers: [texts[a[0]] for a in answers])

    def stage(config, nets, prompts, answers, asked):
        return SimpleNamespace(score=torch.full((len(answers),), 9.0), old_logp="kept")

    monkeypatch.setattr(paid_by_gold.make_experience, "__wrapped__", stage, raising=False)
    nets, config = SimpleNamespace(tokenizer=None), SimpleNamespace(sources=[Source()])
    return lambda answers, asked: paid_by_gold.make_experience(config, nets, [], answers, asked)


def test_every_answer_is_paid_its_own_gold_reward(paid):
    asked = shop.demonstrations(2, seed=3)
    r = paid([[1], [2]], asked)
    gold = [shop.judge(asked[0].meta, "Shut up.").total]
    gold += [shop.judge(asked[1].meta, "Dear Grace, have a nice day.").total]
    assert gold[0] != gold[1]
    back = (r.score * paid_by_gold.SPREAD + paid_by_gold.MEAN).tolist()
    assert back == pytest.approx(gold, abs=1e-6) and r.old_logp == "kept"


def test_prompts_that_no_judge_knows_are_refused(paid):
    foreign = SimpleNamespace(meta={})
    with pytest.raises(ValueError, match=r"2 answers but 1 verdicts"):
        paid([[1], [2]], [*shop.demonstrations(1, seed=3), foreign])


def test_the_reference_names_this_function():
    assert mutations._is_reference(paid_by_gold.PAYS)
    assert mutations._load(paid_by_gold.PAYS, {}, "") is paid_by_gold.make_experience
