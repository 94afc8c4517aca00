"""Fewer weights: which ones a matrix can do without, and how few bytes are left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from chatlib.compress.folder import matrices


def magnitude(W: Tensor, share: float) -> Tensor:
    """What stays when the ``share`` of weights nearest to 0 goes (Han et al. 2015).

    Shapes: W of any; the mask is bool of the same. Ties go in the order of their places.
    """
    gone = round(share * W.numel())
    order = W.abs().flatten().argsort(stable=True)
    mask = torch.ones(W.numel(), dtype=torch.bool)
    mask[order[:gone]] = False
    return mask.reshape(W.shape)


def two_of_four(W: Tensor) -> Tensor:
    """What stays when of every four neighbours in a row the two nearest to 0 go (2:4).

    Graphics cards multiply such matrices twice as fast (Mishra et al. 2021). Shapes: W (out, in)
    with ``in`` divisible by 4; the mask is bool of the same. Raises `ValueError` otherwise.
    """
    if W.shape[-1] % 4:
        raise ValueError(f"rows of {W.shape[-1]} weights; 2:4 needs a multiple of 4")
    fours = W.abs().unflatten(-1, (-1, 4))
    kept = fours.topk(2, dim=-1).indices
    return torch.zeros(fours.shape, dtype=torch.bool).scatter(-1, kept, True).flatten(-2)


def sparse(W: Tensor) -> tuple[Tensor, Tensor]:
    """The weights that are not 0, and a bit for each place that says where they are.

    Shapes: W (out, in); the bits are uint8 (ceil(out in / 8),), the values (kept,).
    """
    there = W.flatten() != 0
    padded = torch.nn.functional.pad(there, (0, -there.numel() % 8)).reshape(-1, 8)
    bits = (padded.to(torch.uint8) << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
    return bits, W.flatten()[there]


def dense(bits: Tensor, values: Tensor, shape: Iterable[int]) -> Tensor:
    """What `sparse` took apart, in its shape (out, in)."""
    there = ((bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).bool().flatten()
    W = torch.zeros(tuple(shape), dtype=values.dtype)
    W.view(-1)[there[: W.numel()]] = values
    return W


def pruned(model: Any, choose: Callable[[Tensor], Tensor]) -> tuple[Any, int]:
    """A copy of a model without the weights of its matrices that ``choose`` does not keep.

    ``choose`` maps W (out, in) to a mask such as `magnitude`'s. The second result is the bytes of
    all matrices as `sparse` stores them; what is tied is pruned and counted once.
    """
    import copy

    twin, size, done = copy.deepcopy(model), 0, set()
    for layer in matrices(twin).values():
        if id(layer.weight) not in done:
            done.add(id(layer.weight))
            layer.weight.data *= choose(layer.weight.data)
            size += sum(part.nbytes for part in sparse(layer.weight.data))
    return twin, size


def head_importance(model: Any, loss: Callable[[Any], Tensor], batches: Iterable[Any]) -> Tensor:
    """How much the loss would change, to first order, without each head (Michel et al. 2019).

    A gate of 1 on the output of a head has the gradient ``sum_i x_i dL/dx_i``; its size, averaged
    over batches, is the importance (eq. 2 there). ``loss`` maps a batch to a scalar.
    Shapes: the result (layers, heads).
    """
    layers = model.model.layers
    seen: list[Tensor] = []
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, x: seen.append(_kept(x[0])))
        for layer in layers
    ]
    width, total = model.config.head_dim, torch.zeros(len(layers), model.config.num_attention_heads)
    try:
        for n, batch in enumerate(batches, start=1):
            seen.clear()
            model.zero_grad(), loss(batch).backward()
            slopes = [x.detach() * x.grad for x in seen if x.grad is not None]
            gates = [slope.unflatten(-1, (-1, width)).sum((0, 1, 3)) for slope in slopes]
            total += (torch.stack(gates).abs() - total) / n  # the mean so far
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad()
    return total


def _kept(x: Tensor) -> Tensor:
    """A tensor inside a graph that will remember its gradient."""
    x.retain_grad()
    return x


def without_heads(model: Any, gone: Iterable[tuple[int, int]]) -> Any:
    """A copy of a model whose heads (layer, head) are silent: their rows of W_O are zeros.

    Nothing gets smaller by it; `smaller` takes them out.
    """
    import copy

    twin = copy.deepcopy(model)
    width = model.config.head_dim
    with torch.no_grad():
        for layer, head in gone:
            place = slice(head * width, (head + 1) * width)
            twin.model.layers[layer].self_attn.o_proj.weight[:, place] = 0
    return twin


def smaller(model: Any, kept: Tensor) -> Any:
    """A model of the same class that has only the heads ``kept``, and computes the same as
    `without_heads` of the others.

    Shapes: kept (layers, n) are heads by number, equally many in each layer. Raises `ValueError`
    where several query heads share a key head, which cannot go alone.
    """
    import copy

    config = copy.deepcopy(model.config)
    if config.num_key_value_heads != config.num_attention_heads:
        raise ValueError(
            f"{config.num_attention_heads} heads share {config.num_key_value_heads} key heads; "
            "take out whole groups, or use without_heads"
        )
    width, layers = config.head_dim, kept.shape[0]
    config.num_attention_heads = config.num_key_value_heads = kept.shape[1]
    state = model.state_dict()
    for i in range(layers):
        rows = (kept[i].sort().values[:, None] * width + torch.arange(width)).flatten()
        at = f"model.layers.{i}.self_attn."
        for name in ("q_proj", "k_proj", "v_proj"):
            state[f"{at}{name}.weight"] = state[f"{at}{name}.weight"][rows]
        state[f"{at}o_proj.weight"] = state[f"{at}o_proj.weight"][:, rows]
    small = type(model)(config)
    small.load_state_dict(state)
    return small.to(model.dtype).eval()
