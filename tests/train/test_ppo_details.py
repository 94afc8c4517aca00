"""One test for each row of the PPO acceptance table that tests/maths does not hold already."""

import hashlib

import pytest
import tiny_stages as tiny
import torch
from one_iteration import Setting
from torch import nn
from transformers import AutoModelForSequenceClassification, TemperatureLogitsWarper

from chatlib.data import collate, judges, shop, template
from chatlib.data.schema import Dialogue
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import Lora, Source
from chatlib.train import engine, models, ppo, reward, rollout, sft
from chatlib.train.models import AnswerLM, TokenScorer

CPU = torch.device("cpu")
SHOP = judges.of([Source(name="shop")])


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------ tokens and masks
def test_pad_is_not_eos_the_end_keeps_its_label_its_action_and_the_score(policy):
    tokenizer = models.load_tokenizer(policy.model_dir)
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert pad != eos
    rows, answers = [[3, 5, 6, eos], [3, 4, 5, 6, 7, eos]], [[5, 6, eos], [6, 7, eos]]
    label_ids, labels = sft.tensors(
        [template.Encoded(r, [0] * (len(r) - 3) + [1] * 3) for r in rows], pad
    )
    assert label_ids[0].tolist() == [3, 5, 6, eos, pad, pad]
    assert labels[0].tolist() == [0, 1, 1, 1, 0, 0]
    assert ppo.answer_mask(rows, answers)[0].tolist() == [0, 1, 1, 1, 0, 0]
    _, mask = collate.pad(rows, pad)
    assert reward.last_token(mask)[0].tolist() == [0, 0, 0, 1, 0, 0]


def test_every_answer_of_the_data_ends_with_eos_under_the_mask(policy):
    tokenizer = models.load_tokenizer(policy.model_dir)
    dialogues = [d.messages for d in shop.demonstrations(20)]
    for encoded in template.encode(tokenizer, dialogues):
        assert (encoded.ids[-1], encoded.mask[-1]) == (tokenizer.eos_token_id, 1)


def test_sampling_ends_a_row_at_its_first_stop_token():
    """A model that always says 0 after 7: with stop token 0, every answer is [.., 0]."""
    model = tiny.foreign_model("llama", 8)
    for stop in range(8):
        torch.manual_seed(stop)
        for answer in rollout.sample(model, [[1], [2, 3], [4, 5, 6]], 30, stop, pad=1):
            assert stop not in answer[:-1]
            assert answer[-1] == stop or len(answer) == 30


def test_missing_eos_penalty_is_exact(setting):
    at = setting(gamma=1.0, lam=1.0)  # then a return is the sum of the rewards to come
    r = at.experience()
    assert r.ended.tolist() == [a[-1] == at.eos for a in at.answers]
    assert 0 < r.ended.sum() < len(r.ended)
    returns = {}
    for penalty in (0.0, 0.75):
        config = at.config.model_copy(update={"missing_eos_penalty": penalty})
        ppo.add_advantages(config, r, beta=0.05)
        returns[penalty] = r.returns[:, 0].clone()
    expected = torch.where(r.ended, 0.0, 0.75)
    assert_close(returns[0.0] - returns[0.75], expected)


# -------------------------------------------------------------------------- sampling
@pytest.mark.parametrize("shape", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("extra", [1, 9])
def test_extra_pads_on_the_left_leave_the_logits_unchanged(shape, extra):
    model = tiny.foreign_model(shape, 64).eval()
    prompt = [7, 3, 9, 12]
    longer = [5] * (len(prompt) + extra)

    def logits(prompts):
        seen = []
        hook = model.register_forward_hook(lambda *a: seen.append(a[-1].logits[0, -1]))
        rollout.sample(model, prompts, 4, stop=-1, pad=0, temperature=0)
        hook.remove()
        return torch.stack(seen)

    assert_close(logits([prompt]), logits([prompt, longer]))


@pytest.mark.parametrize("shape", ["llama", "gpt2", "opt"])
def test_the_cached_sampler_predicts_what_the_training_forward_predicts(shape):
    """Rows of unequal lengths that end at different steps, against one pass over right pads."""
    model = tiny.foreign_model(shape, 16).eval()
    prompts = [[3], [4, 5, 6], [7, 8]]
    torch.manual_seed(0)
    answers = rollout.sample(model, prompts, 12, stop=2, pad=0, temperature=0)
    for prompt, answer in zip(prompts, answers):
        for t, token in enumerate(answer):
            ids = torch.tensor([prompt + answer[:t]])
            assert model(ids).logits[0, -1].argmax().item() == token


def test_position_ids_come_from_the_mask():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert collate.positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


class NextToken(nn.Module):
    """A language model that is sure that v + 1 follows v."""

    def __init__(self, size):
        super().__init__()
        self.base_model = lambda input_ids, use_cache: self._states(input_ids)
        self.head = nn.Linear(size, size, bias=False)
        self.head.weight.data = 50 * torch.eye(size).roll(1, 0)
        self.size = size

    def _states(self, ids):
        hidden = nn.functional.one_hot(ids, self.size).float()
        return type("Output", (), {"last_hidden_state": hidden})

    def get_output_embeddings(self):
        return self.head


def test_logits_before_a_token_predict_it():
    net = AnswerLM(NextToken(10))
    counting = torch.tensor([[1, 2, 3, 4, 5], [4, 5, 6, 0, 0]])
    answers = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]])
    logp, _ = net(counting, answers)
    assert_close(logp, torch.zeros(5))  # the answers count on: each token was certain
    counting[0, 4] = 7
    assert net(counting, answers)[0].tolist() == pytest.approx([0, 0, -50, 0, 0], abs=1e-4)


def test_values_are_read_one_place_before_each_action(setting):
    at = setting(critic_init="reward")
    r = at.experience()
    for i in range(3):
        start = len(r.rows[i]) - len(r.answers[i])
        for t in range(len(r.answers[i])):
            state = r.rows[i][: start + t]
            alone = reward.score(at.critic, [state], at.tokenizer, CPU)
            assert_close(r.values[i, t], alone[0].detach())


def test_the_same_temperature_in_old_new_and_reference(setting):
    at = setting(temperature=0.7)
    r = at.experience()
    warp = TemperatureLogitsWarper(0.7)
    for i, (row, answer) in enumerate(zip(r.rows, r.answers)):
        logits = at.actor.module.model(torch.tensor([row])).logits[0].detach()
        logp = warp(None, logits).log_softmax(-1)[len(row) - len(answer) - 1 : -1]
        expected = logp.gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)
        assert_close(r.old_logp[i, : len(answer)], expected)
        assert_close(r.ref_logp[i, : len(answer)], expected)
    new, _ = ppo.log_probs(at.actor, r, at.pad, at.config.temperature)
    assert_close(new.detach(), r.old_logp)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_sampler_draws_from_the_tempered_softmax(temperature):
    torch.manual_seed(0)
    logits, n = torch.tensor([0.3, -1.0, 1.2, 0.0]), 40_000
    warped = TemperatureLogitsWarper(temperature)(None, logits[None])[0].softmax(-1)
    drawn = rollout.draw(logits.expand(n, -1), temperature).bincount(minlength=4) / n
    assert (drawn - warped).abs().max() < 4 * (0.25 / n) ** 0.5


@pytest.mark.parametrize("name, value", [("top_k", 50), ("top_p", 0.9)])
def test_filtered_sampling_is_refused_with_the_reason(name, value):
    with pytest.raises(ValueError, match=r"no draw from the policy.*use top_k 0, top_p 1"):
        tiny.ppo("x", "y", **{name: value})


def test_a_models_own_generation_settings_filter_nothing(alone):
    """Public models bring a minimum length, penalties and top-k: none may reach a rollout."""
    model, prompts = tiny.foreign_model("llama", 16).eval(), [[3, 4, 5]]

    def draws():
        torch.manual_seed(0)
        return [rollout.sample(model, prompts, 8, 2, 0) for _ in range(5)]

    before = draws()
    for name, value in dict(min_new_tokens=8, repetition_penalty=9.0, top_k=1).items():
        setattr(model.generation_config, name, value)
    assert draws() == before


# ----------------------------------------------------------------------- one update
@pytest.mark.parametrize("lora", [None, Lora(lora_dropout=0.5)], ids=["full", "lora"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "opt"])
def test_dropout_is_off_everywhere(alone, tmp_path, shape, lora):
    folder = tiny.foreign_folder(tmp_path / "model", shape)
    if lora and shape == "gpt2":
        lora = lora.model_copy(update={"lora_module_name": ["c_proj"]})
    at = Setting(tiny.ppo(folder, folder, lora=lora, minibatches=1), tmp_path / "run")
    r = at.experience()
    for net in at.models:
        net.train()
        assert all(m.p == 0 for m in net.modules() if isinstance(m, nn.Dropout))
    first, _ = ppo.log_probs(at.actor, r, at.pad, 1.0)
    at.actor.train()  # what asks for dropout
    assert torch.equal(first, ppo.log_probs(at.actor, r, at.pad, 1.0)[0])
    assert torch.equal(
        ppo.state_values(at.critic, r, at.pad), ppo.state_values(at.critic, r, at.pad)
    )


def test_ratio_stays_one_for_all_epochs_at_learning_rate_zero(setting):
    at = setting(actor_learning_rate=0.0, critic_learning_rate=0.0)
    r = at.experience()
    ppo.add_advantages(at.config, r, beta=0.05)
    for _ in range(4):
        _, log_ratio = at.learn(r)
        assert log_ratio < 1e-5


def test_ratio_is_one_on_the_first_minibatch_of_a_run(policy, scorer, tmp_path):
    run = tiny.train(tiny.ppo(policy.model_dir, scorer.model_dir), tmp_path)
    assert max(tiny.losses(run, "first_log_ratio")) < 1e-5


def test_mutating_pads_changes_nothing(setting):
    """Other pad tokens under the same masks: the same losses, statistics and metrics."""
    results = []
    at = setting(actor_learning_rate=0.0, critic_learning_rate=0.0)
    real = at.tokenizer
    for pad in (at.pad, 17, 40):
        at.pad = real.pad_token_id = at.nets.tokenizer.pad_token_id = pad
        r = at.experience()
        ppo.add_advantages(at.config, r, beta=0.05)
        sums, _ = at.learn(r)
        results.append([r.old_logp, r.values, r.score, r.advantages, r.returns, r.entropy, sums])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_metrics_are_masked_too(setting):
    """Nonsense under the padding of every tensor of a rollout reaches no figure."""
    at = setting(actor_learning_rate=0.0, critic_learning_rate=0.0)
    figures = []
    for junk in (0.0, 1e6):
        r = at.experience()
        padding = r.mask == 0
        assert padding.any()
        ppo.add_advantages(at.config, r, beta=0.05)
        for name in ("old_logp", "ref_logp", "values", "entropy", "advantages", "returns"):
            getattr(r, name)[padding] = junk
        sums, _ = at.learn(r)
        figures.append(ppo.describe(r, sums, [], at.tokenizer))
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)


def test_of_a_blend_the_shops_answers_are_judged_each_against_its_own_prompt(setting):
    at = setting()
    r = at.experience()
    ppo.add_advantages(at.config, r, beta=0.05)
    texts = template.decode(at.tokenizer, at.answers)
    records = shop.demonstrations(8, seed=5)
    elsewhere = [Dialogue(d.messages, {"source": "elsewhere"}) for d in records]
    blend = [own if i % 2 else other for i, (own, other) in enumerate(zip(records, elsewhere))]
    figures = ppo.describe(r, torch.zeros(4), blend, at.tokenizer, SHOP)
    verdicts = [shop.judge(records[i].meta, texts[i]).total for i in (1, 3, 5, 7)]
    assert figures["gold"] == pytest.approx(sum(verdicts) / 4)
    assert "gold" not in ppo.describe(r, torch.zeros(4), elsewhere, at.tokenizer, SHOP)


LOSSES = {
    "token": {},
    "sequence": {"loss_aggregation": "sequence"},
    "constant": {"loss_aggregation": "constant"},
    "kl": {"kl_in": "loss", "kl_estimator": "k2"},
    "entropy": {"entropy_coefficient": 0.3},
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_actors_loss_is_its_formula_answer_by_answer(setting, name):
    """Loops over answers and tokens, after one update has made the ratio differ from 1."""
    at = setting(actor_learning_rate=1e-3, **LOSSES[name])
    r = at.experience()
    ppo.add_advantages(at.config, r, beta=0.05)
    at.learn(r)
    count = ppo.denominator(at.config, r)
    loss, _ = ppo.actor_loss(at.config, at.actor, r, at.pad, count, 0.05)
    logp, entropy = ppo.log_probs(at.actor, r, at.pad, at.config.temperature, with_entropy=True)
    expected = torch.zeros(())
    for row, answer in enumerate(at.answers):
        terms = []
        for t in range(len(answer)):
            new, old, A = logp[row, t], r.old_logp[row, t], r.advantages[row, t]
            ratio = (new - old).exp()
            term = -torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A)
            if name == "kl":
                term = term + 0.05 * (new - r.ref_logp[row, t]) ** 2 / 2
            if name == "entropy":
                term = term - 0.3 * entropy[row, t]
            terms.append(term)
        share = {"sequence": len(answer) * 8, "constant": 8 * at.config.max_answer_tokens}
        expected = expected + sum(terms) / share.get(name, sum(map(len, at.answers)))
    assert_close(loss, expected)


def test_more_entropy_is_what_its_coefficient_buys(setting):
    at = setting(actor_learning_rate=1e-3, entropy_coefficient=1.0, cliprange=1e9)
    r = at.experience()
    r.advantages, r.returns = torch.zeros_like(r.values), r.values
    before = (r.entropy * r.mask).sum()
    for _ in range(3):
        at.learn(r)
    after = at.experience()
    assert (after.entropy * after.mask).sum() > before + 0.1


def test_the_score_is_read_at_the_last_valid_token_whatever_the_tail(setting):
    at = setting()
    rows = [p + a for p, a in zip(at.prompts, at.answers)]
    together = reward.score(at.scorer, rows, at.tokenizer, CPU)
    for row, score in zip(rows, together):
        assert_close(reward.score(at.scorer, [row], at.tokenizer, CPU)[0], score)
        longer = reward.score(at.scorer, [row, row + [3] * 20], at.tokenizer, CPU)
        assert_close(longer[0], score)


def digest(model):
    parts = (p.detach().numpy().tobytes() for p in model.state_dict().values())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_reference_and_the_reward_model_are_frozen_and_kl_is_zero_at_first(setting):
    at = setting(actor_learning_rate=1e-2)
    frozen = [digest(at.reference), digest(at.scorer)]
    trained = [digest(at.actor.module), digest(at.critic.module)]
    r = at.experience()
    assert (r.old_logp - r.ref_logp).abs().max() < 1e-6
    ppo.add_advantages(at.config, r, beta=0.05)
    at.learn(r)
    assert [digest(at.reference), digest(at.scorer)] == frozen
    assert all(a != b for a, b in zip(trained, map(digest, (at.actor.module, at.critic.module))))
    again = at.experience()
    assert_close(again.ref_logp, r.ref_logp)
    assert (again.old_logp - again.ref_logp).abs().max() > 1e-3


@pytest.mark.parametrize("shape", ["gpt2", "opt"])
def test_kl_is_zero_at_first_for_a_model_whose_vocabulary_had_to_grow(alone, tmp_path, shape):
    folder = tiny.foreign_folder(tmp_path / "model", shape)
    at = Setting(tiny.ppo(folder, folder, minibatches=1), tmp_path / "run")
    r = at.experience()
    assert (r.old_logp - r.ref_logp).abs().max() < 1e-6


def test_the_value_head_starts_at_zero_or_from_the_reward_model(setting, policy, scorer, tmp_path):
    assert setting().experience().values.abs().max() == 0
    config = tiny.ppo(policy.model_dir, scorer.model_dir, critic_init="reward", minibatches=1)
    at = Setting(config, tmp_path / "from reward")
    assert (
        engine.gathered_state(at.critic.module.model).keys() == at.scorer.model.state_dict().keys()
    )
    assert digest(at.critic.module) == digest(at.scorer)


def test_the_score_is_normalised_after_reload(policy, scorer):
    tokenizer = models.load_tokenizer(scorer.model_dir)
    model = models.load_scorer(str(scorer.model_dir), tokenizer).eval()
    assert model.config.score_mean == scorer.manifest["score_mean"] != 0
    teller = models.load_policy(str(policy.model_dir), tokenizer).eval()
    asked = [d.prompt for d in shop.demonstrations(96, seed=9)]
    prompts = template.encode_prompts(tokenizer, asked)
    torch.manual_seed(3)
    answers = rollout.sample(teller, prompts, 40, tokenizer.eos_token_id, tokenizer.pad_token_id)
    rows = [p + a for p, a in zip(prompts, answers)]
    with torch.no_grad():
        scores = reward.score(TokenScorer(model), rows, tokenizer, CPU)
    assert abs(scores.mean()) < 0.5 and 0.5 < scores.std() < 2
    plain = AutoModelForSequenceClassification.from_pretrained(scorer.model_dir).eval()
    raw = plain(torch.tensor([rows[0]])).logits[0, 0].detach()
    assert_close(scores[0], (raw - plain.config.score_mean) / plain.config.score_std)


def test_the_reference_answers_have_mean_zero_and_deviation_one(policy, alone, tmp_path):
    """`normalise` itself, on the very answers that it drew."""
    tokenizer = models.load_tokenizer(policy.model_dir)
    net = TokenScorer(models.load_scorer(str(policy.model_dir), tokenizer))
    torch.manual_seed(0)
    nn.init.normal_(net.model.score.weight)
    net.__dict__["module"] = net  # not a submodule: it would contain itself
    seen = []
    net.register_forward_hook(lambda *a: seen.append(a[-1].clone()))
    data = type("Data", (), {"train": shop.demonstrations(32), "held_out": []})
    (tmp_path / "log").mkdir()
    recorder = Recorder(tmp_path, 0, 1)
    figures = reward.normalise(net, tiny.reward(policy.model_dir), tokenizer, data, recorder, CPU)
    white = (torch.cat(seen) - figures["score_mean"]) / figures["score_std"]
    assert abs(white.mean()) < 1e-5 and abs(white.std() - 1) < 1e-5
    assert figures["normalised_on"] == len(white) == 32


# ------------------------------------------------------------------------ the schedule
def test_the_learning_rate_anneals_per_optimizer_step(setting):
    config = dict(num_warmup_steps=2, lr_scheduler_type="linear", gradient_accumulation_steps=2)
    at = setting(**config, steps=3, ppo_epochs=2, minibatches=1)
    r = at.experience()
    ppo.add_advantages(at.config, r, beta=0.0)
    seen = []
    for _ in range(6):  # steps x epochs x minibatches, whatever the accumulation
        seen.append(at.actor.optimizer.param_groups[0]["lr"] / at.config.actor_learning_rate)
        at.learn(r)
    decay = [1 - 0.9 * k / 4 for k in range(4)]
    assert seen == pytest.approx([1 / 3, 2 / 3, *decay])


@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
def test_adam_epsilon_is_the_configurations(alone, epsilon):
    """Two steps of AdamW on one weight, by hand."""
    line = nn.Linear(1, 1, bias=False)
    line.weight.data.fill_(1.0)
    config = tiny.ppo("a", "b", adam_epsilon=epsilon, lr_scheduler_type="constant", minibatches=1)
    net = engine.initialize(config, line, 0.1, 2, "actor")
    m = v = 0.0
    w = 1.0
    for t, gradient in enumerate((0.003, -0.001), 1):
        engine.backward(net, net(torch.full((1, 1), gradient)).sum())
        net.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
        w -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)) ** 0.5 + epsilon)
    assert line.weight.item() == pytest.approx(w, abs=1e-6)
