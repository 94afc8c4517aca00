from types import SimpleNamespace

import pytest
import torch

from chatlib.data.template import Encoded
from chatlib.evaluate.perplexity import COUNTED, perplexities

PAD = 3


class Constant(torch.nn.Module):
    """Predicts the same distribution everywhere: .5, .25, .125, .125."""

    device = torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        probabilities = torch.tensor([0.5, 0.25, 0.125, 0.125])
        return SimpleNamespace(logits=probabilities.log().expand(*input_ids.shape, 4))


# prompt 2 tokens, answer 2 and 1 tokens; the second example is padded by one
EXAMPLES = [Encoded([2, 2, 0, 1], [0, 0, 1, 1]), Encoded([2, 1, 0], [0, 0, 1])]


def bits(table, row):
    return table.loc[row, "nats"] / torch.log(torch.tensor(2.0)).item()


def test_four_counts_by_hand():
    """Bits: the answers 1 + 2 and 1; the prompts 3 and 2; the pad 3; six positions predicted."""
    table = perplexities(Constant(), EXAMPLES, PAD)
    assert table["tokens"].tolist() == [3, 5, 6, 6]
    expected = [4 / 3, (4 + 5) / 5, (4 + 5 + 3) / 6, 4 / 6]
    assert [bits(table, row) for row in COUNTED] == pytest.approx(expected)
    assert table["perplexity"].tolist() == pytest.approx([2**b for b in expected])


def test_only_the_rows_that_count_padding_depend_on_the_batches():
    whole, single = (perplexities(Constant(), EXAMPLES, PAD, batch_size=n) for n in (2, 1))
    for row in COUNTED:
        assert (whole.loc[row, "perplexity"] == pytest.approx(single.loc[row, "perplexity"])) == (
            row in COUNTED[:2]
        )


def test_a_real_model_is_read_without_its_padding():
    """Answers' perplexity of a batch equals that of each example by itself."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    model = LlamaForCausalLM(config).eval()
    examples = [Encoded([5, 6, 7, 8, 9, 4], [0, 0, 1, 1, 1, 1]), Encoded([5, 9, 8], [0, 1, 1])]
    nats = 0.0
    for e in examples:
        logp = model(torch.tensor([e.ids])).logits[0].log_softmax(-1)
        nats -= sum(logp[t - 1, e.ids[t]].item() for t in range(len(e.ids)) if e.mask[t])
    table = perplexities(model, examples, PAD)
    assert table.loc["answers", "nats"] == pytest.approx(nats / 6, abs=1e-5)


def test_examples_without_answers_are_refused():
    with pytest.raises(ValueError, match="no example has an answer token"):
        perplexities(Constant(), [Encoded([1, 2], [0, 0])], PAD)
