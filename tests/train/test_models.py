"""Less work, the same figures: rows in groups, prompts read once, no collective for one rank."""

from pathlib import Path

import pytest
import tiny_stages as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, BloomConfig

from chatlib.data import collate
from chatlib.train import engine, models, reward
from chatlib.train.models import AnswerLM, TokenScorer

CPU = torch.device("cpu")
SHAPES = ["llama", "gpt2", "opt"]
token = st.integers(3, 49)
text = st.lists(token, min_size=1, max_size=12)


class Padding:
    pad_token_id = 0


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def scorer(shape):
    """A sequence classifier of a shape, its score head random."""
    torch.manual_seed(0)
    if shape == "bloom":
        config = BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2)
    else:
        config = tiny.foreign_model(shape, 50).config
    config.num_labels, config.pad_token_id = 1, Padding.pad_token_id
    return TokenScorer(AutoModelForSequenceClassification.from_config(config).eval())


def answers_of(rows, prompt):
    """(ids, mask) of right-padded rows whose first ``prompt`` tokens are not to be predicted."""
    ids, mask = collate.pad(rows, Padding.pad_token_id)
    mask[:, :prompt] = 0
    return ids, mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("together", [1, 2, 3])
def test_rows_in_groups_give_the_figures_and_gradients_of_the_whole_batch(shape, together):
    model = tiny.foreign_model(shape, 50).eval()
    torch.manual_seed(2)
    rows = [torch.randint(3, 50, (n,)).tolist() for n in (9, 3, 14, 4, 7)]
    found = []
    for size in (None, together):
        model.zero_grad()
        logp, entropy = AnswerLM(model, size)(*answers_of(rows, 2), with_entropy=True)
        (logp * torch.arange(1.0, len(logp) + 1)).sum().backward()  # the order counts
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append((logp.detach(), entropy, *gradients))
    for whole, grouped in zip(*found):
        close(whole, grouped)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_cut_after_its_last_marked_place(shape):
    """Whatever stands behind it: the groups' figures do not move."""
    net = scorer(shape)
    net.together = 2
    rows = [[5, 6, 7, 8, 9], [3, 4], [7, 7, 7, 7, 7, 7, 7, 7]]
    ids, mask = collate.pad(rows, Padding.pad_token_id)
    where = reward.last_token(mask)
    before = net(ids, where)
    ids[0, 5:], ids[1, 2:] = 11, 12
    close(net(ids, where), before)


PAIRS = [
    ([5, 6, 7, 8], [5, 6, 9, 9, 9, 9]),
    ([3, 4, 5], [3, 4]),
    ([9], [8, 8, 8]),
    ([6, 7], [6, 8]),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", [*SHAPES, "bloom"])  # bloom takes no positions: read twice
def test_pairs_side_by_side_score_as_each_answer_alone(shape, attention):
    net = scorer(shape)
    assert net.takes_positions == (shape != "bloom")
    if shape != "bloom":
        net.model.set_attn_implementation(attention)
    gradients = []
    for together in (True, False):
        net.zero_grad()
        if together:
            chosen, rejected = reward.score_pairs(net, PAIRS, Padding, CPU)
        else:
            sides = [[pair[i] for pair in PAIRS] for i in (0, 1)]
            chosen, rejected = (reward.score(net, side, Padding, CPU) for side in sides)
        (chosen**2 + 3 * rejected).sum().backward()
        gradients.append([chosen.detach(), rejected.detach(), *(p.grad for p in net.parameters())])
    for one, other in zip(*gradients):
        if one is not None:
            close(one, other)


@given(text, text, text)
@settings(deadline=None)
def test_side_by_side_holds_both_answers_whole(prompt, a, b):
    chosen, rejected = prompt + a, prompt + b
    (row,), (position,), (part,) = reward.side_by_side([(chosen, rejected)])
    for mine, answer in ((1, chosen), (2, rejected)):
        own = [i for i, p in enumerate(part) if p in (0, mine)]
        assert [row[i] for i in own] == answer
        assert [position[i] for i in own] == list(range(len(answer)))
    assert len(row) <= len(chosen) + len(rejected) - min(len(prompt), len(chosen) - 1)


def test_one_rank_starts_no_threads_in_gloo(alone):
    """A second OpenMP pool would put the first to sleep between any two operations."""

    def in_gloo():
        names = [p.read_text().strip() for p in Path("/proc/self/task").glob("*/comm")]
        return sum(name.startswith("pt_gloo") for name in names)

    before, items = in_gloo(), list(range(300_000))
    assert engine.gather(items) == items
    assert engine.sum_over_ranks(torch.ones(300_000)).sum() == 300_000
    assert engine.from_rank0(lambda: 7) == 7
    assert in_gloo() == before


def test_the_head_in_chunks_gives_the_figures_of_the_whole(monkeypatch):
    """At most so many logits at a time without a gradient; with one they would be kept anyway."""
    net, sizes = AnswerLM(tiny.foreign_model("llama", 50).eval()), []
    net.model.get_output_embeddings().register_forward_hook(lambda *a: sizes.append(len(a[-1])))
    batch = answers_of([[5, 6, 7, 8, 9], [3, 4, 7, 8], [9, 9, 9, 9, 9, 9]], 2)
    with torch.no_grad():
        whole = net(*batch, with_entropy=True)
        monkeypatch.setattr(models, "LOGITS", 3 * 50 + 7)
        parts = net(*batch, with_entropy=True)
    assert sizes == [9, 3, 3, 3]
    for one, other in zip(whole, parts):
        close(one, other)
