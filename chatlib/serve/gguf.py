"""A trained assistant as one GGUF file, which llama.cpp and what is built on it run without Python.

The file holds the weights in one of three precisions, the vocabulary and the chat template. Only
models of Llama's shape are written. Rows of the query and key matrices change places: transformers
turns entry i with entry i + d/2 of a head, llama.cpp entry 2i with 2i + 1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chatlib.serve import vocabulary
from chatlib.serve.vocabulary import ExportError, Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from chatlib.serve.chat import Assistant

Precision = Literal["f32", "f16", "q8"]
BLOCK = 32  # weights of Q8_0 that share a scale
CHECKED = 200  # texts on which token ids are compared

# The splits of llama.cpp that are nearest to those of public models, by its names for them.
LLAMA3_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN = {
    "gpt-2": vocabulary.GPT2_PIECES,
    "llama-bpe": LLAMA3_PIECES,
    "qwen2": LLAMA3_PIECES.replace("{1,3}", ""),
}


@dataclass(frozen=True)
class Written:
    """What was written: where, how large, which split, and on how many texts token ids differ."""

    path: Path
    bytes: int
    precision: str
    pre: str
    differing: list[str]

    def __str__(self) -> str:
        """Two sentences: the file, and whether llama.cpp will read texts as the model does."""
        size = f"{self.path}: {self.bytes / 1e6:.2f} MB, {self.precision}."
        if not self.differing:
            return f"{size} Token ids equal on {CHECKED} varied texts (split {self.pre})."
        shortest = min(self.differing, key=len)
        return (
            f"{size} Token ids differ on {len(self.differing)} of {CHECKED} varied texts, such as "
            f"{shortest!r}: llama.cpp has no split like this tokenizer's; {self.pre} is nearest."
        )


def write(
    assistant: Assistant, path: Path, precision: Precision = "f16", force: bool = False
) -> Written:
    """Write an assistant as GGUF; the file appears whole or not at all.

    Raises `ExportError` where the file exists (``force`` replaces it), where the model is not of
    Llama's shape, and where the package gguf is missing.
    """
    check_target(path, force)
    gguf = _package()
    config = assistant.model.config
    check_shape(config, precision)
    words = vocabulary.read(assistant.tokenizer)
    pre, differing = nearest_split(assistant.tokenizer, words)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    writer = gguf.GGUFWriter(temporary, "llama")
    try:
        _describe(writer, gguf, assistant.name, config, precision)
        _add_vocabulary(writer, gguf, assistant.tokenizer, words, pre, config.vocab_size)
        for name, data, kind in tensors(assistant.model, precision):
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Written(path, path.stat().st_size, precision, pre, differing)


def check_target(path: Path, force: bool) -> None:
    """Raise `ExportError` where a file would be lost, or cannot be made."""
    if path.exists() and not force:
        raise ExportError(f"{path} exists; give another name, or --force to replace it")
    if not path.parent.is_dir():
        raise ExportError(f"{path.parent} is no folder; make it first")


def _package() -> Any:
    """The package gguf, or a sentence that says how to get it."""
    try:
        import gguf
    except ImportError as error:
        raise ExportError("the package gguf is missing; pip install 'chatlib[export]'") from error
    return gguf


def check_shape(config: Any, precision: Precision = "f32") -> None:
    """Raise `ExportError` unless the model is a Llama without biases and with plain rotations."""
    rope = (config.to_dict().get("rope_parameters") or {}).get("rope_type", "default")
    biased = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    if config.model_type != "llama" or biased or rope != "default":
        shape = f"{config.model_type}{' with biases' if biased else ''}, rotations {rope}"
        raise ExportError(
            f"the model is of the kind {shape}; only llama without biases and with default "
            "rotations can be exported: use llama.cpp's own convert_hf_to_gguf.py"
        )
    wide = [config.hidden_size, config.intermediate_size]
    if precision == "q8" and any(width % BLOCK for width in wide):
        raise ExportError(
            f"q8 packs {BLOCK} weights of a row, and widths {wide} are no multiples; use f16"
        )


# --- weights


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a (heads x d, in) matrix as llama.cpp wants them: i and i + d/2 side by side."""
    rows, *rest = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, *rest)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tensors(model: Any, precision: Precision) -> Iterator[tuple[str, np.ndarray, Any]]:
    """Name, data and type of every tensor; vectors (the norms' weights) stay f32."""
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    kinds = gguf.GGMLQuantizationType
    kind = {"f32": kinds.F32, "f16": kinds.F16, "q8": kinds.Q8_0}[precision]
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embeddings where there is no output
        data = weight.detach().float().cpu().numpy()
        if turned := heads.get(name.split(".")[-2]):
            data = permuted(data, turned)
        of = kind if data.ndim > 1 else kinds.F32
        called = names.get_name(name, (".weight",))
        if called is None:
            raise ExportError(f"GGUF's llama has no tensor for {name}; its shape is another one")
        yield called, gguf.quants.quantize(data, of), of


# --- what stands beside the weights


def _describe(writer: Any, gguf: Any, name: str, config: Any, precision: Precision) -> None:
    """The model's shape, as llama.cpp asks for it."""
    types = gguf.LlamaFileType
    kind = {"f32": types.ALL_F32, "f16": types.MOSTLY_F16, "q8": types.MOSTLY_Q8_0}[precision]
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_file_type(kind)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_vocabulary(
    writer: Any,
    gguf: Any,
    tokenizer: PreTrainedTokenizerBase,
    words: Vocabulary,
    pre: str,
    size: int,
) -> None:
    """Tokens, merges, the chat template, and which tokens end and fill; nothing opens a text."""
    kinds, special = gguf.TokenType, set(words.special)
    spare = [f"[UNUSED{i}]" for i in range(len(words.tokens), size)]  # rows without a token
    types = [kinds.CONTROL if i in special else kinds.NORMAL for i in range(len(words.tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*words.tokens, *spare])
    writer.add_token_types([*types, *[kinds.UNUSED] * len(spare)])
    writer.add_token_merges([" ".join(pair) for pair in words.merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


# --- how texts are cut


def nearest_split(tokenizer: PreTrainedTokenizerBase, words: Vocabulary) -> tuple[str, list[str]]:
    """llama.cpp's name for the split that changes fewest ids, and the texts whose ids it changes.

    Compared on `CHECKED` varied texts without special tokens in them.
    """
    texts = [t["content"] for t in neutral_texts(tokenizer, words)]
    ours = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    found = {}
    for name, pieces in KNOWN.items():
        theirs = with_split(tokenizer, pieces).encode_batch(texts, add_special_tokens=False)
        found[name] = [text for text, a, b in zip(texts, ours, theirs) if a.ids != b.ids]
    return min(found.items(), key=lambda item: len(item[1]))


def neutral_texts(tokenizer: PreTrainedTokenizerBase, words: Vocabulary) -> list[dict]:
    """The varied texts as customers' messages, role tokens broken up."""
    texts = vocabulary.varied_texts(words, CHECKED)
    return vocabulary.neutral(tokenizer, [{"role": "user", "content": t} for t in texts])


def with_split(tokenizer: PreTrainedTokenizerBase, pieces: str) -> Any:
    """A copy of the tokenizer (of the tokenizers library) that cuts by another expression."""
    from tokenizers import Tokenizer

    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    split = {"type": "Split", "pattern": {"Regex": pieces}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [split, {**bytes_, "use_regex": False}]
    stored["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    return Tokenizer.from_str(json.dumps(stored))
