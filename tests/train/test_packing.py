"""Several answers in one row: each figure is that of the answer alone, whatever stands beside."""

import pytest
import tiny_stages as tiny
import torch
from one_iteration import Setting
from pydantic import ValidationError

from chatlib.settings.stages import Lora
from chatlib.train import models, packing, ppo, rollout

SHARED = dict(
    batch_size=4, answers_per_prompt=4, advantage="rloo", minibatches=2, share_prompts=True
)


@pytest.fixture
def config(policy, scorer):
    return lambda **changes: tiny.ppo(policy.model_dir, scorer.model_dir, **SHARED | changes)


@pytest.fixture
def both(config, tmp_path):
    """The rollout of sixteen answers to four prompts, read together and apart, with its models."""
    drawn, found = None, []
    for name, share in (("together", True), ("apart", None)):
        asked = config(share_prompts=share, advantage="gae", critic_init="reward")
        setting = Setting(asked, tmp_path / name, rows=4)
        setting.prompts = [p for p in setting.prompts for _ in range(4)]
        drawn = drawn or rollout.sample(
            setting.actor.module.model, setting.prompts, 12, setting.eos, setting.pad
        )
        setting.answers = drawn
        found.append((setting, setting.experience()))
    return found


def test_a_row_holds_the_beginning_once():
    rows, positions, parts = packing.side_by_side(
        [[[1, 2, 3, 4], [1, 2, 5]], [[7, 8], [7, 9]]], [2, 1]
    )
    assert rows == [[1, 2, 3, 4, 5], [7, 8, 9]]
    assert positions == [[0, 1, 2, 3, 2], [0, 1, 1]]
    assert parts == [[0, 0, 1, 1, 2], [0, 1, 2]]
    assert packing.ends(parts).tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]


def test_no_answer_sees_another():
    seen = packing.attended([[0, 0, 1, 1, 2], [0, 1, 2]])
    for row, parts in zip(seen, ([0, 0, 1, 1, 2], [0, 1, 2])):
        for i, own in enumerate(parts):
            wanted = [j <= i and other in (0, own) for j, other in enumerate(parts)]
            assert row[i, : len(parts)].tolist() == wanted
        assert row.any(1).all()  # a place that attends to nothing would be NaN


@pytest.mark.parametrize("name", ["old_logp", "ref_logp", "values", "entropy", "score"])
def test_the_figures_are_those_of_answers_read_apart(both, name):
    (_, together), (_, apart) = both
    assert together.together == 4 and apart.together == 1
    found, wanted = getattr(together, name), getattr(apart, name)
    assert wanted.abs().sum() > 0 and torch.allclose(found, wanted, atol=1e-5)


def test_so_are_the_gradients(both):
    grads = []
    for setting, r in both:
        ppo.add_advantages(setting.config, r, beta=0.05)
        loss, _ = ppo.actor_loss(
            setting.config, setting.actor.module, r, setting.pad, torch.tensor(100.0), 0.05
        )
        value, _ = ppo.critic_loss(
            setting.config, setting.critic.module, r, setting.pad, torch.tensor(100.0)
        )
        (loss + value).backward()
        nets = (setting.actor.module, setting.critic.module)
        grads.append(torch.cat([p.grad.flatten() for net in nets for p in net.parameters()]))
    assert torch.allclose(*grads, atol=1e-6) and grads[0].abs().max() > 1e-3


def test_answers_together_are_drawn_as_answers_apart(policy):
    tokenizer = models.load_tokenizer(policy.model_dir)
    model = models.load_policy(policy.model_dir, tokenizer)
    prompts = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
    limits = (12, tokenizer.eos_token_id, tokenizer.pad_token_id, 1.0)
    together, apart = (
        rollout.sample(model, asked, *limits, torch.Generator().manual_seed(3), **more)
        for asked, more in ((prompts, {"each": 4}), ([p for p in prompts for _ in range(4)], {}))
    )
    assert together == apart and len({tuple(a) for a in together[:4]}) > 1


def test_the_answers_to_a_prompt_stay_in_one_minibatch(config):
    torch.manual_seed(0)
    parts = ppo.minibatches(16, config())
    assert sorted(i for part in parts for i in part) == list(range(16))
    for part in parts:
        assert [part[i : i + 4] for i in (0, 4)] == [
            list(range(part[i], part[i] + 4)) for i in (0, 4)
        ]
        assert all(part[i] % 4 == 0 for i in (0, 4))


def test_a_run_that_shares_prompts_learns_as_one_that_does_not(config, tmp_path):
    runs = [tiny.train(config(share_prompts=s), tmp_path / str(s)) for s in (True, None)]
    first, second = (run.metrics.iloc[0] for run in runs)
    for name in ("score", "kl", "gold", "entropy", "answer_tokens", "rows_tokens", "tokens"):
        if name in first:
            assert first[name] == pytest.approx(second[name], abs=1e-4)
    assert all(run.metrics["first_log_ratio"].max() < 1e-5 for run in runs)
    assert (
        first["learn_tflops"] * first["learn_seconds"]
        < second["learn_tflops"] * second["learn_seconds"]
    )


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(answers_per_prompt=1, advantage="global", batch_size=16), "answers_per_prompt 1"),
        (dict(batch_size=6, minibatches=4), "6 prompts in 4 parts"),
    ],
)
def test_prompts_that_cannot_be_shared_are_refused(config, changes, said):
    with pytest.raises(ValidationError, match=said):
        config(**changes)


# ------------------------------------------------- the reference on the actor's own weights
def test_with_adapters_the_reference_is_the_actors_frozen_weights(config, tmp_path):
    lora = Lora(lora_dim=4)
    setting = Setting(config(lora=lora), tmp_path / "own", rows=4)
    own = {w.data_ptr() for w in setting.actor.module.model.parameters()}
    frozen = list(setting.reference.model.parameters())
    assert all(w.data_ptr() in own and not w.requires_grad for w in frozen)
    setting.prompts, setting.answers = setting.prompts[:4], setting.answers[:4]
    setting.config = config(lora=lora, share_prompts=None)
    before = setting.experience()
    assert torch.equal(before.old_logp, before.ref_logp)
    ppo.add_advantages(config(advantage="global", batch_size=16), before, beta=0.05)
    setting.learn(before)
    after = setting.experience()
    assert torch.equal(after.ref_logp, before.ref_logp)
    assert (after.old_logp - before.old_logp).abs().max() > 1e-6


def test_without_adapters_it_is_a_model_of_its_own(config, tmp_path):
    setting = Setting(config(), tmp_path / "copy", rows=4)
    own = {w.data_ptr() for w in setting.actor.module.model.parameters()}
    assert not any(w.data_ptr() in own for w in setting.reference.model.parameters())
