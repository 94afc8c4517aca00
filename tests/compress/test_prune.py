"""Pruning: which weights go, what is left in bytes, and heads against their gates."""

import copy

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.compress import folder, prune


def drawn(seed, rows=6, columns=8):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**20), st.floats(0, 1))
def test_the_smallest_go(seed, share):
    W = drawn(seed)
    kept = prune.magnitude(W, share)
    assert kept.sum() == W.numel() - round(share * W.numel())
    if kept.any() and not kept.all():
        assert W[kept].abs().min() >= W[~kept].abs().max()


def test_two_of_every_four_stay_and_they_are_the_largest():
    W = drawn(1)
    kept = prune.two_of_four(W)
    for row, mask in zip(W, kept):
        for i in range(0, 8, 4):
            four = row[i : i + 4].abs()
            assert set(four[mask[i : i + 4]].tolist()) == set(four.sort().values[2:].tolist())
    with pytest.raises(ValueError, match="multiple of 4"):
        prune.two_of_four(W[:, :6])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**20), st.floats(0, 1))
def test_what_is_taken_apart_comes_back(seed, share):
    W = drawn(seed, 5, 7)
    W = W * prune.magnitude(W, share)
    bits, values = prune.sparse(W)
    assert len(values) == (W != 0).sum() and len(bits) == 5
    assert torch.equal(prune.dense(bits, values, W.shape), W)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=50)
    config = transformers.LlamaConfig(num_attention_heads=4, initializer_range=0.2, **shape)
    return transformers.LlamaForCausalLM(config).eval()


IDS = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(1))


def loss_of(model):
    return lambda ids: model(input_ids=ids, labels=ids).loss


def test_importance_is_the_gradient_of_a_gate(model):
    """Brute force: the difference quotient of the loss over a gate on one head's output."""
    found = prune.head_importance(model, loss_of(model), [IDS])
    width, step = model.config.head_dim, 1e-2
    for layer, head in ((0, 1), (1, 3)):
        projection = model.model.layers[layer].self_attn.o_proj.weight
        place, kept = slice(head * width, (head + 1) * width), projection.detach().clone()
        around = []
        for gate in (1 - step, 1 + step):
            projection.data[:, place] = gate * kept[:, place]
            around.append(loss_of(model)(IDS).item())
        projection.data.copy_(kept)
        slope = abs(around[1] - around[0]) / (2 * step)
        assert found[layer, head] == pytest.approx(slope, rel=0.02, abs=1e-5)
    assert model.model.layers[0].self_attn.o_proj.weight.grad is None


def test_importance_is_a_mean_over_batches(model):
    a, b = (prune.head_importance(model, loss_of(model), [ids]) for ids in (IDS[:1], IDS[1:]))
    both = prune.head_importance(model, loss_of(model), [IDS[:1], IDS[1:]])
    torch.testing.assert_close(both, (a + b) / 2)


def test_a_smaller_model_computes_what_silent_heads_leave(model):
    kept = torch.tensor([[3, 0], [1, 2]])
    gone = [(0, 1), (0, 2), (1, 0), (1, 3)]
    silent, small = prune.without_heads(model, gone), prune.smaller(model, kept)
    assert small.num_parameters() < model.num_parameters()
    with torch.no_grad():
        torch.testing.assert_close(small(IDS).logits, silent(IDS).logits)
        assert (silent(IDS).logits - model(IDS).logits).abs().max() > 1e-2


def test_a_pruned_model_is_a_copy_whose_bytes_are_counted(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    twin, size = prune.pruned(model, lambda W: prune.magnitude(W, 0.5))
    places = kept = 0
    for name, layer in folder.matrices(twin).items():
        assert (layer.weight == 0).sum() == layer.weight.numel() // 2, name
        places, kept = places + layer.weight.numel(), kept + (layer.weight != 0).sum().item()
    assert size == places // 8 + 4 * kept
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    tied = transformers.LlamaForCausalLM(copy.deepcopy(model.config))
    tied.config.tie_word_embeddings = True
    tied.lm_head.weight = tied.model.embed_tokens.weight
    _, less = prune.pruned(tied, lambda W: prune.magnitude(W, 0.5))
    shared = tied.lm_head.weight.numel()
    assert less == size - shared // 8 - 4 * (shared // 2)


def test_heads_that_share_a_key_are_not_taken_out(model):
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, vocab_size=50)
    grouped = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **shape)
    )
    with pytest.raises(ValueError, match="4 heads share 2 key heads"):
        prune.smaller(grouped, torch.tensor([[0, 1]]))
