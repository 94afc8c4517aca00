"""Sampling answers: the policy's own draws, one token after another with a key-value cache.

Rows that have ended leave the batch, so next to nothing is computed for them. Under ZeRO stage 3
the weights are gathered once for all tokens (`engine.whole`): ranks may end at different lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from chatlib.data import collate, template
from chatlib.maths.likelihood import log_softmax
from chatlib.train import engine, models

if TYPE_CHECKING:
    from chatlib.data.schema import Record
    from chatlib.runs.recorder import Recorder
    from chatlib.settings.stages import StageConfig


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: list[list[int]],
    max_answer_tokens: int,
    stop: int,
    pad: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    each: int = 1,
) -> list[list[int]]:
    """``each`` answers to every prompt, side by side: draws from softmax(logits / temperature).

    Nothing is filtered, and a prompt is read once for all its answers.

    ``prompts`` are token ids; answers end with ``stop`` or after ``max_answer_tokens``.
    ``temperature`` 0 takes the likeliest token. Prompts are padded on the left so that all
    rows predict from the last column; position ids come from the mask, so padding shifts
    nothing. A prompt is read once for all its answers. The host waits for the device once a token.
    """
    device = next(model.parameters()).device
    ids, mask = collate.to_device(device, *collate.pad(prompts, pad, "left"))
    positions = collate.positions(mask)
    cache = DynamicCache(config=model.config)
    answers: list[list[int]] = [[] for _ in range(each * len(prompts))]
    rows = list(range(len(answers)))  # which answer each row of the batch becomes
    going = [True] * len(answers)
    for _ in range(max_answer_tokens):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = out.logits[:, -1]
        if len(logits) < len(rows):  # the prompts have been read: from here each answer has a row
            cache.batch_repeat_interleave(each)
            logits, mask, positions = (
                x.repeat_interleave(each, 0) for x in (logits, mask, positions)
            )
        token = draw(logits, temperature, generator)
        for row, t in zip(rows, token.tolist()):
            if going[row]:
                answers[row].append(t)
                going[row] = t != stop
        left = [i for i, row in enumerate(rows) if going[row]]
        if not left:
            break
        if len(left) <= 7 / 8 * len(rows):  # each time is a copy of the cache
            keep, rows = torch.tensor(left, device=device), [rows[i] for i in left]
            cache.batch_select_indices(keep)
            token, mask, positions = token[keep], mask[keep], positions[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        ids, positions = token[:, None], positions[:, -1:] + 1
    return answers


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """One token per row of (batch, vocabulary) logits, drawn by inverting the distribution.

    The token is the first whose cumulative probability exceeds a uniform number; in double
    precision, so that rounding moves no draw. One random number a row instead of one for each
    entry of the vocabulary, as `torch.multinomial` needs, saves a sixth of the time.
    """
    if temperature == 0:
        return logits.argmax(-1)
    below = log_softmax(logits, temperature).exp().cumsum(-1, dtype=torch.float64)
    u = torch.rand(len(below), 1, dtype=torch.float64, device=below.device, generator=generator)
    return torch.searchsorted(below, u * below[:, -1:], right=True).squeeze(-1)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[dict]],
    max_answer_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 128,
) -> list[str]:
    """The model's answers to prompts (lists of messages) as texts, in the prompts' order.

    Prompts of similar length share a batch. The same seed gives the same answers.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    encoded = template.encode_prompts(tokenizer, prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    training, texts = model.training, [""] * len(prompts)
    model.eval()
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        drawn = sample(
            model,
            [encoded[i] for i in part],
            max_answer_tokens,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
            temperature,
            generator,
        )
        for i, text in zip(part, template.decode(tokenizer, drawn)):
            texts[i] = text
    model.train(training)
    return texts


def print_answers(
    net: engine.Engine,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    config: StageConfig,
    recorder: Recorder,
) -> None:
    """Write a few answers to the rank's log while training (every rank takes part at stage 3)."""
    model, limit = net.module.model, models.max_length(net.module.model, config.max_seq_len)
    prompts = [r.prompt for r in records[:20]]
    ids = template.encode_prompts(tokenizer, prompts)
    shown = [i for i, p in enumerate(ids) if len(p) < limit][:3]
    if not shown:
        return recorder.say(f"no answers printed: the prompts fill {limit} tokens")
    room = min(64, limit - max(len(ids[i]) for i in shown))
    asked, stop, pad = [ids[i] for i in shown], tokenizer.eos_token_id, tokenizer.pad_token_id
    training, device = net.training, next(model.parameters()).device
    net.eval()  # with checkpointing on, transformers keeps no cache while it trains
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), engine.whole(net):  # looking changes nothing
        drawn = sample(model, asked, room, stop, pad)
    net.train(training)
    for i, text in zip(shown, template.decode(tokenizer, drawn)):
        recorder.say(f"{prompts[i][-1]['content']}\n  -> {text}")
