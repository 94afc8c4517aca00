"""Trained models as a script that a page loads beside `runtime.js`: no server, no network.

The script assigns one object to ``chatlib_pack``: a vocabulary that all its models share, and for
each model its shape and its weights in base64. It is ASCII, as a page may be read in any encoding.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatlib.data.template import END, render
from chatlib.runs import identity
from chatlib.runs.files import write_atomically
from chatlib.serve import vocabulary
from chatlib.serve.gguf import Precision, check_shape, check_target
from chatlib.serve.vocabulary import ExportError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

RUNTIME = Path(__file__).with_name("runtime.js")
GROUP = 32  # weights of 8 bits that share a scale; those of 16 bits share one a row
BITS = {"f32": 32, "f16": 16, "q8": 8}
HOW = {32: "float32", 16: "16-bit integers, a scale a row", 8: f"8-bit integers, {GROUP} a scale"}
COMPARED = 20  # texts on which the packed weights are compared with the whole ones
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Packed:
    """What was written: where, how large, in how many bits, and what that changes.

    ``moved`` is the largest change of a log-probability (of a score, for a reward model) by model.
    """

    path: Path
    bytes: int
    bits: int
    moved: dict[str, float]

    def __str__(self) -> str:
        """Two sentences: the file, and how far its models are from the ones they were."""
        moved = ", ".join(f"{name} {change:.2g}" for name, change in self.moved.items())
        return (
            f"{self.path}: {self.bytes / 1e6:.2f} MB, {HOW[self.bits]}. Largest change of a "
            f"log-probability or score on {COMPARED} varied texts: {moved}."
        )


def write(
    references: Sequence[str | Path],
    path: Path,
    precision: Precision = "q8",
    force: bool = False,
    names: Sequence[str] = (),
) -> Packed:
    """Write policies and reward models with one tokenizer as a script for `runtime.js`.

    ``names`` are what the page calls them (default: the runs' own). Raises `ExportError` where the
    file exists, a model is not of Llama's shape, or the tokenizers are not one and the same.
    """
    check_target(path, force)
    models, tokenizers = zip(*(load(reference) for reference in references))
    tokenizer, bits = tokenizers[0], BITS[precision]
    if len({t.backend_tokenizer.to_str() for t in tokenizers}) > 1:
        raise ExportError(
            f"{', '.join(map(str, references))} have different tokenizers; export them apart"
        )
    called = list(names) or [_name(reference) for reference in references]
    check_template(tokenizer)
    ids = [tokenizer.encode(t, add_special_tokens=False) for t in _texts(tokenizer)]
    found = {name: pack(model, bits) for name, model in zip(called, models)}
    moved = {n: change(m, unpacked(found[n], m), ids) for n, m in zip(called, models)}
    whole = {"vocabulary": words_of(tokenizer), "models": found}
    head = (
        "// Written by `chatlib export`; open it with chatlib.open(chatlib_pack) of runtime.js.\n"
    )
    write_atomically(path, f"{head}globalThis.chatlib_pack = {json.dumps(whole)};\n")
    return Packed(path, path.stat().st_size, bits, moved)


def load(reference: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """A policy or, where the folder holds a sequence classifier, a reward model; its tokenizer."""
    import torch

    from chatlib.train import models

    place = str(reference)
    with models.no_bar():
        tokenizer = models.load_tokenizer(place)
        folder = identity.resolve(place)
        kinds = json.loads((Path(str(folder)) / "config.json").read_text()).get("architectures")
        scorer = "ForSequenceClassification" in str(kinds)
        model = (models.load_scorer if scorer else models.load_policy)(place, tokenizer)
    check_shape(model.config)
    return model.eval().to("cpu", torch.float32), tokenizer


def _name(reference: str | Path) -> str:
    """A run's name, or that of a folder."""
    path = Path(str(reference).removeprefix("run:"))
    return path.parent.name if path.name == "model" else path.name


# --- tokens


def words_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The vocabulary as the runtime reads it; merges are pairs of token ids."""
    words = vocabulary.read(tokenizer)
    if words.pieces is None or "(?i" in words.pieces:
        raise ExportError(
            "the tokenizer cuts texts by more than one plain expression, which the page's "
            "runtime cannot; use --gguf"
        )
    plain = [t for t in tokenizer.added_tokens_decoder.values() if not t.special]
    if plain:
        raise ExportError(f"{plain[0].content!r} is an added token without a role; use --gguf")
    id_of = {token: i for i, token in enumerate(words.tokens)}
    return {
        "tokens": words.tokens,
        "merges": [[id_of[left], id_of[right]] for left, right in words.merges],
        "special": words.special,
        "pieces": in_javascript(words.pieces),
        "end": tokenizer.eos_token_id,
        "roles": {role: tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ROLES},
    }


def in_javascript(pieces: str) -> str:
    r"""The expression for JavaScript, whose ``\s`` has U+FEFF and lacks U+0085."""
    return pieces.replace(r"\s", r"\p{White_Space}").replace(r"\S", r"\P{White_Space}")


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ExportError` unless turns are written as ``<|role|>content<|end|>``."""
    turns = [{"role": role, "content": f"a {role}"} for role in (*ROLES, "user")]
    expected = "".join(f"<|{m['role']}|>{m['content']}{END}" for m in turns) + "<|assistant|>"
    found = render(tokenizer, [turns], prompt=True)[0]
    if found != expected or tokenizer.eos_token != END:
        raise ExportError(
            f"the chat template writes {found[:60]!r}; the page's runtime knows only "
            "<|role|>content<|end|>: use --gguf, which takes the template along"
        )


# --- weights


def pack(model: Any, bits: int) -> dict[str, Any]:
    """A model's shape and weights; what ties output and embeddings is written once."""
    config, score = model.config, "score.weight" in model.state_dict()
    heads = config.num_attention_heads
    tensors = {
        name: [base64.b64encode(part.tobytes()).decode() for part in packed(weight.numpy(), bits)]
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight" or not config.tie_word_embeddings
    }
    return {
        "kind": "reward" if score else "policy",
        "shape": {
            "hidden": config.hidden_size,
            "inner": config.intermediate_size,
            "layers": config.num_hidden_layers,
            "heads": heads,
            "keyHeads": config.num_key_value_heads,
            "width": getattr(config, "head_dim", None) or config.hidden_size // heads,
            "theta": config.rope_parameters["rope_theta"],
            "eps": config.rms_norm_eps,
            "context": config.max_position_embeddings,
        },
        "bits": bits,
        "tensors": tensors,
        "mean": getattr(config, "score_mean", 0.0),
        "std": getattr(config, "score_std", 1.0),
    }


def packed(weight: np.ndarray, bits: int) -> list[np.ndarray]:
    """Little-endian numbers of a weight, and the scales of their groups; vectors stay float32.

    A scale is the upper half of a float32, rounded up so that the largest weight still fits.
    """
    if bits == 32 or weight.ndim == 1:
        return [weight.astype("<f4")]
    group = GROUP if bits == 8 and weight.shape[1] % GROUP == 0 else weight.shape[1]
    grouped, top = weight.astype("<f4").reshape(-1, group), 2 ** (bits - 1) - 1
    scales = np.abs(grouped).max(1) / np.float32(top)
    halves = ((scales.view("<u4").astype("<u8") + 0xFFFF) >> 16).astype("<u2")
    steps = np.where(halves, widened(halves), 1)[:, None]
    return [np.rint(grouped / steps).astype(f"<i{bits // 8}"), halves]


def widened(halves: np.ndarray) -> np.ndarray:
    """The float32 whose upper halves these are."""
    return (halves.astype("<u4") << 16).view("<f4")


def unpacked(found: dict[str, Any], like: Any) -> dict[str, Tensor]:
    """The weights that a page works with, of what `pack` made of the model ``like``."""
    import torch

    def numbers(name: str, whole: Tensor) -> Tensor:
        parts = [base64.b64decode(part) for part in found["tensors"][name]]
        if len(parts) == 1:
            return torch.from_numpy(np.frombuffer(parts[0], "<f4").reshape(whole.shape).copy())
        scales = widened(np.frombuffer(parts[1], "<u2"))[:, None]
        integers = np.frombuffer(parts[0], f"<i{found['bits'] // 8}").reshape(len(scales), -1)
        return torch.from_numpy((integers * scales).astype("f4").reshape(whole.shape))

    state = like.state_dict()
    return {name: numbers(name, state[name]) for name in found["tensors"]}


def change(model: Any, weights: dict[str, Tensor], ids: Sequence[list[int]]) -> float:
    """How far the largest log-probability (or score) moves when a model takes these weights."""
    import torch

    twin = copy.deepcopy(model)
    twin.load_state_dict(weights, strict=False)
    score = hasattr(model, "score")

    def read(one: Any, row: list[int]) -> Tensor:
        out = one(input_ids=torch.tensor([row])).logits
        return out if score else out.log_softmax(-1)

    with torch.inference_mode():
        return max(float((read(model, row) - read(twin, row)).abs().max()) for row in ids if row)


def _texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Varied texts, role tokens broken up, that any context holds."""
    texts = vocabulary.varied_texts(vocabulary.read(tokenizer), COMPARED)
    turns = vocabulary.neutral(tokenizer, [{"role": "user", "content": t} for t in texts])
    return [turn["content"] for turn in turns]
