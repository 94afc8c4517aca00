"""Settings of the stages: what each promises, measured on a tiny model with one rank."""

import pytest
import tiny_stages as tiny
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from chatlib.data import shop, template
from chatlib.runs import checkpoints
from chatlib.settings.stages import Lora
from chatlib.train import engine, models, ppo, reward, rollout


# -------------------------------------------------------------------- reproducibility
def test_the_same_seed_gives_the_same_losses_bit_for_bit(policy, tmp_path):
    again = tiny.train(tiny.sft(steps=8), tmp_path / "again")
    assert tiny.losses(again) == tiny.losses(policy)
    assert tiny.furthest(tiny.weights(again.model_dir), tiny.weights(policy.model_dir)) == 0
    other = tiny.train(tiny.sft(steps=8, seed=1), tmp_path / "other")
    assert tiny.losses(other) != tiny.losses(policy)


def test_losses_fall_and_the_saved_model_has_the_held_out_loss_reported(policy):
    losses = tiny.losses(policy)
    assert losses[-1] < losses[0] - 0.2
    model = AutoModelForCausalLM.from_pretrained(policy.model_dir).eval()
    assert model.generation_config.eos_token_id == model.config.eos_token_id is not None
    assert sum(p.numel() for p in model.parameters()) > 10_000


# ---------------------------------------------------------------- gradient accumulation
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_accumulation_of_four_by_one_is_one_by_four(stage, policy, scorer, tmp_path):
    """The same steps, though the micro-batches hold unequal numbers of tokens."""
    found = []
    for parts in (1, 4):
        changes = dict(gradient_accumulation_steps=parts, num_warmup_steps=0)
        config = {
            "sft": lambda c: tiny.sft(**c),
            "reward": lambda c: tiny.reward(policy.model_dir, **c),
            "ppo": lambda c: tiny.ppo(
                policy.model_dir, scorer.model_dir, steps=1, ppo_epochs=1, minibatches=1, **c
            ),
        }[stage](changes)
        found.append(tiny.train(config, tmp_path / str(parts)))
    column = "value_error" if stage == "ppo" else "loss"
    one, four = (tiny.losses(run, column) for run in found)
    assert one == pytest.approx(four, abs=1e-5)
    assert tiny.furthest(*(tiny.weights(run.model_dir) for run in found)) < 1e-5


def test_gradient_checkpointing_gives_the_same_losses(policy, scorer, tmp_path):
    plain = tiny.train(tiny.sft(), tmp_path / "plain")
    thrifty = tiny.train(tiny.sft(gradient_checkpointing=True), tmp_path / "thrifty")
    assert tiny.losses(plain) == pytest.approx(tiny.losses(thrifty), abs=1e-6)
    runs_ = [
        tiny.train(
            tiny.ppo(policy.model_dir, scorer.model_dir, gradient_checkpointing=on),
            tmp_path / f"ppo {on}",
        )
        for on in (False, True)
    ]
    one, two = (tiny.losses(run, "value_error") for run in runs_)
    assert one == pytest.approx(two, abs=1e-6)


# -------------------------------------------------------------------------------- LoRA
LORA = Lora(lora_dim=4)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_lora_trains_only_adapters_and_prints_their_share(policy, task):
    tokenizer = models.load_tokenizer(policy.model_dir)
    load = models.load_policy if task == "CAUSAL_LM" else models.load_scorer
    model = load(str(policy.model_dir), tokenizer)
    whole = sum(p.numel() for p in model.parameters())
    line = models.add_lora(model, LORA, task)
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    heads = {n for n in trained if "lora_" not in n}
    assert heads == (set() if task == "CAUSAL_LM" else {"score.modules_to_save.default.weight"})
    adapters = 2 * 2 * (2 * 4 * tiny.TINY.hidden_size)  # layers x modules x (A and B)
    head = 0 if task == "CAUSAL_LM" else tiny.TINY.hidden_size
    assert sum(trained.values()) == adapters + head
    assert line.startswith(f"LoRA: 4 layers, {adapters + head} of {whole + adapters + head}")


def test_lora_that_matches_nothing_is_an_error(policy):
    tokenizer = models.load_tokenizer(policy.model_dir)
    model = models.load_policy(str(policy.model_dir), tokenizer)
    with pytest.raises(ValueError, match=r"\['c_attn'\] matches no layer; this model has .*q_proj"):
        models.add_lora(model, Lora(lora_module_name=["c_attn"]), "CAUSAL_LM")


def test_lora_leaves_the_base_and_the_merged_folder_is_what_was_trained(policy, tmp_path):
    config = tiny.sft(model=str(policy.model_dir), lora=LORA, learning_rate=2e-2)
    nets = remember_engines(lambda: tiny.train(config, tmp_path))
    saved, before = (tiny.weights(d / "model") for d in (tmp_path, policy.directory))
    changed = {name for name in saved if not torch.equal(saved[name], before[name])}
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = torch.arange(10, 60)[None]
    unmerged = nets[0].module.model.eval()
    torch.testing.assert_close(merged(ids).logits, unmerged(ids).logits, rtol=1e-4, atol=1e-4)


def test_lora_through_reward_model_and_ppo(policy, tmp_path):
    config = tiny.reward(policy.model_dir, lora=LORA, learning_rate=2e-2)
    nets = remember_engines(lambda: tiny.train(config, tmp_path / "reward"))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward" / "model").eval()
    ids = torch.arange(10, 60)[None]
    known = plain.config
    with torch.no_grad():
        whole = (plain(ids).logits[0] - known.score_mean) / known.score_std
        where = torch.zeros_like(ids)
        where[0, -1] = 1
        nets[0].eval()
        torch.testing.assert_close(nets[0](ids, where), whole, rtol=1e-3, atol=1e-3)
    run = tiny.train(
        tiny.ppo(policy.model_dir, tmp_path / "reward" / "model", lora=LORA), tmp_path / "ppo"
    )
    AutoModelForCausalLM.from_pretrained(run.model_dir)
    assert max(tiny.losses(run, "first_log_ratio")) < 1e-5


def remember_engines(action) -> list:
    """The engines that were made while an action ran."""
    made, original = [], engine.initialize

    def remember(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "initialize", remember)
        action()
    return made


# --------------------------------------------------------------------------------- EMA
def ema_closed_form(start, values, decay):
    """``a_n = decay^n a_0 + (1 - decay) sum_k decay^(n - k) value_k``, in double precision."""
    n = len(values)
    weighted = sum(decay ** (n - k) * v.double() for k, v in enumerate(values, start=1))
    return (decay**n * start.double() + (1 - decay) * weighted).float()


def test_the_average_arrives_though_the_weights_are_in_bf16():
    """2000 updates: an average in bf16 stays where it is, each step being below its spacing."""
    line = torch.nn.Linear(64, 64, bias=False).to(torch.bfloat16)
    start = line.weight.detach().float().clone()
    ema = ppo.Ema(0.992, line)
    line.weight.data.add_(0.01)
    goal = line.weight.detach().clone()
    for _ in range(2000):
        ema.update()
    torch.testing.assert_close(
        ema.average[0], ema_closed_form(start, [goal] * 2000, 0.992), rtol=1e-4, atol=1e-6
    )
    assert (ema.average[0] - goal.float()).abs().max() < 1e-5


def test_the_average_equals_its_closed_form(policy, scorer, tmp_path):
    """The weights after every update, against the sum that the recursion stands for."""
    seen = []
    original = ppo.Ema.update

    def update(self):
        seen.append({n: w.clone() for n, w in self.model.state_dict().items()})
        original(self)

    config = tiny.ppo(policy.model_dir, scorer.model_dir, enable_ema=True, ema_decay=0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo.Ema, "update", update)
        run = tiny.train(config, tmp_path)
    assert len(seen) == config.steps * config.ppo_epochs * config.minibatches
    start, average = tiny.weights(policy.model_dir), tiny.weights(tmp_path / "model_ema")
    final = tiny.weights(run.model_dir)
    for name, found in average.items():
        values = [weights[name] for weights in seen]
        expected = ema_closed_form(start[name], values, 0.9)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert tiny.furthest(average, final) > 1e-5


# --------------------------------------------------------------------------------- PTX
def test_ptx_is_the_sft_loss_of_the_batch_times_its_coefficient(policy, scorer):
    tokenizer = models.load_tokenizer(policy.model_dir)
    config = tiny.ppo(policy.model_dir, scorer.model_dir, unsup_coef=0.5)
    actor = models.AnswerLM(models.load_policy(str(policy.model_dir), tokenizer))
    records = shop.demonstrations(6)
    shown = ppo.demonstrations_of(config, records, tokenizer, 256)
    total = torch.tensor(sum(sum(e.mask) for e in shown))
    loss = ppo.ptx_loss(config, actor, shown, tokenizer.pad_token_id, total)
    log_probs = []
    for encoded in template.encode(tokenizer, [r.messages for r in records]):
        logp = actor.model(torch.tensor([encoded.ids])).logits[0].log_softmax(-1)[:-1]
        picked = logp.gather(-1, torch.tensor(encoded.ids[1:])[:, None]).squeeze(-1)
        log_probs.append(picked[torch.tensor(encoded.mask[1:]).bool()])
    torch.testing.assert_close(loss, -0.5 * torch.cat(log_probs).mean())
    assert ppo.demonstrations_of(tiny.ppo("a", "b"), records, tokenizer, 256) == []


def test_ptx_pulls_the_actor_towards_the_demonstrations(policy, scorer, tmp_path):
    settings = dict(steps=4, actor_learning_rate=3e-3)
    after = {}
    for coefficient in (0.0, 5.0):
        config = tiny.ppo(policy.model_dir, scorer.model_dir, unsup_coef=coefficient, **settings)
        run = tiny.train(config, tmp_path / str(coefficient))
        probe = tiny.sft(model=str(run.model_dir), steps=1)
        after[coefficient] = tiny.losses(tiny.train(probe, run.directory / "probe"))[0]
    assert after[5.0] < after[0.0] - 0.05


# ------------------------------------------------------------------------------ resume
RESUMED = {
    "sft": lambda p, s: tiny.sft(save_every=2, disable_dropout=False),
    "reward": lambda p, s: tiny.reward(p, save_every=2),
    "ppo": lambda p, s: tiny.ppo(
        p, s, steps=4, save_every=2, kl_target=0.5, kl_horizon=50, enable_ema=True
    ),
}


@pytest.mark.parametrize("zero_stage", [0, 3])
@pytest.mark.parametrize("stage", RESUMED)
def test_two_and_two_steps_are_four_bit_for_bit(stage, zero_stage, policy, scorer, tmp_path):
    """Weights, moments, schedule, data position, random numbers, beta and average."""
    config = RESUMED[stage](policy.model_dir, scorer.model_dir)
    config = config.model_copy(update={"zero_stage": zero_stage})
    whole = tiny.train(config, tmp_path / "whole")
    torch.manual_seed(123)  # whatever the process did in between
    part = tmp_path / "part"
    part.mkdir()
    (part / "metrics.jsonl").write_text((tmp_path / "whole" / "metrics.jsonl").read_text())
    rest = tiny.train(config, part, checkpoints.checkpoint_path(whole.directory, 2))
    same = [run.metrics.drop(columns=tiny.TIMES, errors="ignore") for run in (whole, rest)]
    assert same[0].equals(same[1]) and len(same[0]) >= 4
    assert rest.manifest["tokens"] == whole.manifest["tokens"]
    folders = ["model", "model_ema"] if stage == "ppo" else ["model"]
    for folder in folders:
        assert tiny.furthest(*(tiny.weights(r.directory / folder) for r in (whole, rest))) == 0


@pytest.mark.parametrize("stage", RESUMED)
def test_a_run_that_was_cut_off_after_its_last_step_is_finished(stage, policy, scorer, tmp_path):
    config = RESUMED[stage](policy.model_dir, scorer.model_dir)
    whole = tiny.train(config, tmp_path / "whole")
    rest = tiny.train(config, tmp_path / "rest", checkpoints.checkpoint_path(whole.directory, 4))
    figures = ("tokens", "loss", "held_out_loss", "held_out_accuracy", "beta")
    for name in figures:
        assert rest.manifest.get(name) == whole.manifest.get(name)
    assert tiny.furthest(*(tiny.weights(r.model_dir) for r in (whole, rest))) == 0


# ----------------------------------------------------------------------------- figures
def test_nothing_held_out_is_allowed(policy, tmp_path):
    run = tiny.train(tiny.sft(held_out=0, steps=1), tmp_path / "sft")
    assert run.manifest["held_out_loss"] is None
    run = tiny.train(tiny.reward(policy.model_dir, held_out=0, steps=1), tmp_path / "reward")
    assert "held_out_accuracy" not in run.manifest


def test_looking_at_answers_and_evaluating_do_not_change_a_run(policy, tmp_path):
    plain = tiny.train(tiny.sft(), tmp_path / "plain")
    watched = tiny.train(tiny.sft(print_answers=1, eval_every=1), tmp_path / "watched")
    assert tiny.losses(watched) == tiny.losses(plain)
    assert len(tiny.losses(watched, "held_out_loss")) == 4


def test_tokens_are_counted_as_they_are(policy, tmp_path):
    """SFT's tokens are those of the examples, without padding."""
    seen = []
    original = models.AnswerLM.forward

    def forward(self, ids, mask, *args, **kwargs):
        if torch.is_grad_enabled():
            pad = self.model.config.pad_token_id
            seen.append((int((ids != pad).sum()), int(mask[:, 1:].sum())))
        return original(self, ids, mask, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.AnswerLM, "forward", forward)
        run = tiny.train(tiny.sft(), tmp_path)
    assert run.manifest["tokens"] == sum(tokens for tokens, _ in seen)
    assert tiny.losses(run, "tokens")[0] == seen[0][0]


def test_the_reward_models_accuracy_is_that_of_its_scores(scorer, policy):
    manifest = scorer.manifest
    assert 0 <= manifest["held_out_accuracy"] <= 1 and 0.7 < manifest["bayes_accuracy"] < 1
    share = (manifest["held_out_accuracy"] - 0.5) / (manifest["bayes_accuracy"] - 0.5)
    assert manifest["chance_to_bayes"] == pytest.approx(share)


def test_answers_do_not_depend_on_their_batch(policy):
    """Greedy answers alone are those among others; order is the prompts'."""
    tokenizer = models.load_tokenizer(policy.model_dir)
    model = models.load_policy(str(policy.model_dir), tokenizer)
    prompts = [d.prompt for d in shop.demonstrations(9)]
    together = rollout.answer(model, tokenizer, prompts, 16, temperature=0, batch_size=4)
    alone = [rollout.answer(model, tokenizer, [p], 16, temperature=0)[0] for p in prompts]
    assert together == alone
    sampled = [rollout.answer(model, tokenizer, prompts, 16, seed=s) for s in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_pairs_share_their_prompt(policy, tmp_path):
    tokenizer = models.load_tokenizer(policy.model_dir)
    recorder = type("Place", (), {"rank": 0, "world": 1})
    records = shop.preferences(12)
    pairs, _, report = reward.encode(tokenizer, records, tiny.CONTEXT, recorder)
    prompts = template.encode_prompts(tokenizer, [r.prompt for r in records])
    for prompt, record, (chosen, rejected) in zip(prompts, records, pairs):
        assert chosen[: len(prompt)] == rejected[: len(prompt)] == prompt
        assert template.decode(tokenizer, [chosen[len(prompt) :]]) == [record.chosen]
        assert chosen[-1] == rejected[-1] == tokenizer.eos_token_id
    assert report == []
