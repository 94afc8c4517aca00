"""What 16 bits do to log-probabilities: how far the first ratio of PPO may be from 1."""

import copy

import pytest
import tiny_stages as tiny
import torch
from transformers import LlamaForSequenceClassification

from chatlib.train import models

TOLERANCE = 0.05  # of a log-ratio, beside a clip of 0.2: see `models.AnswerLM`


def large():
    """(model in bf16, ids) whose logits are of the size that trained models have."""
    model = tiny.foreign_model("llama", 50).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(150)
    torch.manual_seed(1)
    return model.bfloat16(), torch.randint(3, 50, (6, 20))


def test_the_heads_product_is_not_rounded_to_16_bits():
    model, ids = large()
    hidden = model.base_model(input_ids=ids).last_hidden_state
    exact = hidden.double() @ model.lm_head.weight.double().T
    assert 16 < exact.abs().max() < 64
    rounded = (model.lm_head(hidden).double() - exact).abs().max()
    net = models.AnswerLM(model)
    logits = net.model.lm_head(hidden)
    assert logits.dtype == torch.float32
    assert (logits.double() - exact).abs().max() < 1e-4 < 1e-2 < rounded


def test_a_score_is_not_rounded_to_16_bits():
    shape = tiny.foreign_model("llama", 50).config
    shape.num_labels, shape.pad_token_id = 1, 0
    torch.manual_seed(1)
    scorer = LlamaForSequenceClassification(shape).eval()
    with torch.no_grad():
        scorer.score.weight.mul_(150)
    net, ids = models.TokenScorer(scorer.bfloat16()), torch.randint(3, 50, (6, 20))
    hidden = scorer.base_model(input_ids=ids).last_hidden_state
    exact = (hidden.double() @ scorer.score.weight.double().T).flatten()
    scores = net(ids, torch.ones_like(ids)).double()
    assert exact.abs().max() > 4
    assert (scores - exact).abs().max() < 1e-4 < 1e-2 < (exact.bfloat16() - exact).abs().max()


def test_a_copy_computes_with_the_copys_head():
    model = tiny.foreign_model("llama", 50).eval()
    net = models.AnswerLM(model)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.model.get_output_embeddings().weight.zero_()
    ids = torch.randint(3, 50, (2, 9))
    uniform, _ = twin(ids, torch.ones_like(ids))
    assert torch.allclose(uniform, torch.tensor(1 / 50).log())
    assert not torch.allclose(net(ids, torch.ones_like(ids))[0], uniform)


def test_in_fp32_the_heads_product_is_what_it_was_to_the_last_bit():
    model = tiny.foreign_model("llama", 50).eval()
    hidden = torch.randn(7, 32)
    before = model.lm_head(hidden)
    models.AnswerLM(model)
    assert torch.equal(model.lm_head(hidden), before)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", TOLERANCE), ("fp32", 1e-5)])
def test_the_first_ratio_is_one_within_the_stated_tolerance(
    policy, scorer, tmp_path, dtype, tolerance
):
    config = tiny.ppo(policy.model_dir, scorer.model_dir, dtype=dtype, steps=1, minibatches=2)
    run = tiny.train(config, tmp_path)
    assert abs(tiny.losses(run, "first_log_ratio")[0]) < tolerance
