"""Perplexity of a corpus, and how the number changes with the tokens that are counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from torch import Tensor

# token ids, and a mask that is 1 on the tokens of the answers
Example = tuple[Sequence[int], Sequence[int]]
COUNTED = ("answers", "answers and prompts", "pads too", "answers over all positions")


def _batches(examples: Sequence[Example], pad: int, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Right-padded (ids, valid, answer) batches, each (B, T), T the longest in the batch."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def block(rows: list, value: int) -> Tensor:
        tensors = [torch.tensor(list(row)) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=value)

    for start in range(0, len(examples), size):
        ids, answers = zip(*examples[start : start + size])
        yield block(ids, pad), block([[1] * len(row) for row in ids], 0), block(answers, 0)


def perplexities(
    model: Any, examples: Sequence[Example], pad: int, batch_size: int = 64
) -> pd.DataFrame:
    """exp of the mean negative log-likelihood, over four choices of what is counted.

    Only ``answers`` is what the model was trained for. ``answers and prompts`` adds what a
    customer would have to be predicted for; ``pads too`` also the padding, as labels;
    ``answers over all positions`` divides the answers' nats by every position of the padded
    batch, which is what a mean over a loss with zeros in it does.

    ``model`` maps ``input_ids`` and ``attention_mask`` (B, T) to an object with ``logits``;
    ``pad`` is the padding id. Returns one row a choice: ``tokens`` (the denominator),
    ``nats`` per token and ``perplexity``. The first token of an example is never predicted.
    """
    import torch

    from chatlib.maths.likelihood import token_log_probs

    nats, tokens = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for ids, valid, answer in _batches(examples, pad, batch_size):
        ids, valid, answer = (x.to(model.device) for x in (ids, valid, answer))
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=valid).logits
        loss = -token_log_probs(logits[:, :-1], ids[:, 1:]).double()
        every = torch.ones_like(valid)
        summed = [m[:, 1:] for m in (answer, valid, every, answer)]
        counted = [m[:, 1:] for m in (answer, valid, every, every)]
        nats += torch.stack([(loss * m).sum() for m in summed]).cpu()
        tokens += torch.stack([m.sum().double() for m in counted]).cpu()
    if tokens[0] == 0:
        raise ValueError("no example has an answer token after its first; check the answer masks")
    mean = nats / tokens
    table = {"tokens": tokens.long().tolist(), "nats": mean.tolist()}
    return pd.DataFrame(table | {"perplexity": mean.exp().tolist()}, index=list(COUNTED))
