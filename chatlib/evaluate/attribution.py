"""What a score and an answer hang on, held against reasons that are known (chapter 15).

An *attribution* gives every sentence of an answer a share in the score of a reward model. Here the
right shares are known, because the judge is a program: leave the sentence out, and see what its
verdict loses. A word of an answer hangs on the prompt: a number that it tells stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chatlib.data import shop

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from chatlib.evaluate.scorer import Scorer

Function = Callable[["Tensor"], "Tensor"]  # input vectors (B, T, d) to B numbers
Method = Callable[[Function, "Tensor", "Tensor"], "Tensor"]  # the shares of T tokens
Span = tuple[int, int]


# ------------------------------------------------------------------------- what the judge pays
def spans(text: str) -> list[Span]:
    """(start, end) of every sentence that `shop.sentences` finds in a text."""
    starts, at = [], 0
    for sentence in shop.sentences(text):
        at = text.index(sentence, at)
        starts.append((at, at + len(sentence)))
        at += len(sentence)
    return starts


def without(text: str) -> list[str]:
    """The text without each of its sentences in turn."""
    said = shop.sentences(text)
    return [" ".join(said[:i] + said[i + 1 :]) for i in range(len(said))]


def worth(meta: dict, text: str) -> np.ndarray:
    """What the judge's verdict loses without each sentence, in points of gold. (sentences,)

    Above 0: the sentence is paid for; below 0: it is fined. ``meta`` is `shop.Scenario.meta`.
    """
    total = shop.judge(meta, text).total
    return np.array([total - shop.judge(meta, rest).total for rest in without(text)])


# ------------------------------------------------------------------------------- the methods
def removal(scorer: Scorer, prompt: list[dict], text: str) -> np.ndarray:
    """What the reward model's score loses without each sentence. (sentences,)

    It reads only texts that somebody could have written.
    """
    rest = without(text)
    scores = scorer.score([prompt] * (len(rest) + 1), [text, *rest])
    return scores[0] - scores[1:]


def occlusion(f: Function, x: Tensor, baseline: Tensor) -> Tensor:
    """f(x) - f(x with one token's vector replaced). Shapes: x (T, d), baseline (d,); (T,).

    Zeiler and Fergus 2014, section 4, with a token for a patch.
    """
    import torch

    with torch.no_grad():
        rows = x.repeat(len(x) + 1, 1, 1)
        places = torch.arange(len(x))
        rows[places, places] = baseline
        values = f(rows)
    return values[-1] - values[:-1]


def input_x_gradient(f: Function, x: Tensor, baseline: Tensor) -> Tensor:
    """(x - b) . df/dx at x, a token. Shapes: x (T, d), baseline (d,); the result is (T,).

    To first order what `occlusion` measures (Shrikumar et al. 2017).
    """
    return ((x - baseline) * _gradient(f, x[None])[0]).sum(-1)


def integrated_gradients(f: Function, x: Tensor, baseline: Tensor, steps: int = 24) -> Tensor:
    """(x - b) . the mean of df/dx on the straight way from b to x. (T,)

    The sum over the tokens is f(x) - f(b) but for the error of the sum over ``steps`` middle
    points (Sundararajan, Taly and Yan 2017, equation 3). Shapes as for `input_x_gradient`.
    """
    import torch

    share = (torch.arange(steps) + 0.5) / steps
    way = baseline + share[:, None, None] * (x - baseline)  # (steps, T, d)
    return ((x - baseline) * _gradient(f, way).mean(0)).sum(-1)


def _gradient(f: Function, x: Tensor) -> Tensor:
    """df/dx of each row of x, of the same shape."""
    import torch

    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def by_tokens(method: Method, scorer: Scorer, prompt: list[dict], text: str) -> np.ndarray:
    """The shares of a method that looks at input vectors, added up sentence by sentence.

    The answer's tokens get them; the prompt stays as it is. The baseline is the mean of the
    vocabulary's vectors. (sentences,)
    """
    import torch

    from chatlib.data import template

    model, tokenizer = scorer.model, scorer.tokenizer
    opened = template.encode_prompts(tokenizer, [prompt])[0]
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    table = model.get_input_embeddings()
    with torch.no_grad():
        before, x, after = (
            table(torch.tensor(ids))
            for ids in (opened, read["input_ids"], [tokenizer.eos_token_id])
        )
        baseline = table.weight.mean(0)

    def f(rows: Tensor) -> Tensor:
        around = [part.expand(len(rows), *part.shape) for part in (before, after)]
        whole = torch.cat([around[0], rows, around[1]], dim=1)
        hidden = model.model(inputs_embeds=whole, use_cache=False).last_hidden_state[:, -1]
        return model.score(hidden)[:, 0]

    return of_spans(spans(text), read["offset_mapping"], method(f, x, baseline).tolist())


def of_prompt(method: Method, model: Any, ids: Tensor, prompt: int) -> np.ndarray:
    """The share of each token of a prompt in why the *last* token was said. (prompt,)

    What is shared out is the log-probability of ``ids[-1]`` after all before it. Shape: ids (T,),
    of which the first ``prompt`` are the prompt; the answer so far stays as it is.
    """
    import torch

    table = model.get_input_embeddings()
    with torch.no_grad():
        x, said, baseline = table(ids[:prompt]), table(ids[prompt:-1]), table.weight.mean(0)

    def f(rows: Tensor) -> Tensor:
        whole = torch.cat([rows, said.expand(len(rows), *said.shape)], dim=1)
        logits = model(inputs_embeds=whole, use_cache=False).logits[:, -1]
        return logits.log_softmax(-1)[:, ids[-1]]

    return method(f, x, baseline).numpy()


def of_spans(of: Sequence[Span], tokens: Sequence[Span], values: Sequence[float]) -> np.ndarray:
    """The sum over the tokens that end in each span; both in characters of one text. (spans,)"""
    ends = np.array([end for _, end in tokens])
    at = np.array(values, dtype=float)
    return np.array([at[(start < ends) & (ends <= end)].sum() for start, end in of])


def counts(text: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """How many tokens each sentence has. (sentences,)"""
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = read["offset_mapping"]
    return of_spans(spans(text), tokens, [1.0] * len(tokens)).astype(int)


# ------------------------------------------------------------------------------- the measure
def auc(values: Sequence[float] | np.ndarray, labels: Sequence[bool] | np.ndarray) -> float:
    """Chance that a labelled item has a higher value than one that is not, ties counting half.

    The area under the ROC curve (Mann and Whitney 1947). Raises `ValueError` without an item of
    each kind.
    """
    from scipy.stats import mannwhitneyu

    x, y = np.asarray(values, dtype=float), np.asarray(labels, dtype=bool)
    if not y.any() or y.all():
        raise ValueError(f"{y.sum()} of {len(y)} are labelled; an AUC compares one of each kind")
    return float(mannwhitneyu(x[y], x[~y]).statistic / (y.sum() * (~y).sum()))
