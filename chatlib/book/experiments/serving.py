"""A pretrained model in llama.cpp at four precisions (chapter 14): bytes, speed, what goes wrong.

SmolLM2-135M comes as a file whose weights have 4 bits and their scales. Read back into 32 bits, it
is written again with 32, 16 and 8 bits: the weights' *values* are the same in all four files but
for the rounding to 8 bits, so what differs is how llama.cpp computes with them.
"""

from __future__ import annotations

import re
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chatlib.book.experiments import Witnesses, part
from chatlib.book.experiments.real import KNOWN
from chatlib.runs import pretrained
from chatlib.serve import chat, gguf, llama

STAGES = ()
MODEL = "pypi:smollm2"
OURS: tuple[gguf.Precision, ...] = ("f32", "f16", "q8")
LENGTH = 24  # tokens of an answer


def results() -> dict[str, Any]:
    """Every precision, asked the same questions."""
    assistant = chat.load(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / f"{kind}.gguf" for kind in OURS}
        for kind, path in files.items():
            gguf.write(assistant, path, kind)
        files["q4_1"] = pretrained.gguf_file(MODEL)  # type: ignore[index]
        rows = {kind: part(f"serving-{kind}", partial(asked, path)) for kind, path in files.items()}
    return {"questions": [question for question, _ in KNOWN], "precisions": rows}


def witnesses() -> Witnesses:
    """The answers of the package's own file; nothing here is trained."""
    place = ("precisions", "q4_1", "answers")
    return {place: lambda: asked(pretrained.gguf_file(MODEL))["answers"]}


def asked(path: Path) -> dict[str, Any]:
    """Answers to all questions, which are right, and what they took; greedy, one thread."""
    running = llama.running(path, exact=False)
    began = time.perf_counter()
    texts = [llama.reply(running, turns(question), LENGTH) for question, _ in KNOWN]
    seconds = time.perf_counter() - began
    right = [bool(re.search(rf"\b(?:{w})\b", t.lower())) for t, (_, w) in zip(texts, KNOWN)]
    return {
        "bytes": path.stat().st_size,
        "answers": texts,
        "right": right,
        "share": float(np.mean(right)),
        "words_per_second": sum(len(text.split()) for text in texts) / seconds,
    }


def turns(question: str) -> list[dict]:
    """A question without any facts before it."""
    return [{"role": "user", "content": question}]
