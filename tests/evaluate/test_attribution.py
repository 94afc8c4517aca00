"""Shares of a score: exact where the score is linear, complete where they should be."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from chatlib.data import shop
from chatlib.evaluate import attribution, policy

TEXT = "Hello Ida, it is shipped. You should know that! Have a nice day."


def test_spans_are_the_sentences():
    assert [TEXT[a:b] for a, b in attribution.spans(TEXT)] == shop.sentences(TEXT)


def test_a_sentence_that_is_said_twice_has_two_spans():
    assert attribution.spans("No. No.") == [(0, 3), (4, 7)]


def test_each_sentence_is_left_out_once():
    assert attribution.without("One. Two! Three?") == ["Two! Three?", "One. Three?", "One. Two!"]


def test_the_judge_pays_the_fact_and_fines_the_rude_line():
    case = next(c for c in policy.scenarios(50) if c.intent == "greeting")
    text = f"Hello {case.customer}, what can I do for you? You should know that."
    paid, fined = attribution.worth(case.meta(), text)
    assert paid > 1 and fined <= -1


@pytest.mark.parametrize("method", ["occlusion", "input_x_gradient", "integrated_gradients"])
def test_all_methods_agree_on_a_linear_score(method):
    generator = torch.Generator().manual_seed(0)
    x, b, w = (torch.randn(*s, generator=generator) for s in ((5, 3), (3,), (5, 3)))
    shares = getattr(attribution, method)(lambda rows: (rows * w).sum((-1, -2)), x, b)
    torch.testing.assert_close(shares, ((x - b) * w).sum(-1))


def test_integrated_gradients_add_up_to_the_score():
    generator = torch.Generator().manual_seed(1)
    x, b = torch.randn(6, 4, generator=generator), torch.randn(4, generator=generator)

    def f(rows):
        return rows.pow(2).sum((-1, -2)).tanh() + rows.prod(-1).sum(-1)

    shares = attribution.integrated_gradients(f, x / 4, b / 4, steps=400)
    whole = f(x[None] / 4) - f((b / 4).expand(1, 6, 4))
    torch.testing.assert_close(shares.sum(), whole[0], atol=1e-4, rtol=1e-4)


def test_a_prompt_shares_out_the_log_probability_of_the_last_token():
    """With occlusion by hand: the token's vector replaced, the model asked again."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    net = LlamaForCausalLM(config).eval()
    ids = torch.tensor([3, 14, 15, 9, 26, 5])
    shares = attribution.of_prompt(attribution.occlusion, net, ids, 4)
    vectors = net.get_input_embeddings().weight.detach()

    def logp(x):
        with torch.no_grad():
            return net(inputs_embeds=x[None]).logits[0, -1].log_softmax(-1)[5].item()

    whole = vectors[ids[:-1]]
    for place in range(4):
        without = whole.clone()
        without[place] = vectors.mean(0)
        assert shares[place] == pytest.approx(logp(whole) - logp(without), abs=1e-5)
    assert shares.shape == (4,)


def test_tokens_are_added_up_sentence_by_sentence():
    tokens = [(0, 2), (2, 3), (3, 6), (6, 7)]  # the space before a word belongs to its token
    assert attribution.of_spans([(0, 3), (4, 7)], tokens, [1, 2, 4, 8]).tolist() == [3, 12]


def test_the_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 9, 60), rng.random(60) < 0.4
    pairs = [(v > w) + 0.5 * (v == w) for v in values[labels] for w in values[~labels]]
    assert attribution.auc(values, labels) == pytest.approx(np.mean(pairs))


def test_an_area_needs_both_kinds():
    with pytest.raises(ValueError, match="3 of 3 are labelled"):
        attribution.auc([1, 2, 3], [True] * 3)
