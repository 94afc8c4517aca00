"""PPO's acceptance table: each row a test, and for each test the mistakes that it must notice.

A mistake is a function's own source with one phrase replaced, put into place as a launch would
(`chatlib.runs.mutations`); the row's test has to fail on it.
"""

import contextlib
import inspect
import sys
import textwrap

import pytest
import tiny_stages as tiny
import torch

from chatlib.maths.likelihood import log_softmax, token_log_probs
from chatlib.runs import checkpoints, mutations
from chatlib.runs.recorder import Recorder
from chatlib.train import engine, models, ppo, rollout, sft

SEED = 3


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------- sampling
class Drawn(Exception):
    """What a rank was asked to answer, and what it drew for prompts of ours instead."""


def drawn_by(config, prompts, directory, rank, monkeypatch):
    """(prompts, draws) of the first iteration of `ppo.train` as rank `rank` of two."""
    sample = rollout.sample

    def instead(model, asked, *limits, **more):
        raise Drawn(asked, sample(model, prompts, *limits, **more))

    (directory / "log").mkdir(parents=True)
    with monkeypatch.context() as patch, pytest.raises(Drawn) as caught:
        patch.setattr(rollout, "sample", instead)
        ppo.train(config, Recorder(directory, rank, 2))
    return caught.value.args


def test_ranks_draw_different_samples_from_one_shared_shuffle(setting, monkeypatch):
    at = setting()
    parts = [
        drawn_by(at.config, at.prompts, at.recorder.directory / str(i), rank, monkeypatch)
        for i, rank in enumerate((0, 1, 1))
    ]
    (asked0, own0), (asked1, own1), again = parts
    assert len(asked0) == len(asked1) == at.config.batch_size / 2
    assert asked0 != asked1
    assert all(a != b for a, b in zip(own0, own1))
    assert again == (asked1, own1)


def test_the_same_temperature_in_old_new_and_reference_log_probs(setting):
    at = setting(temperature=0.7, actor_learning_rate=0.0, critic_learning_rate=0.0)
    torch.manual_seed(1)
    limits = (at.config.max_answer_tokens, at.eos, at.pad, 0.7)
    assert at.drawn == rollout.sample(at.actor.module.model, at.prompts, *limits)
    r = at.experience()
    for i, (row, answer) in enumerate(zip(r.rows, r.answers)):
        logits = at.actor.module.model(torch.tensor([row])).logits[0].detach()
        chosen = (logits / 0.7).log_softmax(-1)[len(row) - len(answer) - 1 : -1]
        by_hand = chosen.gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)
        assert_close(r.old_logp[i, : len(answer)], by_hand)
        assert_close(r.ref_logp[i, : len(answer)], by_hand)
    ppo.add_advantages(at.config, r, beta=0.05)
    for _ in range(3):
        _, figures = ppo.learn(at.config, at.nets, r, 0.05, [], None)
        assert figures["first_log_ratio"] < 1e-5


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_prompts_padded_left_answer_as_each_alone(setting, zero_stage):
    """Prompts of unequal length through PPO's own sampler, its weights whole or gathered."""
    at = setting(temperature=0.0, zero_stage=zero_stage)
    prompts = [p[-n:] for p, n in zip(at.prompts, (3, 30, 11, 20, 6, 17, 9, 25))]
    assert len(set(map(len, prompts))) > 4
    together = ppo.generate(at.config, at.actor, prompts, at.tokenizer)
    alone = [ppo.generate(at.config, at.actor, [p], at.tokenizer)[0] for p in prompts]
    assert len(set(map(tuple, together))) > 1
    assert together == alone


def test_position_ids_do_not_count_the_left_padding(alone):
    """A model with learned positions, whose answers depend on them."""
    model = tiny.foreign_model("gpt2", 64).eval()
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(50)
    prompts = [[3, 4], [5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15]]
    together = rollout.sample(model, prompts, 8, -1, 0, temperature=0)
    apart = [rollout.sample(model, [p], 8, -1, 0, temperature=0)[0] for p in prompts]
    assert together == apart


# ------------------------------------------------------------------------------- KL
@pytest.mark.parametrize(
    ("nats_a_token", "share_of_target", "change"),
    [(0.0, 0.0, -0.2), (0.5, 0.9, -0.1), (0.5, 1.0, 0.0), (0.5, 1.15, 0.15), (2.0, 3.0, 0.2)],
)
def test_adaptive_kl_controls_nats_per_sequence(setting, nats_a_token, share_of_target, change):
    """A known KL per token: the target is met when it is met by the sum over an answer."""
    at = setting(generation_batches=2)
    r = at.experience()
    r.ref_logp = r.old_logp - nats_a_token * r.mask
    ppo.add_advantages(at.config, r, beta=0.05)
    a_sequence = nats_a_token * sum(map(len, r.answers)) / len(r.answers)
    kl = ppo.describe(r, torch.zeros(4), [], at.tokenizer)["kl"]
    assert kl == pytest.approx(a_sequence, abs=1e-5)
    target = a_sequence / share_of_target if share_of_target else 5.0
    config = at.config.model_copy(update={"kl_target": target, "kl_horizon": 100})
    answers = 2 * config.batch_size
    assert ppo.next_beta(config, 0.1, kl) == pytest.approx(0.1 * (1 + change * answers / 100))


def test_the_reward_is_clipped_before_the_kl_is_added(setting):
    """With gamma = lambda = 1 and no values a return is the sum of the rewards to come."""
    at = setting(gamma=1.0, lam=1.0, clip_reward_value=5.0, missing_eos_penalty=0.0)
    r = at.experience()
    r.paid = torch.full_like(r.paid, 100.0)
    r.ref_logp = r.old_logp - 20.0 * r.mask
    ppo.add_advantages(at.config, r, beta=0.75)
    assert r.values.abs().max() == 0
    for i, answer in enumerate(r.answers):
        assert r.returns[i, 0].item() == pytest.approx(5 - 0.75 * 20 * len(answer), rel=1e-6)


# -------------------------------------------------------------------- one update
def gradients(net):
    """The gradients of an engine's next optimizer step, which is taken at a rate of 0."""
    from deepspeed.utils import safe_get_full_grad

    found, step = {}, net.step

    def read_and_step():
        for name, weight in net.module.named_parameters():
            found[name] = safe_get_full_grad(weight).clone()
        step()

    net.step = read_and_step
    return found


WAYS = {
    "token": {},
    "sequence": {"loss_aggregation": "sequence"},
    "constant": {"loss_aggregation": "constant"},
    "kl": {"kl_in": "loss", "kl_estimator": "k2"},
    "entropy": {"entropy_coefficient": 0.3},
    "ptx": {"unsup_coef": 0.5},
}


def gradients_of_an_update(setting, micro_batches, changes):
    """Actor's and critic's gradients of one update on the same rollout."""
    rates = dict(actor_learning_rate=0.0, critic_learning_rate=0.0, critic_init="reward")
    at = setting(gradient_accumulation_steps=micro_batches, **rates, **changes)
    r = at.experience()
    torch.manual_seed(SEED)  # an update is mostly away from the ratio 1
    r.old_logp = (r.old_logp + 0.3 * torch.randn_like(r.old_logp)) * r.mask
    r.ref_logp = (r.ref_logp + 0.3 * torch.randn_like(r.ref_logp)) * r.mask
    ppo.add_advantages(at.config, r, beta=0.05)
    shown = ppo.demonstrations_of(at.config, at.dialogues, at.tokenizer, 160)
    found = gradients(at.actor), gradients(at.critic)
    ppo.update(at.config, at.nets, r, 0.5, shown)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_one_times_four_micro_batches_are_four_times_one(setting, way):
    whole = gradients_of_an_update(setting, 1, WAYS[way])
    parts = gradients_of_an_update(setting, 4, WAYS[way])
    for a, b in zip(whole, parts):
        assert a.keys() == b.keys() and a
        assert max(g.abs().max() for g in a.values()) > 1e-3
        for name in a:
            assert_close(a[name], b[name])


def test_each_micro_batch_of_ptx_shows_the_demonstrations_of_its_own_prompts(setting, monkeypatch):
    """Which rows were taken last when demonstrations become tensors, in two passes of four."""
    at = setting(unsup_coef=0.5, minibatches=2, ppo_epochs=2, gradient_accumulation_steps=2)
    r = at.experience()
    ppo.add_advantages(at.config, r, beta=0.05)
    shown = ppo.demonstrations_of(at.config, at.dialogues, at.tokenizer, 160)
    parts, seen, take, tensors = [], [], ppo.Rollout.take, sft.tensors
    monkeypatch.setattr(
        ppo.Rollout, "take", lambda self, index: parts.append(take(self, index)) or parts[-1]
    )
    monkeypatch.setattr(
        sft, "tensors", lambda own, pad: seen.append((parts[-1], own)) or tensors(own, pad)
    )
    ppo.learn(at.config, at.nets, r, 0.05, shown, None)
    assert len(seen) == 8
    for part, own in seen:
        assert len(part.rows) == len(own) == 2
        for row, answer, demonstration in zip(part.rows, part.answers, own):
            prompt = row[: len(row) - len(answer)]
            assert demonstration.ids[: len(prompt)] == prompt


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_value_clip_may_be_none(setting, clip):
    """Values far from the old ones: half the squared error, or that of the clipped value."""
    at = setting(cliprange_value=clip, critic_init="reward")
    r = at.experience()
    ppo.add_advantages(at.config, r, beta=0.05)
    values = r.values.clone()
    r.values = (values + 3.0) * r.mask
    near = values if clip is None else values.clamp(r.values - clip, r.values + clip)
    worse = torch.maximum((values - r.returns) ** 2, (near - r.returns) ** 2)
    expected = (worse * r.mask).sum() / r.mask.sum() / 2
    loss, _ = ppo.critic_loss(at.config, at.critic, r, at.pad, r.mask.sum())
    assert_close(loss.detach(), expected)
    sums, _ = at.learn(r)
    assert sums.isfinite().all()


# ------------------------------------------------------------------------ 16 bits
def test_log_softmax_is_taken_in_32_bits():
    torch.manual_seed(SEED)
    logits = (8 * torch.randn(40, 30)).bfloat16()
    labels = torch.arange(40) % 30
    exact = logits.double().log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    assert_close(token_log_probs(logits, labels, 1.0).double(), exact)


def test_log_probs_of_a_bf16_model_are_those_of_its_hidden_states_in_64_bits():
    model = tiny.foreign_model("llama", 50).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(150)
    torch.manual_seed(SEED)
    ids = torch.randint(3, 50, (6, 20))
    net = models.AnswerLM(model.bfloat16())
    hidden = model.base_model(input_ids=ids[:, :-1]).last_hidden_state.double()
    logits = hidden @ model.get_output_embeddings().weight.double().T
    assert logits.abs().max() > 16
    exact = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).flatten()
    logp, _ = net(ids, torch.ones_like(ids))
    assert_close(logp.double().detach(), exact.detach(), 1e-4)


# ------------------------------------------------------------------------- resume
def test_resume_restores_random_numbers_beta_schedule_and_data_position(setting):
    changes = dict(steps=4, save_every=2, minibatches=2, kl_target=0.5, kl_horizon=50)
    at = setting(**changes, lr_scheduler_type="linear", num_warmup_steps=3, kl_ctl=0.5)
    whole = tiny.train(at.config, at.recorder.directory / "whole")
    torch.manual_seed(123)  # whatever the process did in between
    half = checkpoints.checkpoint_path(whole.directory, 2)
    rest = tiny.train(at.config, at.recorder.directory / "rest", half)
    columns = whole.metrics.columns.difference(tiny.TIMES)
    assert {"beta", "actor_learning_rate", "critic_learning_rate"} <= {*columns}
    for name in ("beta", "actor_learning_rate"):  # what is never the same is worth restoring
        assert whole.metrics[name].nunique() == 4
    last_two = whole.metrics[columns].tail(2).reset_index(drop=True)
    assert last_two.equals(rest.metrics[columns].reset_index(drop=True))
    assert tiny.furthest(*(tiny.weights(run.model_dir) for run in (whole, rest))) == 0


# ----------------------------------------------------------- each is seen to notice
@contextlib.contextmanager
def replaced(function, phrase, instead):
    """A mutant in this process: the function with one phrase of its source replaced."""
    name = f"{function.__module__}.{function.__qualname__}"
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(phrase) == 1, f"{name} no longer says {phrase!r} once: mend the mutant"
    with (
        mutations.mutated(name, source.replace(phrase, instead)),
        pytest.MonkeyPatch.context() as p,
    ):
        for module in holders(function):  # so that the patch is undone where it was applied
            for alias in [k for k, v in vars(module).items() if v is function]:
                p.setattr(module, alias, function)
        mutations.apply()
        yield


def holders(function):
    """The modules of chatlib that know a function."""
    ours = [m for name, m in sys.modules.items() if name.startswith("chatlib")]
    return [m for m in ours if any(v is function for v in vars(m).values())]


RANKS = test_ranks_draw_different_samples_from_one_shared_shuffle
TEMPERATURE = test_the_same_temperature_in_old_new_and_reference_log_probs
LEFT = test_prompts_padded_left_answer_as_each_alone
POSITIONS = test_position_ids_do_not_count_the_left_padding
ADAPTIVE = test_adaptive_kl_controls_nats_per_sequence
CLIP = test_the_reward_is_clipped_before_the_kl_is_added
PARTS = test_one_times_four_micro_batches_are_four_times_one
PTX = test_each_micro_batch_of_ptx_shows_the_demonstrations_of_its_own_prompts
UNCLIPPED = test_the_value_clip_may_be_none
SOFTMAX = test_log_softmax_is_taken_in_32_bits
HEAD = test_log_probs_of_a_bf16_model_are_those_of_its_hidden_states_in_64_bits
RESUME = test_resume_restores_random_numbers_beta_schedule_and_data_position

ON_TARGET = dict(nats_a_token=0.5, share_of_target=1.15, change=0.15)
OWN_COUNT = "count = denominator(config, part); loss, stats = actor_loss("
MUTANTS = [  # (row, its parameters, function, phrase, what stands there instead)
    (RANKS, {}, ppo.train, "config.seed * 1000 + recorder.rank", "config.seed * 1000"),
    (RANKS, {}, ppo.train, "torch.manual_seed(", "(lambda seed: None)("),
    (RANKS, {}, ppo.train, "recorder.rank, recorder.world", "0, recorder.world"),
    (TEMPERATURE, {}, ppo.generate, "config.temperature", "1.0"),
    (TEMPERATURE, {}, ppo.actor_loss, "config.temperature", "1.0"),
    (TEMPERATURE, {}, ppo.make_experience, "config.temperature, True", "1.0, True"),
    (TEMPERATURE, {}, ppo.make_experience, "nets.pad, config.temperature)", "nets.pad, 1.0)"),
    (LEFT, dict(zero_stage=0), rollout.sample, '"left"', '"right"'),
    (LEFT, dict(zero_stage=3), rollout.sample, '"left"', '"right"'),
    (LEFT, dict(zero_stage=0), rollout.sample, "attention_mask=mask", "attention_mask=None"),
    (
        POSITIONS,
        {},
        rollout.sample,
        "collate.positions(mask)",
        "torch.arange(mask.shape[1]).expand_as(mask)",
    ),
    (ADAPTIVE, ON_TARGET, ppo.describe, 'm["kl"] / answers', 'm["kl"] / tokens'),
    (ADAPTIVE, ON_TARGET, ppo.next_beta, "config.rollout", "config.batch_size"),
    (
        CLIP,
        {},
        ppo.add_advantages,
        "if config.whiten_rewards:",
        "rewards = rewards.clamp(-config.clip_reward_value, config.clip_reward_value)\n"
        "    if config.whiten_rewards:",
    ),
    (CLIP, {}, ppo.add_advantages, "config.clip_reward_value", "1e9"),
    *(
        (PARTS, dict(way=way), ppo.update, "loss, stats = actor_loss(", OWN_COUNT)
        for way in ("token", "sequence", "constant")
    ),
    *(
        (PARTS, dict(way=way), ppo.actor_loss, f"aggregate({term}, part.mask, *how)", instead)
        for way, term, instead in (
            ("kl", "kl", "aggregate(kl, part.mask, how[0])"),
            ("entropy", "entropy", "aggregate(entropy, part.mask, how[0])"),
        )
    ),
    (
        PARTS,
        dict(way="ptx"),
        ppo.update,
        "shown.to(loss.device)",
        "torch.tensor(sum(sum(e.mask) for e in own))",
    ),
    (PARTS, dict(way="ptx"), ppo.update, "demonstrations[start : start", "demonstrations[0 : 0"),
    (PARTS, dict(way="token"), engine.backward, "engine.gradient_accumulation_steps() * ", ""),
    (PTX, {}, ppo.learn, "for i in index] if", "for i in range(len(index))] if"),
    (PTX, {}, ppo.update, "[start : start + size]:", "[0:size]:"),
    (UNCLIPPED, dict(clip=None), ppo.critic_loss, "config.cliprange_value", "0.2"),
    (UNCLIPPED, dict(clip=0.2), ppo.critic_loss, "config.cliprange_value", "None"),
    (
        SOFTMAX,
        {},
        log_softmax,
        "logits.to(torch.promote_types(logits.dtype, torch.float32))",
        "logits",
    ),
    (HEAD, {}, models.exact_head, "layer.forward = MethodType(_exact_product, layer)", "pass"),
    (RESUME, {}, engine.restore, 'torch.set_rng_state(own["torch"])', "pass"),
    (RESUME, {}, ppo.restore, 'state.get("beta", config.kl_ctl)', "config.kl_ctl"),
    (RESUME, {}, ppo.train, "batches.at(step)", "batches.at(step - first)"),
    (
        RESUME,
        {},
        engine.restore,
        "engine.load_checkpoint(str(folder), tag=name)",
        "engine.load_checkpoint(str(folder), tag=name, load_lr_scheduler_states=False)",
    ),
    (
        RESUME,
        {},
        engine.restore,
        "engine.load_checkpoint(str(folder), tag=name)",
        "engine.load_checkpoint(str(folder), tag=name, load_optimizer_states=False)",
    ),
]


def named(mutant):
    row, given, function, _, instead = mutant
    way = "-".join(map(str, given.values()))
    return f"{row.__name__[5:35]}-{way}-{function.__name__}-{instead[:30]}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=named)
def test_the_row_fails_on_the_mistake_it_is_named_after(request, mutant):
    row, given, function, phrase, instead = mutant
    asked = inspect.signature(row).parameters.keys() - given
    fixtures = {name: request.getfixturevalue(name) for name in asked}
    with replaced(function, phrase, instead), pytest.raises(AssertionError) as caught:
        row(**fixtures, **given)
    assert any(entry.path.samefile(__file__) for entry in caught.traceback[-3:])


def test_a_mutant_is_gone_when_its_test_is_over():
    healthy, said = ppo.actor_loss, inspect.getsource(ppo.actor_loss)
    with replaced(ppo.actor_loss, "config.temperature", "1.0"):
        assert ppo.actor_loss is not healthy
    assert ppo.actor_loss is healthy and inspect.getsource(ppo.actor_loss) == said
    assert not mutations.in_force()
