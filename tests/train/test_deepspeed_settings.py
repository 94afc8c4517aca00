"""What DeepSpeed does for a setting: each against the run without it, on one rank."""

import math

import pytest
import tiny_stages as tiny
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_settings_do_what_they_say import remember_engines

from chatlib.runs.store import Run
from chatlib.settings.stages import Lora
from chatlib.train import engine, models, ppo


@pytest.fixture(scope="module")
def plain(alone, tmp_path_factory):
    """SFT with nothing set."""
    return tiny.train(tiny.sft(), tmp_path_factory.mktemp("plain"))


@pytest.fixture
def tuned(policy, scorer, tmp_path):
    """A function that runs PPO with the given settings: (run, [actor, critic])."""

    def run(**settings):
        config = tiny.ppo(policy.model_dir, scorer.model_dir, **settings)
        directory, runs = tmp_path / f"ppo{len(list(tmp_path.iterdir()))}", []
        nets = remember_engines(lambda: runs.append(tiny.train(config, directory)))
        return runs[0], nets

    return run


def figures(run):
    """All that was measured, but for the times."""
    return run.metrics.drop(columns=tiny.TIMES, errors="ignore")


# ------------------------------------------------------------------------------ memory
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_offloading_gives_the_same_losses(zero_stage, plain, tmp_path):
    config = tiny.sft(offload=True, zero_stage=zero_stage)
    nets, found = remember_engines(lambda: tiny.train(config, tmp_path)), tiny.losses
    assert found(Run(tmp_path)) == pytest.approx(found(plain), abs=1e-5)
    assert nets[0].zero_cpu_offload() and nets[0].zero_optimization_stage() == zero_stage
    assert (nets[0].zero_offload_param() is not None) == (zero_stage == 3)


def test_gradient_checkpointing_keeps_less_for_the_backward_pass(policy):
    """Bytes that autograd saves in one forward pass; 40 % is far more than any rounding."""
    ids = torch.arange(2 * 64).view(2, 64)
    saved = {}
    for on in (False, True):
        model = models.load_policy(str(policy.model_dir), models.load_tokenizer(policy.model_dir))
        if on:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        kept: dict[int, int] = {}

        def keep(t, kept=kept):
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            models.AnswerLM(model.train())(ids, torch.ones_like(ids))
        weights = {w.untyped_storage().data_ptr() for w in model.parameters()}
        saved[on] = sum(size for place, size in kept.items() if place not in weights)
    assert saved[True] < 0.6 * saved[False]


def test_an_offloaded_reference_gives_the_same_run(tuned):
    plain, _ = tuned()
    thrifty, _ = tuned(offload_reference_model=True)
    columns = list(figures(plain).columns)
    for column in columns:
        one, two = (tiny.losses(run, column) for run in (plain, thrifty))
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5), column
    assert thrifty.manifest["tflops"] > 0


def test_an_offloaded_reference_is_on_the_device_only_while_it_computes(policy):
    model = models.load_policy(str(policy.model_dir), models.load_tokenizer(policy.model_dir))
    ids = torch.arange(10, 60)[None]
    expected = models.AnswerLM(model)(ids, torch.ones_like(ids))[0].detach()
    net = engine.frozen(models.AnswerLM(model), torch.device("cpu"), offload=True)
    seen, layer = [], model.model.layers[0].self_attn.q_proj
    layer.register_forward_pre_hook(lambda *_: seen.append(layer.weight.numel()))
    with torch.no_grad():
        torch.testing.assert_close(net(ids, torch.ones_like(ids))[0], expected)
    assert seen == [layer.weight.ds_numel]
    assert all(w.numel() == 0 and not w.requires_grad for w in net.parameters())
    assert all(w.ds_tensor.device.type == "cpu" for w in net.parameters())


# --------------------------------------------------------------------- number formats
def test_bf16_on_a_cpu_is_close_to_fp32(plain, tmp_path):
    nets = remember_engines(lambda: tiny.train(tiny.sft(dtype="bf16"), tmp_path))
    assert {w.dtype for w in nets[0].parameters()} == {torch.bfloat16}
    assert tiny.losses(Run(tmp_path)) == pytest.approx(tiny.losses(plain), abs=0.05)
    assert tiny.losses(Run(tmp_path)) != tiny.losses(plain)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_bf16_takes_the_same_steps_with_and_without_zero(weight_decay, tmp_path):
    """Two ways through DeepSpeed; the first step shows in the second loss, to bf16's digits."""
    curves = [
        tiny.losses(
            tiny.train(
                tiny.sft(dtype="bf16", zero_stage=stage, weight_decay=weight_decay),
                tmp_path / str(stage),
            )
        )
        for stage in (0, 1)
    ]
    assert curves[0] == pytest.approx(curves[1], abs=3e-3)


def test_a_dtype_that_the_device_lacks_is_refused(alone, monkeypatch):
    import deepspeed

    here = deepspeed.get_accelerator()
    monkeypatch.setattr(type(here), "is_fp16_supported", lambda self: False)
    with pytest.raises(ValueError, match=r"dtype fp16: cpu .* use fp32 or bf16"):
        engine.check_dtype("fp16")
    monkeypatch.setattr(type(here), "is_fp16_supported", lambda self: True)
    for dtype in ("fp32", "bf16", "fp16"):
        engine.check_dtype(dtype)


# --------------------------------------------------------------------------- records
def test_tensorboard_holds_what_metrics_hold(tmp_path, policy):
    run = tiny.train(tiny.sft(enable_tensorboard=True, eval_every=2), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "model")).Reload()
    for column in ("loss", "learning_rate", "held_out_loss", "tokens"):
        values = run.metrics.set_index("step")[column].dropna()
        curve = {event.step: event.value for event in events.Scalars(column)}
        assert curve == pytest.approx(values.to_dict()) and len(curve) >= 2


def test_tensorboard_of_ppo(tuned):
    run, _ = tuned(enable_tensorboard=True)
    events = EventAccumulator(str(run.directory / "tensorboard" / "actor")).Reload()
    curve = [event.value for event in events.Scalars("score")]
    assert curve == pytest.approx(tiny.losses(run, "score"))


def test_answers_are_printed_while_it_trains(tmp_path, tuned, capsys):
    """Three prompts with their answers every so many steps."""
    tiny.train(tiny.sft(print_answers=2), tmp_path / "sft")
    assert capsys.readouterr().out.count("  -> ") == 3 * 4 // 2
    tuned(print_answers=2)
    assert capsys.readouterr().out.count("  -> ") == 3 * 2 // 2
    tuned(steps=1)
    assert "  -> " not in capsys.readouterr().out


# ------------------------------------------------------------------------ optimisation
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_learning_rates_follow_their_closed_form(kind, tmp_path, alone):
    """Warm-up over w steps, then from 1 to 0.1 over the rest: the rate of each of n steps."""
    n, w, peak = 8, 3, 2e-3
    config = tiny.sft(steps=n, num_warmup_steps=w, lr_scheduler_type=kind, learning_rate=peak)
    run = tiny.train(config, tmp_path)
    expected = []
    for k in range(n):
        left = (n - k) / (n - w)
        after = {
            "constant": 1.0,
            "linear": 0.1 + 0.9 * left,
            "cosine": 0.1 + 0.45 * (1 - math.cos(math.pi * left)),
        }[kind]
        expected.append(peak * ((k + 1) / (w + 1) if k < w else after))
    assert tiny.losses(run, "learning_rate") == pytest.approx(expected)


def test_adapters_have_a_learning_rate_of_their_own(policy, tmp_path):
    """AdamW's first step moves a weight by its rate, whatever the gradient's size."""
    settings = dict(
        lora=Lora(lora_learning_rate=3e-2),
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        num_warmup_steps=0,
        adam_epsilon=1e-14,
        steps=1,
    )
    for config, trained, rate in (
        (tiny.sft(model=policy.model_dir, **settings), "lora_B", 3e-2),
        (tiny.reward(policy.model_dir, **settings), "score.modules_to_save", 1e-3),
    ):
        nets = remember_engines(lambda config=config: tiny.train(config, tmp_path / config.stage))
        weights = [w for n, w in nets[0].module.named_parameters() if trained in n]  # from zero
        moved = torch.cat([w.detach().abs().flatten() for w in weights])
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-3, atol=0)
    assert [g["lr"] for g in nets[0].optimizer.param_groups] == [1e-3, 3e-2]


def test_without_a_rate_of_their_own_adapters_have_the_stages(policy, tmp_path):
    config = tiny.sft(model=policy.model_dir, lora=Lora(), steps=1)
    nets = remember_engines(lambda: tiny.train(config, tmp_path))
    assert len(nets[0].optimizer.param_groups) == 1


# --------------------------------------------------------------------- actor and critic
def test_actor_and_critic_have_settings_of_their_own(tuned):
    settings = dict(
        actor_zero_stage=2,
        critic_zero_stage=3,
        actor_learning_rate=2e-4,
        critic_learning_rate=5e-4,
        critic_weight_decay=0.1,
        actor_gradient_checkpointing=True,
    )
    run, (actor, critic) = tuned(lr_scheduler_type="constant", **settings)
    assert [net.zero_optimization_stage() for net in (actor, critic)] == [2, 3]
    assert [net.optimizer.param_groups[0]["weight_decay"] for net in (actor, critic)] == [0, 0.1]
    assert actor.module.model.is_gradient_checkpointing
    assert not critic.module.model.is_gradient_checkpointing
    for role, rate in (("actor", 2e-4), ("critic", 5e-4)):
        assert tiny.losses(run, f"{role}_learning_rate") == pytest.approx([rate] * 2)


def test_other_zero_stages_give_the_same_run(tuned):
    plain, _ = tuned(adam_epsilon=1e-3)
    mixed, _ = tuned(adam_epsilon=1e-3, actor_zero_stage=2, critic_zero_stage=1)
    for column in figures(plain).columns:
        one, two = (tiny.losses(run, column) for run in (plain, mixed))
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4), column


def test_one_of_them_may_have_adapters(tuned):
    _, nets = tuned(actor_lora=Lora(lora_dim=2))
    adapters = [[n for n, _ in net.module.named_parameters() if "lora_" in n] for net in nets]
    assert len(adapters[0]) == 2 * 2 * 2 and not adapters[1]
    assert all(w.requires_grad for w in nets[1].module.parameters())


# ---------------------------------------------------------------------------- rollouts
def test_epochs_and_minibatches_are_optimizer_steps(tuned):
    run, nets = tuned(ppo_epochs=3, minibatches=2)
    assert [net.global_steps for net in nets] == [2 * 3 * 2] * 2
    once, _ = tuned(ppo_epochs=1, minibatches=2)
    assert once.metrics["score"][0] == run.metrics["score"][0]  # the first rollout is the same
    assert once.metrics["approx_kl"][0] < run.metrics["approx_kl"][0]  # from more of its steps


def test_rollout_batches_are_gathered_before_the_update(tuned, monkeypatch):
    sizes, answers = [], []
    sample, make = ppo.rollout.sample, ppo.make_experience
    monkeypatch.setattr(
        ppo.rollout, "sample", lambda *a, **k: (sizes.append(len(a[1])), sample(*a, **k))[1]
    )
    monkeypatch.setattr(
        ppo, "make_experience", lambda *a, **k: (answers.append(len(a[3])), make(*a, **k))[1]
    )
    run, nets = tuned(generation_batches=3, ppo_epochs=1, minibatches=2)
    assert sizes == [8] * 6 and answers == [24] * 2
    assert nets[0].global_steps == 2 * 2
    facts = run.manifest
    assert facts["samples_per_second"] * facts["train_seconds"] == pytest.approx(48)
