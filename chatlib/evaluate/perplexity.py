"""Perplexity of a corpus, and how the number changes with the tokens that are counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from chatlib.data.template import Encoded

COUNTED = ("answers", "answers and prompts", "pads too", "answers over all positions")


def perplexities(
    model: Any, examples: Sequence[Encoded], pad: int, batch_size: int = 64
) -> pd.DataFrame:
    """exp of the mean negative log-likelihood, over four choices of what is counted.

    Only ``answers`` is what the model was trained for. ``answers and prompts`` adds what a
    customer would have to be predicted for; ``pads too`` also the padding, as labels;
    ``answers over all positions`` divides the answers' nats by every position of the padded
    batch, which is what a mean over a loss with zeros in it does.

    ``examples`` come from `chatlib.data.template.encode`; ``model`` maps ``input_ids`` and
    ``attention_mask`` (B, T) to an object with ``logits``; ``pad`` is the padding id. Returns
    one row a choice: ``tokens`` (the denominator), ``nats`` per token and ``perplexity``. The
    first token of an example is never predicted.
    """
    import torch

    from chatlib.data import collate
    from chatlib.maths.likelihood import token_log_probs

    nats, tokens = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        ids, valid = collate.pad([e.ids for e in batch], pad)
        answer, _ = collate.pad([e.mask for e in batch], 0)
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
