"""Distillation: the divergences by brute force, the loop by what a student ends as."""

import math

import hypothesis.strategies as st
import pytest
import tiny_stages as tiny
import torch
from hypothesis import given
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from chatlib.data import template
from chatlib.launch.memory import memory
from chatlib.maths.distillation import distillation_loss
from chatlib.settings.distillation import DistillationConfig
from chatlib.settings.stages import Lora, TinyModel
from chatlib.train import distillation, models, rollout

STUDENT = TinyModel(hidden_size=16, intermediate_size=32, layers=1, heads=2, context=tiny.CONTEXT)


def settings(teacher, **changes) -> DistillationConfig:
    small = dict(model=STUDENT, teacher=str(teacher), steps=4, num_warmup_steps=1)
    return DistillationConfig(**tiny.SMALL | small | changes)


# ------------------------------------------------------------------------- the divergences
def by_hand(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q))


def softmax(z: list[float], tau: float) -> list[float]:
    e = [math.exp(value / tau) for value in z]
    return [value / sum(e) for value in e]


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_the_divergences_are_sums_over_the_vocabulary(tau):
    student, teacher = [0.3, -1.0, 2.0, 0.0], [1.0, 0.5, -0.5, 0.2]
    q, p = softmax(student, tau), softmax(teacher, tau)
    ours = [
        distillation_loss(torch.tensor([student]), torch.tensor([teacher]), kind, tau).item()
        for kind in ("forward", "reverse")
    ]
    assert ours == pytest.approx([tau**2 * by_hand(p, q), tau**2 * by_hand(q, p)], rel=1e-5)


def test_a_hard_label_is_the_teachers_likeliest_token():
    student, teacher = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([[0.0, 5.0, 1.0]])
    found = distillation_loss(student, teacher, "hard").item()
    assert found == pytest.approx(-math.log(softmax([0.3, -1.0, 2.0], 1.0)[1]), rel=1e-5)


def test_forward_covers_what_reverse_leaves_out():
    """A student that has one of the teacher's two modes: cheap in reverse, dear forwards."""
    teacher = torch.tensor([[3.0, 3.0, -6.0]])
    one_mode, both = torch.tensor([[6.0, -6.0, -6.0]]), torch.tensor([[1.0, 1.0, 0.6]])
    loss = {
        kind: [distillation_loss(z, teacher, kind).item() for z in (one_mode, both)]
        for kind in ("forward", "reverse")
    }
    assert loss["forward"][0] > loss["forward"][1] and loss["reverse"][0] < loss["reverse"][1]


def test_hot_distributions_match_logits():
    """As tau grows, the gradient becomes (z - v) / V for centred logits (Hinton et al., eq. 4)."""
    generator = torch.Generator().manual_seed(0)
    z, v = (torch.randn(1, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    z, v = z - z.mean(), v - v.mean()
    z.requires_grad_()
    distillation_loss(z, v, "forward", 1000.0).sum().backward()
    torch.testing.assert_close(z.grad, (z.detach() - v) / 7, atol=1e-3, rtol=0)


# ------------------------------------------------------------------------------- the parts
@given(st.floats(0, 1), st.integers(1, 400))
def test_the_share_of_steps_is_the_one_asked_for(share, steps):
    config = settings("run:t", on_policy=share)
    taken = sum(distillation.is_on_policy(config, step) for step in range(steps))
    assert taken == int(steps * share)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4))
def test_the_last_answer_begins_after_everything_before_it(turns):
    mask = [mark for told, said in turns for mark in [0] * told + [1] * said]
    begins = distillation.opening(template.Encoded(list(range(len(mask))), mask))
    assert all(mask[begins:]) and not mask[begins - 1]


def test_a_label_has_no_temperature():
    with pytest.raises(ValidationError, match=r"temperature 2\.0 with loss hard: the likeliest"):
        settings("run:t", loss="hard", temperature=2.0)


def test_a_student_of_other_tokens_is_refused(policy, tmp_path):
    other = tmp_path / "other"
    words = template.train_tokenizer(["another vocabulary of words"] * 50, 300)
    models.tiny_policy(STUDENT, words).save_pretrained(other)
    words.save_pretrained(other)
    config = settings(policy.model_dir, model=str(other))
    with pytest.raises(ValueError, match="have different tokens, so their probabilities"):
        distillation.student(config, models.load_tokenizer(config.teacher))


def test_the_teacher_is_counted_in_memory(policy):
    parts = memory(settings(policy.model_dir), "cpu")
    teacher = AutoModelForCausalLM.from_pretrained(policy.model_dir)
    assert parts["teacher"] == 4 * sum(p.numel() for p in teacher.parameters())
    student = models.tiny_policy(STUDENT, models.load_tokenizer(str(policy.model_dir)))
    assert parts["weights"] == 4 * sum(p.numel() for p in student.parameters())


# -------------------------------------------------------------------------------- the loop
@pytest.mark.parametrize("loss", ["forward", "reverse", "hard"])
def test_a_student_comes_closer_to_its_teacher(loss, policy, tmp_path):
    run = tiny.train(settings(policy.model_dir, loss=loss, steps=40), tmp_path)
    assert run.metrics["loss"].iloc[-3:].mean() < 0.9 * run.metrics["loss"].iloc[0]
    assert run.manifest["held_out_loss"] < run.metrics["loss"].iloc[0]
    assert AutoModelForCausalLM.from_pretrained(run.model_dir).config.hidden_size == 16


def test_the_teacher_as_its_own_student_has_nothing_to_learn(policy, tmp_path):
    config = settings(policy.model_dir, model=str(policy.model_dir), steps=2)
    assert tiny.train(config, tmp_path).metrics["loss"].iloc[0] == pytest.approx(0, abs=1e-6)


def test_adapters_of_a_student_are_merged(policy, tmp_path):
    config = settings(policy.model_dir, model=str(policy.model_dir), lora=Lora(lora_dim=2))
    run = tiny.train(config, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(run.model_dir)


def test_on_policy_steps_learn_from_what_the_student_said(policy, tmp_path, monkeypatch):
    learnt, drawn, learn, sample = [], [], distillation.learn, rollout.sample

    def look(net, teacher, own, *rest):
        learnt.append([tuple(e.ids) for e in own])
        return learn(net, teacher, own, *rest)

    def listen(model, prompts, *rest, **more):
        answers = sample(model, prompts, *rest, **more)
        drawn.append([tuple(p + a) for p, a in zip(prompts, answers)])
        return answers

    monkeypatch.setattr(distillation, "learn", look)
    monkeypatch.setattr(rollout, "sample", listen)
    run = tiny.train(settings(policy.model_dir, on_policy=0.5, max_answer_tokens=8), tmp_path)
    assert run.metrics["on_policy"].tolist() == [0, 1, 0, 1]
    assert drawn == [learnt[1], learnt[3]]


@pytest.mark.launch
@pytest.mark.timeout(300)
def test_two_ranks_learn_what_one_does(policy, tmp_path, monkeypatch):
    from chatlib.lab import launch

    monkeypatch.setenv("CHATLIB_RUNS", str(tmp_path))
    monkeypatch.setenv("CHATLIB_PROGRESS", "none")
    one, two = (launch(settings(policy.model_dir, ranks=n, steps=6)) for n in (1, 2))
    assert two.metrics["loss"].tolist() == pytest.approx(one.metrics["loss"].tolist(), rel=1e-4)
    held_out = [run.manifest["held_out_loss"] for run in (one, two)]
    assert held_out[1] == pytest.approx(held_out[0], rel=1e-4)
