"""FLOPs against PyTorch's own count, and the rates in metrics and manifest against a clock."""

import pytest
import tiny_stages as tiny
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from chatlib.settings.stages import Lora, SFTConfig
from chatlib.train import models, ppo
from chatlib.train.throughput import Size, forward_flops, rates, training_flops

ROWS, LENGTH, VOCABULARY = 3, 24, 300
SIZE = Size(body=2 * (4 * 32 * 32 + 3 * 32 * 64), head=VOCABULARY * 32, layers=2, width=32)


DEEP = {"num_hidden_layers": 8, "layer_types": None, "attn_implementation": "eager"}


def counted(net, *inputs) -> tuple[float, float]:
    """(FLOPs of a forward pass, of a forward and a backward pass) as PyTorch counts them."""
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        net(*inputs)
    with FlopCounterMode(display=False) as both:
        out = net(*inputs)
        (out[0] if isinstance(out, tuple) else out).sum().backward()
    return forward.get_total_flops(), both.get_total_flops()


@pytest.fixture
def llama():
    """Two layers of width 32, whose attention is written out, so that its products are seen."""
    model = tiny.foreign_model("llama", VOCABULARY)
    model.set_attn_implementation("eager")
    return model.train()


@pytest.fixture
def batch():
    """(ids, mask of the last five tokens), both (rows, time)."""
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % VOCABULARY
    return ids, (torch.arange(LENGTH) >= LENGTH - 5).long().expand(ROWS, -1)


def test_the_size_is_read_off_the_model(llama):
    assert models.size_of(llama) == SIZE
    folder = tiny.foreign_model("gpt2", VOCABULARY)  # its matrices are no nn.Linear
    assert models.size_of(folder) == Size(2 * 12 * 32 * 32, VOCABULARY * 32, 2, 32)


def test_flops_of_a_language_model_are_those_that_pytorch_counts(llama, batch):
    forward, both = counted(models.AnswerLM(llama), *batch)
    ours = forward_flops(SIZE, [LENGTH - 1] * ROWS, 5 * ROWS)
    assert ours == pytest.approx(forward, rel=5e-3)  # PyTorch also sees the rotary angles
    assert training_flops(ours, SFTConfig(), SIZE) == pytest.approx(both, rel=5e-3)


def test_checkpointing_computes_one_forward_pass_more(llama, batch):
    llama.gradient_checkpointing_enable()
    llama.enable_input_require_grads()
    _, both = counted(models.AnswerLM(llama), *batch)
    head = 3 * 2 * SIZE.head * 5 * ROWS  # not in a layer, so not computed again
    config = SFTConfig(gradient_checkpointing=True)
    body = training_flops(forward_flops(SIZE, [LENGTH - 1] * ROWS, 0), config, SIZE)
    assert body + head == pytest.approx(both, rel=0.05)  # a layer's last product is left out


def test_lora_forms_no_gradients_of_frozen_weights(llama, batch):
    config = SFTConfig(lora=Lora(lora_dim=1))
    models.add_lora(llama, config.lora, "CAUSAL_LM")
    _, both = counted(models.AnswerLM(llama), *batch)
    attention = 4 * SIZE.layers * SIZE.width * ROWS * (LENGTH - 1) ** 2  # both of its inputs vary
    ours = training_flops(forward_flops(SIZE, [LENGTH - 1] * ROWS, 5 * ROWS), config, SIZE)
    assert ours + attention == pytest.approx(both, rel=0.1)  # the adapters, and no first layer


def test_what_lies_below_the_lowest_adapter_has_no_backward_pass(batch):
    counts, ours = [], []
    for top in (None, 1):
        deep = LlamaConfig(**(tiny.foreign_model("llama", VOCABULARY).config.to_dict() | DEEP))
        llama = LlamaForCausalLM(deep).train()
        config = SFTConfig(lora=Lora(lora_dim=1, top_layers=top))
        models.add_lora(llama, config.lora, "CAUSAL_LM")
        size = models.size_of(LlamaForCausalLM(deep))
        counts.append(counted(models.AnswerLM(llama), *batch)[1])
        ours.append(training_flops(forward_flops(size, [LENGTH - 1] * ROWS, 0), config, size))
        adapted = {n for n, w in llama.named_parameters() if w.requires_grad}
        assert len(adapted) == 2 * 2 * (top or 8) and all(".7." in n for n in adapted if top)
    assert counts[1] / counts[0] == pytest.approx(ours[1] / ours[0], rel=0.1)


def test_more_upper_layers_than_there_are_is_an_error(llama):
    with pytest.raises(ValueError, match="top_layers 9: this model has 2 layers"):
        models.add_lora(llama, Lora(top_layers=9), "CAUSAL_LM")


def test_flops_of_a_scorer_by_hand():
    """One token in one layer: 2 FLOPs a weight, and 4 d for its attention to itself."""
    assert forward_flops(Size(body=10, head=3, layers=1, width=4), [1], 1) == 20 + 6 + 16
    assert forward_flops(Size(body=10, head=3, layers=1, width=4), [2, 3], 2) == 100 + 12 + 16 * 13


def test_rates_are_totals_over_the_ranks():
    found = rates(samples=8, tokens=400, flops=6e12, seconds=2.0, ranks=3)
    assert found == {
        "samples_per_second": 4.0,
        "tokens_per_second": 200.0,
        "tflops": 3.0,
        "tflops_per_rank": 1.0,
    }


def test_the_manifest_says_how_fast_it_was(policy, scorer):
    for run in (policy, scorer):
        facts, seconds = run.manifest, run.manifest["train_seconds"]
        assert facts["samples_per_second"] * seconds == pytest.approx(8 * 8)
        assert facts["tokens_per_second"] * seconds == pytest.approx(facts["tokens"])
        assert facts["tflops"] == facts["tflops_per_rank"] > 0
        assert set(rates(0, 0, 0, 1, 1)) < set(run.metrics.columns)


def test_the_flops_of_sft_are_those_of_its_passes(alone, tmp_path, monkeypatch):
    """PyTorch counts a whole run's products; one row a batch, so that none is padded."""
    original = models.tiny_policy

    def written_out(*arguments):
        model = original(*arguments)
        model.set_attn_implementation("eager")  # the fused kernel's products are not counted
        return model

    monkeypatch.setattr(models, "tiny_policy", written_out)
    with FlopCounterMode(display=False) as counter:
        run = tiny.train(tiny.sft(batch_size=1, steps=3, held_out=0), tmp_path)
    ours = run.manifest["tflops"] * run.manifest["train_seconds"] * 1e12
    assert ours == pytest.approx(counter.get_total_flops(), rel=5e-3)


def test_ppo_divides_its_time_among_generation_and_learning(policy, scorer, tmp_path):
    run = tiny.train(tiny.ppo(policy.model_dir, scorer.model_dir), tmp_path)
    facts, rows = run.manifest, run.metrics
    spent = {p: rows[f"{p}_seconds"].sum() for p in ("generate", "score", "learn")}
    seconds = sum(spent.values())
    assert facts["generation_share"] == pytest.approx(spent["generate"] / seconds)
    assert facts["samples_per_second"] == pytest.approx(2 * 8 / seconds)
    whole = facts["tflops"] * seconds
    parts = [facts[f"{p}_tflops"] * spent[p] for p in ("generate", "learn")]
    assert whole > sum(parts) and parts[1] > 2 * 2 * parts[0]  # 2 epochs of actor and critic


def test_ppos_flops_by_hand(policy):
    """Two rows; the actor generates once, is scored twice and learns six times its pass."""
    config = tiny.ppo("a", "b", ppo_epochs=2)
    size = Size(body=100, head=10, layers=1, width=4)
    none = torch.zeros(2, 3)
    r = ppo.Rollout([[1] * 5, [1] * 8], [[1] * 2, [1] * 3], *[none] * 5, *[none[:, 0]] * 4)
    once = forward_flops(size, [4, 7], 5)
    score = 3 * once + forward_flops(size, [5, 8], 2)
    assert ppo.flops(config, size, size, r).tolist() == [once, score, 2 * 2 * 3 * once]
