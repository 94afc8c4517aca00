"""A model folder in, a smaller one out, and the way back to a model that answers.

The folder written has the tokenizer and `config.json` as they were, the weights packed in
`compressed.safetensors`, and in `compression.json` how. transformers does not know the packing:
`load` reads it, and keeps the matrices packed in memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from chatlib.compress import quantise as q

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS, HOW = "compressed.safetensors", "compression.json"
FORMAT = 1


class CompressionError(ValueError):
    """A folder that cannot be compressed, or is no compressed one; the message is one sentence."""


@dataclass(frozen=True)
class Rounding:
    """How the matrices of a model are rounded: bits a weight, weights that share a step."""

    bits: int = 8
    group: int | None = None  # None: a row

    def __str__(self) -> str:
        """Such as `4 bits in groups of 32`."""
        return f"{self.bits} bits " + (f"in groups of {self.group}" if self.group else "a row")


INT8, INT4 = Rounding(8), Rounding(4, 32)


class PackedMatrix(nn.Module):
    """A matrix (out, in) as integers, steps and, where its inputs are scaled, their scales."""

    packed: Tensor
    s: Tensor
    c: Tensor | None

    def __init__(self, packed: Tensor, s: Tensor, c: Tensor | None = None) -> None:
        """``packed`` as `pack` writes it (uint8, two in a byte) or int8; ``s`` (out, groups)."""
        super().__init__()
        for name, tensor in (("packed", packed), ("s", s), ("c", c)):
            self.register_buffer(name, tensor)

    @classmethod
    def of(cls, W: Tensor, how: Rounding, c: Tensor | None = None) -> PackedMatrix:
        """The matrix rounded; with ``c`` (in,) its inputs are scaled first (`channel_scales`)."""
        integers, s = q.quantise(W if c is None else W * c, how.bits, how.group)
        half = torch.float16
        packed = q.pack(integers) if how.bits <= 4 else integers
        return cls(packed, s.to(half), None if c is None else c.to(half))

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """The matrix (out, in), or some of its rows (..., in), in float32."""
        packed, s = (t if rows is None else t[rows] for t in (self.packed, self.s))
        integers = q.unpack(packed) if packed.dtype is torch.uint8 else packed
        W = q.dequantise(integers, s.float())
        return W if self.c is None else W / self.c.float()


class PackedLinear(nn.Module):
    """``y = W x + b`` with W packed: it is unpacked each time and thrown away after use."""

    bias: Tensor | None

    def __init__(self, matrix: PackedMatrix, bias: Tensor | None = None) -> None:
        """``bias`` is (out,) in float32."""
        super().__init__()
        self.matrix = matrix
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (..., in), y (..., out)."""
        return linear(x, self.matrix().to(x.dtype), self.bias)


class PackedEmbedding(nn.Module):
    """The rows of a packed matrix by token id."""

    def __init__(self, matrix: PackedMatrix) -> None:
        """The matrix may be shared with an output layer."""
        super().__init__()
        self.matrix = matrix

    def forward(self, ids: Tensor) -> Tensor:
        """Shapes: ids (...), the result (..., in)."""
        return self.matrix(ids)


def matrices(model: PreTrainedModel) -> dict[str, nn.Linear | nn.Embedding]:
    """The layers whose weights are packed, by name: all linear ones and the embedding."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}


def packed(
    model: PreTrainedModel, how: Rounding, scales: Mapping[str, Tensor] | None = None
) -> PreTrainedModel:
    """A copy of a model with its matrices packed; norms and biases stay as they are.

    ``scales`` has the input scales (in,) of layers by name (`activation.scales`); they are not for
    embeddings and what is tied to them. An output layer tied to the embedding stays tied.
    """
    import copy

    twin = copy.deepcopy(model).eval()
    twin.requires_grad_(False)
    done: dict[int, PackedMatrix] = {}
    for name, layer in matrices(twin).items():
        W, c = layer.weight, (scales or {}).get(name)
        if id(W) not in done:
            done[id(W)] = PackedMatrix.of(W.detach().float(), how, c)
        matrix = done[id(W)]
        if isinstance(layer, nn.Embedding):
            _replace(twin, name, PackedEmbedding(matrix))
        else:
            _replace(twin, name, PackedLinear(matrix, layer.bias))
    return twin


def unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a packed model with ordinary layers, which has the same weights and is faster.

    What shared a packed matrix shares a weight.
    """
    import copy

    twin, done = copy.deepcopy(model), dict[int, nn.Parameter]()
    for name, layer in list(twin.named_modules()):
        if isinstance(layer, PackedLinear | PackedEmbedding):
            W = done.setdefault(id(layer.matrix), nn.Parameter(layer.matrix(), False))
            out, into = W.shape
            embeds = isinstance(layer, PackedEmbedding)
            new = nn.Embedding(out, into) if embeds else nn.Linear(into, out, bias=False)
            new.weight = W
            if isinstance(layer, PackedLinear) and layer.bias is not None:
                new.register_parameter("bias", nn.Parameter(layer.bias, False))
            _replace(twin, name, new)
    return twin


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer where another one is."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def size(model: nn.Module) -> int:
    """Bytes of a model's tensors, what is shared counted once."""
    state = model.state_dict(keep_vars=True).values()
    return sum(t.nbytes for t in {t.data_ptr(): t for t in state}.values())


def check_target(folder: Path) -> None:
    """Raise `CompressionError` where a folder cannot be written."""
    if folder.exists():
        raise CompressionError(f"{folder} exists; name another folder or remove it")
    if not folder.absolute().parent.is_dir():
        raise CompressionError(f"{folder.parent} is no folder; make it first")


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    how: Rounding,
    scales: Mapping[str, Tensor] | None = None,
) -> int:
    """Write a compressed model folder, whole or not at all; returns the bytes of its weights.

    Raises `CompressionError` where the folder exists.
    """
    from safetensors.torch import save_file

    check_target(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        tokenizer.save_pretrained(temporary)
        model.config.save_pretrained(temporary)
        tensors, shared = _once(packed(model, how, scales))
        save_file(tensors, temporary / WEIGHTS)
        about = {"format": FORMAT, **asdict(how), "shared": shared}
        about |= {"loads with": "chatlib.compress.folder.load"}
        (temporary / HOW).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return (folder / WEIGHTS).stat().st_size


def _once(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's tensors by name, each once; and the other names of those that have several."""
    first: dict[int, str] = {}
    tensors, shared = {}, {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.data_ptr() in first:
            shared[name] = first[tensor.data_ptr()]
        else:
            first[tensor.data_ptr()], tensors[name] = name, tensor.contiguous()
    return tensors, shared


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A compressed folder's model, its matrices packed in memory, and its tokenizer.

    Raises `CompressionError` for a folder that `write` did not write.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from chatlib.train.models import load_tokenizer

    about = _about(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    tensors = load_file(folder / WEIGHTS)
    tensors |= {name: tensors[other] for name, other in about["shared"].items()}
    model = AutoModelForCausalLM.from_config(config).eval()
    model.requires_grad_(False)
    done: dict[str, PackedMatrix] = {}
    for name, layer in matrices(model).items():
        first = about["shared"].get(f"{name}.matrix.packed", f"{name}.matrix.packed")
        if first not in done:
            at = f"{name}.matrix."
            done[first] = PackedMatrix(
                tensors[f"{at}packed"], tensors[f"{at}s"], tensors.get(f"{at}c")
            )
        embeds, bias = isinstance(layer, nn.Embedding), tensors.get(f"{name}.bias")
        matrix = done[first]
        _replace(model, name, PackedEmbedding(matrix) if embeds else PackedLinear(matrix, bias))
    model.load_state_dict(tensors)
    return model, load_tokenizer(str(folder))


def _about(folder: Path) -> dict[str, Any]:
    """How a folder was compressed. Raises `CompressionError` for any other folder."""
    try:
        about = json.loads((folder / HOW).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CompressionError(f"{folder} is no compressed model; it has no {HOW}") from None
    if about.get("format") != FORMAT:
        raise CompressionError(f"{folder} has format {about.get('format')!r}; this reads {FORMAT}")
    return about
