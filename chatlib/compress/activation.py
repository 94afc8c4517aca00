"""What a model's layers read: inputs gathered on a few texts, and the scales that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from chatlib.compress import quantise
from chatlib.compress.folder import Rounding, matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 512  # inputs of a layer that are kept: enough for the scale of a channel


def inputs(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The inputs of every linear layer while a model reads token ids, by the layer's name.

    Shapes: each (tokens, in), the first `ROWS` of them.
    """
    found: dict[str, list[Tensor]] = {}
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, x, name=name: found.setdefault(name, []).append(x[0].flatten(0, -2))
        )
        for name, layer in linear.items()
    ]
    try:
        with torch.no_grad():
            for ids in texts:
                model(input_ids=torch.tensor([list(ids)]))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(rows)[:ROWS] for name, rows in found.items()}


def scales(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], how: Rounding
) -> dict[str, Tensor]:
    """`quantise.channel_scales` of every linear layer that is not tied to the embedding.

    Shapes: each (in,). The texts are not those that the result is judged by.
    """
    tied, read = model.get_input_embeddings().weight, inputs(model, texts)
    layers = matrices(model)
    weights = {name: layers[name].weight for name in read}
    return {
        name: quantise.channel_scales(W.detach().float(), read[name].float(), how.bits, how.group)[
            0
        ]
        for name, W in weights.items()
        if W is not tied
    }
