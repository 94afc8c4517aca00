"""The arithmetic of scaling (chapter 9): bytes, messages, operations.

Hours and money are in `chatlib.maths.budget`. Pure functions of numbers. Sizes are in bytes, a
*weight* is one parameter, a *rank* one process with one device. The symbols of the page: Psi
weights, N ranks, b bytes of a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}  # b, bytes of a number
MOMENTS = 8  # Adam's two moments of a weight, fp32
MASTER = 4  # the fp32 copy of a weight that the optimizer steps
STAGES = (0, 1, 2, 3)
AWAY_FROM = {"optimizer": 1, "gradients": 2, "weights": 3}  # the stage from which it is offloaded
Parts = dict[str, int]  # what the bytes are for, and how many


# ----------------------------------------------------------------------- memory


def adam_bytes(stage: int, dtype: str) -> int:
    """K, the optimizer's bytes for each trained weight, before they are shared out.

    Two moments; with 16-bit weights an fp32 copy as well. Under ZeRO DeepSpeed keeps that copy of
    fp32 weights, too, since its optimizer steps one flat shard instead of the weights.
    """
    return MOMENTS + (0 if stage == 0 and dtype == "fp32" else MASTER)


def state_bytes(weights: int, trained: int, ranks: int, stage: int, dtype: str) -> Parts:
    """Bytes that a rank holds for one model under ZeRO (Rajbhandari et al. 2020, section 3).

    Weights b Psi (stage 3: / N), gradients b Psi_t (stages 2, 3: / N), optimizer K Psi_t
    (stages 1 to 3: / N), where Psi_t of the Psi weights are ``trained``.
    """
    if stage not in STAGES:
        raise ValueError(f"ZeRO stage {stage}: there are {', '.join(map(str, STAGES))}")
    width, optimizer = WIDTH[dtype], trained * adam_bytes(stage, dtype)
    return {
        "weights": weights * width // (ranks if stage >= 3 else 1),
        "gradients": trained * width // (ranks if stage >= 2 else 1),
        "optimizer": optimizer // (ranks if stage >= 1 else 1),
    }


def offloaded(parts: Parts, stage: int) -> tuple[Parts, Parts]:
    """(on the device, in host memory) when a rank's states are offloaded (Ren et al. 2021).

    Optimizer states move from stage 1 on. From stage 2 on each gradient leaves for the host as soon
    as it is reduced (section 4 there), so none is kept. At stage 3 the weights' shards move, too.
    """
    moved = {part for part, first in AWAY_FROM.items() if stage >= first}
    stay = {name: 0 if name in moved else size for name, size in parts.items()}
    return stay, {name: size for name, size in parts.items() if name in moved}


def lora_weights(shapes: list[list[int]], lora_dim: int) -> int:
    """Weights of the adapters of some layers: an update of rank r of an (out, in) matrix is a
    product of (out, r) and (r, in), hence r (out + in) numbers (Hu et al. 2022, section 4.1)."""
    return sum(lora_dim * sum(shape) for shape in shapes)


def ppo_bytes(
    actor: int,
    critic: int,
    ranks: int,
    stage: int,
    dtype: str,
    trained: tuple[int, int] | None = None,
    offload: bool = False,
    offload_reference: bool = False,
) -> dict[str, Parts]:
    """Bytes that a rank's device holds for PPO's four models, by model.

    ``trained`` are the weights of actor and critic that get a gradient (LoRA: the adapters');
    all by default. Reference and reward model are frozen: weights, divided at stage 3 only. An
    offloaded reference lies in host memory.
    """
    of_actor, of_critic = trained or (actor, critic)
    models = {
        "actor": state_bytes(actor, of_actor, ranks, stage, dtype),
        "critic": state_bytes(critic, of_critic, ranks, stage, dtype),
    }
    if offload:
        models = {name: offloaded(parts, stage)[0] for name, parts in models.items()}
    frozen = {"reference": 0 if offload_reference else actor, "reward model": critic}
    return models | {
        name: state_bytes(size, 0, ranks, stage, dtype) for name, size in frozen.items()
    }


def total(models: dict[str, Parts]) -> int:
    """The sum over models and parts."""
    return sum(sum(parts.values()) for parts in models.values())


def fewest_ranks(needed: Callable[[int], int], device: int, most: int = 4096) -> int | None:
    """The smallest number of ranks whose share, ``needed(ranks)``, fits a device's bytes.

    None when ``most`` are not enough.
    """
    return next((n for n in range(1, most + 1) if needed(n) <= device), None)


# ------------------------------------------------------------------ activations


@dataclass(frozen=True)
class Shape:
    """What a Llama-shaped model's activations depend on; all but `layers` and `heads` are widths.

    ``kv_width`` is the width of keys and values together over their heads, each.
    """

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_width: int


def kept_by_a_norm(width: int, dtype: str) -> int:
    """Bytes a token that autograd keeps of an RMSNorm: input, normalised input, scaled output.

    The input and its inverse root mean square are in fp32 (transformers' `LlamaRMSNorm`).
    """
    return width * (4 + 2 * WIDTH[dtype]) + 4


def layer_bytes(shape: Shape, dtype: str, masked: bool = False) -> int:
    r"""Bytes a token that autograd keeps of one block for the backward pass.

        A = 2 norm + b (2 d + 2 d_kv + 4 f) + 4 h

    Queries, attention's result, keys and values; of the feed-forward part gate, SiLU(gate), up and
    their product; attention's log-sum per head in fp32. The (s, s) weights are computed again, as
    FlashAttention does (Dao et al. 2022). An attention mask of one's own has keys and values
    repeated for every head, ``masked``. After Korthikanti et al. 2022, section 4, counted anew for
    the tensors of transformers' `LlamaDecoderLayer`.
    """
    kv = shape.width if masked else shape.kv_width
    numbers = 2 * shape.width + 2 * kv + 4 * shape.inner
    return 2 * kept_by_a_norm(shape.width, dtype) + WIDTH[dtype] * numbers + 4 * shape.heads


def logits_bytes(vocabulary: int, with_entropy: bool = False) -> int:
    """Bytes for each predicted token when the backward pass is at the log-softmax, always fp32.

    Its result, the gradient of that, and the gradient of the logits. An entropy in the loss has a
    second result, its exponential, their product's gradients and a mask of -inf.
    """
    return vocabulary * (4 + 4 + 4 + (4 + 4 + 4 + 1 if with_entropy else 0))


def training_bytes(
    shape: Shape,
    tokens: int,
    predicted: int,
    dtype: str,
    recompute: bool = False,
    with_entropy: bool = False,
    masked: bool = False,
) -> int:
    """Most bytes of activations in the forward and backward pass over so many ``tokens``.

    Either at the log-softmax of the ``predicted`` ones, when every block's activations are there
    (with ``recompute``, gradient checkpointing, every block's input, Chen et al. 2016), or in the
    last block's backward pass: its activations, and the gradients of two inner tensors and of three
    of the residual stream's width. ``predicted`` 0: a score or value of each token, no logits.
    """
    b, layer = WIDTH[dtype], layer_bytes(shape, dtype, masked)
    kept = shape.layers * (b * shape.width if recompute else layer)
    head = tokens * kept_by_a_norm(shape.width, dtype)
    head += predicted * logits_bytes(shape.vocabulary, with_entropy)
    block = tokens * (recompute * layer + b * (2 * shape.inner + 3 * shape.width))
    return tokens * kept + max(head, block)


def forward_bytes(
    shape: Shape, tokens: int, predicted: int, dtype: str, with_entropy: bool = False
) -> int:
    """Most bytes of activations in a forward pass without gradient.

    One block at a time: three inner tensors and four of the residual stream's width. Or the
    logits: their log-softmax in fp32 and the logits, which 16-bit formats convert first; with
    entropy the exponential's product, a mask and the masked copy come on top.
    """
    b = WIDTH[dtype]
    block = tokens * b * (3 * shape.inner + 4 * shape.width)
    copies = b + 4 + (4 if b < 4 else 0)
    numbers = max(copies, b + 4 + 4 + 1 + 4) if with_entropy else copies
    return max(block, tokens * b * shape.width + predicted * shape.vocabulary * numbers)


def cache_bytes(shape: Shape, tokens: int, dtype: str) -> int:
    """Bytes of the key-value cache of so many tokens: 2 b d_kv in each layer (Pope et al. 2022)."""
    return 2 * WIDTH[dtype] * shape.kv_width * shape.layers * tokens


def generation_bytes(shape: Shape, rows: int, prompt: int, answer: int, dtype: str) -> int:
    """Most bytes while ``rows`` prompts are answered token by token with a cache.

    At the prompts' forward pass, or at the last token: the whole cache, one layer's keys as they
    were before the last one, and what a draw takes of each number of the (rows, vocabulary) logits
    (themselves, log-softmax and its exponential in fp32, sums in fp64).
    """
    b, whole = WIDTH[dtype], prompt + answer
    begin = cache_bytes(shape, rows * prompt, dtype) + forward_bytes(shape, rows * prompt, 0, dtype)
    draw = rows * shape.vocabulary * (b + 4 + 4 + 8)
    end = cache_bytes(shape, rows * whole, dtype) + b * shape.kv_width * rows * whole + draw
    return max(begin, end)


# --------------------------------------------------------------- communication


def collective_bytes(operation: str, size: int, ranks: int) -> float:
    """Bytes that each rank sends in a ring for a collective operation on a tensor of ``size``.

    Reduce-scatter and all-gather pass N - 1 of N pieces on; all-reduce is the one after the
    other; broadcast and reduce send the tensor once along the ring, shared among N ranks.
    """
    share = (ranks - 1) / ranks
    factor = {"allreduce": 2, "allgather": 1, "reduce_scatter": 1, "broadcast": 1, "reduce": 1}
    if operation not in factor:
        raise ValueError(f"operation {operation!r} is not known; use one of {', '.join(factor)}")
    return factor[operation] * share * size


def communication_bytes(weights: int, ranks: int, stage: int, dtype: str) -> float:
    """Bytes that each rank sends in a step (Rajbhandari et al. 2020, section 7).

    Stages 0 to 2: 2 b Psi (N - 1) / N, gradients reduced and scattered, sums (weights) gathered.
    Stage 3: 3 b Psi (N - 1) / N, as weights are gathered for the forward and backward pass.
    """
    size = weights * WIDTH[dtype]
    gathered = 2 if stage == 3 else 1
    scattered = collective_bytes("reduce_scatter", size, ranks)
    return scattered + gathered * collective_bytes("allgather", size, ranks)


# ------------------------------------------------------------------- operations


def training_passes(recompute: bool = False, lora: bool = False, share: float = 1) -> float:
    """What a step's forward and backward pass cost, in forward passes: 3 (Kaplan et al. 2020).

    The backward pass has two products for each of the forward pass: one for the gradient of the
    inputs, and one for that of the weights, which frozen weights under LoRA do not need. It ends
    at the lowest layer that is trained: ``share`` of the layers. Gradient checkpointing computes
    the forward pass a second time.
    """
    return 1 + recompute + (2 - lora) * share


def flops_per_token(
    weights: int, training: bool = True, recompute: bool = False, lora: bool = False
) -> float:
    """Floating-point operations for a token, attention left out (Kaplan et al. 2020, table 1).

    2 Psi forward (one product, one sum a weight); `training_passes` times that to train.
    """
    return 2 * weights * (training_passes(recompute, lora) if training else 1)
