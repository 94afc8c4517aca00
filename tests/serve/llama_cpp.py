"""llama.cpp in this process (xllamacpp, prebuilt), asked as its users ask it."""

import json
import urllib.request

import numpy as np
import pytest

from chatlib.serve import llama

pytest.importorskip("xllamacpp", reason="no prebuilt llama.cpp for this machine")
server, chat = llama.running, llama.reply


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
    return llama.said(running, ids, length).text


def post(running, place, **asked):
    """The answer of a place of the HTTP server, such as ``tokenize``."""
    request = urllib.request.Request(  # noqa: S310
        f"{running.listening_address}/{place}",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310
        return json.load(reply)
