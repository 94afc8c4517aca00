"""One more iteration of PPO, looked at token by token, on tiny models."""

import pytest
import torch
from tiny_export_model import finished_ppo
from torch.testing import assert_close

from chatlib.evaluate import lens
from chatlib.maths import policy as maths

BETA, ANSWERS = 0.3, 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_ppo(tmp_path_factory.mktemp("lens"), BETA, ANSWERS)


@pytest.fixture(scope="module")
def one(run):
    return lens.iteration(run, answers=ANSWERS, others=16)


def test_rewards_are_those_that_the_returns_were_made_of(run, one):
    r = one.rollout
    _, returns = maths.gae(one.rewards, r.values, r.mask, run.config["gamma"], run.config["lam"])
    assert_close(returns, r.returns)
    charged = r.score.clamp(-5, 5) - (~r.ended).float()
    charged = charged - BETA * ((r.old_logp - r.ref_logp) * r.mask).sum(1)
    assert_close(one.rewards.sum(1), charged)
    assert (r.values * r.mask).abs().sum() > 0, "the critic has learnt something"


def test_a_token_is_clipped_where_its_advantage_has_had_its_share(run, one):
    A, c, m = one.rollout.advantages, run.config["cliprange"], one.rollout.mask.bool()
    up, down = (A > 0) & (one.ratio > 1 + c), (A < 0) & (one.ratio < 1 - c)
    assert torch.equal(one.clipped, (up | down) & m)
    assert 0 < one.clip_fraction < 1
    assert one.clip_fraction == pytest.approx(one.clipped.sum().item() / m.sum().item())


def test_the_policy_that_wrote_the_answers_stays(run, one):
    model = lens.networks(lens.parse(run.config), run.reference).actor.state_dict()
    for name, weight in one.nets.actor.state_dict().items():
        assert torch.equal(weight, model[name])


def test_figures_of_tokens_are_sums_over_the_vocabulary(one):
    found, said = lens.tokens(one, 2), one.rollout.answers[2]
    assert {len(column) for column in found.values()} == {len(said)}
    row = torch.tensor([one.rollout.rows[2]])
    with torch.no_grad():
        p, q = (
            net.model(row).logits[0, -len(said) - 1 : -1].double().softmax(-1)
            for net in (one.nets.actor, one.nets.reference)
        )
    for t, token in enumerate(said):
        assert found["logp"][t] == pytest.approx(p[t, token].log().item(), abs=1e-3)
        assert found["ref"][t] == pytest.approx(q[t, token].log().item(), abs=1e-3)
        kl = sum(a * (a / b).log() for a, b in zip(p[t], q[t])).item()
        assert found["kl"][t] == pytest.approx(kl, abs=1e-3)
        assert found["entropy"][t] == pytest.approx(-(p[t] * p[t].log()).sum().item(), abs=1e-3)
        likely = [i for i in p[t].argsort(descending=True).tolist() if i != token]
        expected = [p[t, i].item() for i in likely[: lens.ALTERNATIVES]]
        assert [x for _, x in found["others"][t]] == pytest.approx(expected, abs=1e-4)


def test_a_seed_decides_and_nobody_else_s_draws_move(run, one):
    before = torch.get_rng_state()
    again = lens.iteration(run, answers=ANSWERS, others=16)
    assert torch.equal(before, torch.get_rng_state())
    assert again.rollout.answers == one.rollout.answers
    assert torch.equal(again.ratio, one.ratio)
