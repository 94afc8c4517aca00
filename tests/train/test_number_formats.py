"""What is loaded, summed and checked in which number format, where 16 bits would tell."""

import pytest
import tiny_stages as tiny
import torch

from chatlib.runs.store import Run
from chatlib.settings.deepspeed import deepspeed_json
from chatlib.train import engine, models, ppo, reward
from chatlib.train.finite import require_finite

STAGES = {
    "sft": lambda p, s: tiny.sft(model=str(p), steps=1, dtype="bf16"),
    "reward": lambda p, s: tiny.reward(p, steps=1, dtype="bf16"),
    "dpo": lambda p, s: tiny.dpo(p, steps=1, dtype="bf16"),
    "ppo": lambda p, s: tiny.ppo(p, s, steps=1, dtype="bf16"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_model_is_loaded_in_the_number_format_of_training(
    stage, policy, scorer, tmp_path, monkeypatch
):
    """In fp32 a model takes twice the memory before it is cast, on every rank at once."""
    seen = []

    def watched(load):
        def loading(reference, tokenizer, dtype=torch.float32):
            model = load(reference, tokenizer, dtype)
            seen.append({weight.dtype for weight in model.parameters()})
            return model

        return loading

    for name in ("load_policy", "load_scorer"):
        monkeypatch.setattr(models, name, watched(getattr(models, name)))
    tiny.train(STAGES[stage](policy.model_dir, scorer.model_dir), tmp_path)
    assert seen and all(formats == {torch.bfloat16} for formats in seen)


def test_room_for_new_tokens_leaves_the_generators_of_cards_alone(policy, monkeypatch):
    def seeded(seed):
        raise AssertionError(f"the cards' generators were seeded with {seed}")

    tokenizer = models.load_tokenizer(policy.model_dir)
    tokenizer.add_tokens([f"<new{i}>" for i in range(9)])
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, seeded)
    before = torch.get_rng_state()
    rows = [
        models.load_policy(str(policy.model_dir), tokenizer).get_input_embeddings().weight[-9:]
        for _ in range(2)
    ]
    assert torch.equal(*rows) and torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------- sums of micro-batches
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_of_16_bits_are_summed_in_32_where_deepspeed_can(stage):
    several = tiny.sft(dtype="bf16", zero_stage=stage, gradient_accumulation_steps=2)
    asked = deepspeed_json(several, "cpu").get("data_types")
    assert asked == ({"grad_accum_dtype": "fp32"} if stage >= 2 else None)
    for other in (
        tiny.sft(dtype="bf16", zero_stage=stage),
        several.model_copy(update={"dtype": "fp32"}),
    ):
        assert "data_types" not in deepspeed_json(other, "cpu")


class Layer(torch.nn.Module):
    """A weight whose gradient is what it is multiplied by."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(64))

    def forward(self, x):
        return (self.weight * x).sum()


@pytest.mark.parametrize("stage", [2, 3])
def test_a_small_gradient_after_a_large_one_is_not_lost(stage, alone):
    """1 + 64 x 1/256: in bf16, every one of the small terms is rounded away."""
    config = tiny.sft(dtype="bf16", zero_stage=stage, batch_size=65, gradient_accumulation_steps=65)
    net = engine.initialize(config, Layer(), 1e-3, 4)
    norms = []
    for part in range(65):
        x = torch.full((64,), 1.0 if part == 0 else 1 / 256, dtype=torch.bfloat16)
        engine.backward(net, net(x) / 65)
        net.step()
        norms.append(net.get_global_grad_norm())
    exact = (1 + 64 / 256) * 64**0.5
    assert 65 * float(norms[-1]) == pytest.approx(exact, rel=5e-3)


# -------------------------------------------------------- what is no number is named
def test_ppo_names_the_update_after_which_weights_are_no_numbers(policy, scorer, tmp_path):
    """The next thing done with them would be to draw answers, and torch says less then."""
    config = tiny.ppo(policy.model_dir, scorer.model_dir, steps=3, actor_learning_rate=1e36)
    with pytest.raises(FloatingPointError, match=r"at step \d; .*weights are not finite") as caught:
        tiny.train(config, tmp_path)
    assert "the first is model.model." in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_ppo_names_a_reward_that_is_no_number(policy, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "score", lambda net, rows, *_: torch.full((len(rows),), torch.nan))
    with pytest.raises(FloatingPointError, match="score is nan at step 1; "):
        tiny.train(tiny.ppo(policy.model_dir, scorer.model_dir, steps=3), tmp_path)


def test_weights_are_looked_at_unasked_only_by_a_loop_that_draws_from_them():
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.bias[0] = torch.inf
    require_finite(net, 1, {"loss": 0.5})
    with pytest.raises(
        FloatingPointError, match=r"update went wrong at step 1; 1 of 2 weights.*bias"
    ):
        require_finite(net, 1, {"loss": 0.5}, look=True)


# ----------------------------------------------------------- saved before it can fail
def test_a_reward_model_is_saved_before_its_score_is_normalised(policy, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(reward, "normalise", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            tiny.train(tiny.reward(policy.model_dir), tmp_path / "failed")
    whole = tiny.train(tiny.reward(policy.model_dir), tmp_path / "whole")
    saved = [Run(tmp_path / name).directory / "model" for name in ("failed", "whole")]
    assert tiny.furthest(*map(tiny.weights, saved)) == 0
    mean, std = whole.manifest["score_mean"], whole.manifest["score_std"]
    tokenizer = models.load_tokenizer(saved[1])
    known = models.load_scorer(str(saved[1]), tokenizer).config
    assert (known.score_mean, known.score_std) == (mean, std)
    assert not list(saved[1].glob("*.part"))


def test_a_checkers_pay_is_measured(policy):
    config = tiny.ppo(
        policy.model_dir,
        None,
        reward="chatlib.data.tutor:check",
        advantage="rloo",
        answers_per_prompt=2,
    )
    paid = torch.tensor([1.0, 0.0, 1.0, 1.0])
    r = ppo.Rollout([], [], *[torch.zeros(4)] * 6, paid, *[torch.zeros(4)] * 2)
    assert ppo.of_algorithm(config, r) == {"alike": 0.5, "paid": 0.75}
