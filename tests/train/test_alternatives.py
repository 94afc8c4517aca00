"""What differs between the algorithms of the rollout loop, and direct preference optimisation."""

import math
from dataclasses import replace

import pytest
import tiny_stages as tiny
import torch
from pydantic import ValidationError

from chatlib.data import judges, shop, sources, template
from chatlib.launch.memory import memory
from chatlib.runs import checkpoints
from chatlib.runs.identity import fingerprints
from chatlib.settings.stages import Lora, Source
from chatlib.train import dpo, models, ppo, rollout

GROUPS = dict(batch_size=4, answers_per_prompt=4)
ALTERNATIVES = {
    "global": dict(advantage="global"),
    "group": dict(advantage="group", kl_in="loss", kl_estimator="k2", **GROUPS),
    "rloo": dict(advantage="rloo", **GROUPS),
}


@pytest.fixture
def config(policy, scorer):
    return lambda **changes: tiny.ppo(policy.model_dir, scorer.model_dir, **changes)


# ---------------------------------------------------------------------- without a critic
@pytest.mark.parametrize("name", ALTERNATIVES)
def test_without_a_critic_none_is_loaded_and_none_is_reported(name, config, tmp_path, monkeypatch):
    seen = []
    load = ppo.load_models
    monkeypatch.setattr(ppo, "load_models", lambda *a: seen.append(load(*a)) or seen[-1])
    run = tiny.train(config(**ALTERNATIVES[name]), tmp_path)
    assert seen[0].critic is None and ppo.engines_of(seen[0]).keys() == {"actor"}
    assert not {*ppo.OF_CRITIC, "critic_learning_rate"} & {*run.metrics.columns}
    assert ("alike" in run.metrics) == (name != "global")
    assert run.metrics["first_log_ratio"].max() < 1e-5 and run.metrics["tokens"].iloc[-1] > 0


@pytest.mark.parametrize("name", ["group", "rloo"])
def test_answers_to_one_prompt_stand_together(name, config, tmp_path, monkeypatch):
    asked = []
    sample = rollout.sample

    def look(model, prompts, *limits, **more):
        asked.append(prompts)
        return sample(model, prompts, *limits, **more)

    monkeypatch.setattr(rollout, "sample", look)
    run = tiny.train(config(**ALTERNATIVES[name]), tmp_path)
    assert len(asked) == len(run.metrics)
    for prompts in asked:
        groups = [prompts[i : i + 4] for i in range(0, 16, 4)]
        assert all(group == [group[0]] * 4 for group in groups)
        assert len({tuple(group[0]) for group in groups}) == 4


@pytest.mark.parametrize("name", ["group", "rloo"])
def test_an_answer_is_compared_with_the_others_to_its_prompt(name, config):
    """By a loop over prompts; every token of an answer gets the answer's advantage."""
    settings = config(**ALTERNATIVES[name], missing_eos_penalty=0.0)
    r = experience(paid=torch.tensor([1.0, 2, 4, 5, 0, 0, 0, 3]))
    ppo.add_advantages(settings, r, beta=0.0)
    for first in (0, 4):
        group = r.paid[first : first + 4]
        for i in range(first, first + 4):
            others = [r.paid[j].item() for j in range(first, first + 4) if j != i]
            wanted = r.paid[i].item() - sum(others) / 3
            if name == "group":
                wanted = (r.paid[i] - group.mean()).item() / (group.std().item() + 1e-6)
            assert r.advantages[i].tolist() == pytest.approx((wanted * r.mask[i]).tolist())


def test_the_global_baseline_is_the_mean_over_all_tokens(config):
    r = experience(paid=torch.tensor([1.0, 2, 4, 5, 0, 0, 0, 3]))
    ppo.add_advantages(config(advantage="global", missing_eos_penalty=0.0), r, beta=0.0)
    assert r.returns[3].tolist() == pytest.approx((5.0 * r.mask[3]).tolist())
    tokens = r.advantages[r.mask.bool()]
    assert tokens.mean().item() == pytest.approx(0, abs=1e-6)
    assert tokens.std().item() == pytest.approx(1, abs=1e-5)


def experience(paid):
    """Eight answers of one to four tokens, all ended; only what they are paid matters."""
    lengths = torch.tensor([1, 2, 3, 4, 4, 3, 2, 1])
    mask = (torch.arange(4) < lengths[:, None]).long()
    none = torch.zeros(8, 4)
    ended = torch.ones(8, dtype=torch.bool)
    rows = [[1] * n for n in lengths.tolist()]
    return ppo.Rollout(rows, rows, mask, *[none] * 4, paid, paid, ended, ~ended)


def test_a_group_whose_answers_were_paid_alike_is_counted(config):
    r = experience(paid=torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 3]))
    assert ppo.alike(config(**ALTERNATIVES["group"]), r).float().mean() == 0.5


# -------------------------------------------------------------------------- who pays
def test_the_judge_pays_what_it_says(config, policy, tmp_path, monkeypatch):
    paid = []
    add = ppo.add_advantages

    def look(config, r, beta):
        paid.append(r)
        add(config, r, beta)

    monkeypatch.setattr(ppo, "add_advantages", look)
    run = tiny.train(config(reward="gold", steps=1), tmp_path)
    (r,) = paid
    assert r.paid.mean().item() == pytest.approx(run.metrics["gold"].iloc[0], abs=1e-5)
    assert not torch.allclose(r.paid, r.score)
    tokenizer = models.load_tokenizer(policy.model_dir)
    records = sources.load(config()).train
    by_prompt = {tuple(p): m for p, m in zip(encoded(tokenizer, records), records)}
    for row, answer, found in zip(r.rows, r.answers, r.paid):
        record = by_prompt[tuple(row[: -len(answer)])]
        said = template.decode(tokenizer, [answer])[0]
        assert found.item() == pytest.approx(shop.judge(record.meta, said).total)


def encoded(tokenizer, records):
    return template.encode_prompts(tokenizer, [r.prompt for r in records])


def test_gold_needs_a_judge_for_every_prompt():
    strange = replace(shop.demonstrations(1)[0], meta={})
    records = [*shop.demonstrations(2), strange]
    known = judges.of([Source(name="shop")])
    judges.require(known, records[:2])
    with pytest.raises(ValueError, match="no judge knows 1 of 3 prompts, the first is"):
        judges.require(known, records)


def test_with_nothing_paid_the_rewards_are_the_kl_to_the_teacher_alone(config, policy, scorer):
    settings = config(reward="none", kl_ctl=1.0, advantage="global", missing_eos_penalty=0.0)
    r = experience(paid=torch.zeros(8))
    ppo.pay(settings, r, [], None, [])
    r.old_logp, r.ref_logp = torch.full((8, 4), -1.0), torch.full((8, 4), -3.0)
    ppo.add_advantages(settings, r, beta=1.0)
    assert r.returns[3].tolist() == [-8.0, -6.0, -4.0, -2.0]


def test_a_teacher_is_what_the_kl_is_measured_from(config, policy, tmp_path):
    teacher = tiny.train(tiny.sft(model=policy.model_dir, steps=3), tmp_path / "teacher")
    own = tiny.train(config(steps=1), tmp_path / "own")
    other = tiny.train(config(steps=1, reference=teacher.model_dir), tmp_path / "other")
    assert own.metrics["kl"].iloc[0] == pytest.approx(0, abs=1e-4)
    assert other.metrics["kl"].iloc[0] > 0.1
    assert str(teacher.model_dir) in fingerprints(config(reference=teacher.model_dir))


def test_a_teacher_of_other_tokens_is_refused(config, tmp_path):
    stranger = tiny.foreign_folder(tmp_path / "stranger", "llama")
    with pytest.raises(ValueError, match="has another tokenizer than the policy"):
        tiny.train(config(reference=stranger), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(advantage="rloo"), "compared with the prompt's others"),
        (dict(reward="none", kl_ctl=0.0), "nothing would tell answers apart"),
        (dict(reward="none", kl_in="loss", kl_estimator="k2"), "nothing would tell answers apart"),
        (dict(answers_per_prompt=3, minibatches=5), "24 answers an iteration cannot be divided"),
    ],
)
def test_what_cannot_work_is_refused_at_once(config, changes, sentence):
    with pytest.raises(ValidationError, match=sentence):
        config(**changes)


def test_a_missing_critic_is_missing_in_the_predicted_memory(config):
    """Weights, gradients and two moments in fp32: 16 bytes a weight of the critic."""
    with_critic, without = memory(config(), "cpu"), memory(config(advantage="global"), "cpu")
    scorer = models.load_scorer(config().reward_model, models.load_tokenizer(config().model))
    count = sum(w.numel() for w in scorer.parameters())
    states = {n: with_critic[n] - without[n] for n in ("weights", "gradients", "optimizer")}
    assert sum(states.values()) == 16 * count
    name = "reference and reward model"
    assert with_critic[name] == without[name]


# -------------------------------------------------------------------------- DPO
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
@pytest.mark.parametrize("per_token", [False, True])
def test_dpo_starts_where_policy_and_reference_are_one(loss, per_token, policy, tmp_path):
    settings = tiny.dpo(policy.model_dir, loss=loss, per_token=per_token, learning_rate=5e-3)
    first = {"sigmoid": math.log(2), "ipo": 25.0}[loss]
    run = tiny.train(settings, tmp_path)
    assert run.metrics["loss"].iloc[0] == pytest.approx(first, rel=1e-5)
    assert run.metrics["margin"].iloc[-1] > run.metrics["margin"].iloc[0] == pytest.approx(0)
    assert 0 <= run.manifest["held_out_accuracy"] <= 1


def test_dpo_sums_the_answers_tokens_and_no_others(policy):
    tokenizer = models.load_tokenizer(policy.model_dir)
    net = models.AnswerLM(models.load_policy(policy.model_dir, tokenizer))
    pairs = [([5, 6, 7], [8, 9, 3], [9, 3]), ([5, 6], [8, 3], [7, 7, 7, 3])]
    found = dpo.answer_log_probs(net, pairs, tokenizer, torch.device("cpu"))
    for i, (prompt, *both) in enumerate(pairs):
        for j, answer in enumerate(both):
            ids = torch.tensor([prompt + answer])
            logp = net.model(ids).logits.log_softmax(-1)[0]
            wanted = sum(logp[len(prompt) + t - 1, token] for t, token in enumerate(answer))
            assert found[i, j].item() == pytest.approx(wanted.item(), abs=1e-4)


def test_per_token_divides_by_the_answers_length(policy):
    settings = tiny.dpo(policy.model_dir, per_token=True)
    found = dpo.by_length(settings, torch.tensor([[-6.0, -4.0]]), [([1], [2, 3, 4], [5, 6])])
    assert found.tolist() == [[-2.0, -2.0]]


def test_two_and_two_steps_of_dpo_are_four_bit_for_bit(policy, tmp_path):
    settings = tiny.dpo(policy.model_dir, save_every=2, lora=Lora(), learning_rate=5e-3)
    whole = tiny.train(settings, tmp_path / "whole")
    half = checkpoints.checkpoint_path(whole.directory, 2)
    rest = tiny.train(settings, tmp_path / "rest", half)
    assert tiny.furthest(tiny.weights(whole.model_dir), tiny.weights(rest.model_dir)) == 0
    assert tiny.losses(whole)[2:] == tiny.losses(rest)
    moved = tiny.furthest(tiny.weights(whole.model_dir), tiny.weights(policy.model_dir))
    assert moved > 1e-4
