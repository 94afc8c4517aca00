"""llama.cpp in this process (xllamacpp, prebuilt), asked as its users ask it."""

import json
import urllib.request

import numpy as np
import pytest

xllamacpp = pytest.importorskip("xllamacpp", reason="no prebuilt llama.cpp for this machine")


def server(path, exact=True):
    """llama.cpp on a file; ``exact``: no flash attention, which rounds, and an f32 KV cache."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.verbosity, params.fit_params = 256, 1, 0, False
    params.cpuparams.n_threads = 1
    if exact:
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        whole = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type, params.cache_type_k, params.cache_type_v = off, whole, whole
    return xllamacpp.Server(params)


def log_probs(running, ids, vocabulary, ascii_token):
    """Log-probabilities of the next token, over the whole vocabulary.

    ``ascii_token`` is made the one that is drawn: where it is the first byte of a longer character
    llama.cpp leaves the probabilities out. They are of the logits before that.
    """
    asked = {"prompt": ids, "n_predict": 1, "n_probs": vocabulary, "cache_prompt": False}
    asked["logit_bias"] = [[ascii_token, 1000.0]]
    told = running.handle_completions(asked)["choices"][0]["logprobs"]["content"][0]
    found = np.full(vocabulary, np.nan)
    for entry in told["top_logprobs"]:
        found[entry["id"]] = entry["logprob"]
    return found


def greedy(running, ids, length):
    """The text of the likeliest tokens after ``ids``, until the end of the turn."""
    asked = {"prompt": ids, "n_predict": length, "temperature": 0, "cache_prompt": False}
    return running.handle_completions(asked)["choices"][0]["text"].strip()


def chat(running, messages, length):
    """The answer by the template in the file."""
    asked = {"messages": messages, "max_tokens": length, "temperature": 0}
    return running.handle_chat_completions(asked)["choices"][0]["message"]["content"].strip()


def post(running, place, **asked):
    """The answer of a place of the HTTP server, such as ``tokenize``."""
    request = urllib.request.Request(  # noqa: S310
        f"{running.listening_address}/{place}",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310
        return json.load(reply)
