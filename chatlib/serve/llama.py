"""llama.cpp in this process (the package xllamacpp, compiled), asked as its users ask it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlib.serve.chat import Messages
from chatlib.serve.vocabulary import ExportError


@dataclass(frozen=True)
class Said:
    """An answer of llama.cpp: its text, its tokens and the log-probability of each.

    Both lists are empty where it wrote half a character, as it does not tell those tokens.
    """

    text: str
    ids: list[int]
    logp: list[float]


def running(path: Path, exact: bool = True, context: int = 256, threads: int = 1) -> Any:
    """llama.cpp on a GGUF file; ``exact``: no flash attention, which rounds, and an f32 KV cache.

    Raises `ExportError` where the package is missing.
    """
    try:
        import xllamacpp
    except ImportError as error:
        raise ExportError("the package xllamacpp is missing; pip install xllamacpp") from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel = context, 1
    params.verbosity, params.fit_params = 0, False
    params.cpuparams.n_threads = threads
    if exact:
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        whole = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type, params.cache_type_k, params.cache_type_v = off, whole, whole
    return xllamacpp.Server(params)


def said(running: Any, ids: list[int], length: int = 64) -> Said:
    """The likeliest tokens after ``ids``, until the end of the turn, which counts as one."""
    asked = {"prompt": ids, "n_predict": length, "temperature": 0, "cache_prompt": False}
    told = running.handle_completions(asked | {"n_probs": 1})
    choice, count = told["choices"][0], told["usage"]["completion_tokens"]
    found = choice["logprobs"]["content"]
    found = found if len(found) == count else []
    text = str(choice["text"]).strip()
    return Said(text, [e["id"] for e in found], [float(e["logprob"]) for e in found])


def reply(running: Any, messages: Messages, length: int = 64) -> str:
    """The answer by the chat template in the file."""
    asked = {"messages": messages, "max_tokens": length, "temperature": 0}
    return str(running.handle_chat_completions(asked)["choices"][0]["message"]["content"]).strip()
