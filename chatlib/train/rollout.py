"""Sampling answers: the policy's own draws, one token after another with a key-value cache.

Rows that have ended leave the batch, so next to nothing is computed for them. Under ZeRO stage 3
every forward pass is a collective of all ranks, and ranks that end at different lengths would
wait for each other forever; transformers' `generate` keeps them in step there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from chatlib.data import collate, template
from chatlib.maths.likelihood import log_softmax
from chatlib.train import models

if TYPE_CHECKING:
    from chatlib.runs.recorder import Recorder
    from chatlib.settings.stages import StageConfig


def truncate(answer: list[int], stop: int) -> list[int]:
    """The answer up to and including its first stop token; whole when there is none."""
    return answer[: answer.index(stop) + 1] if stop in answer else answer


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: list[list[int]],
    max_answer_tokens: int,
    stop: int,
    pad: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """One answer per prompt, drawn from softmax(logits / temperature), nothing filtered.

    ``prompts`` are token ids; answers end with ``stop`` or after ``max_answer_tokens``.
    ``temperature`` 0 takes the likeliest token. Prompts are padded on the left so that all
    rows predict from the last column; position ids come from the mask, so padding shifts
    nothing.
    """
    device = next(model.parameters()).device
    ids, mask = collate.to_device(device, *collate.pad(prompts, pad, "left"))
    positions = collate.positions(mask)
    cache = DynamicCache(config=model.config)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)  # which prompt each row of the batch answers
    going = torch.ones_like(rows, dtype=torch.bool)
    for _ in range(max_answer_tokens):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        token = draw(out.logits[:, -1], temperature, generator)
        for row, t, unfinished in zip(rows.tolist(), token.tolist(), going.tolist()):
            if unfinished:
                answers[row].append(t)
        going &= token != stop
        if not going.any():
            break
        if going.sum() <= 7 / 8 * len(going):  # each time is a copy of the cache
            keep = going.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            rows, going, token = rows[keep], going[keep], token[keep]
            mask, positions = mask[keep], positions[keep]
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


@torch.no_grad()
def sample_in_step(
    model: PreTrainedModel,
    prompts: list[list[int]],
    max_answer_tokens: int,
    stop: int,
    pad: int,
    temperature: float = 1.0,
) -> list[list[int]]:
    """As `sample`, for weights that are partitioned over the ranks (ZeRO stage 3).

    A model's own generation settings (a minimum length, penalties, filters) are put aside.
    """
    own, model.generation_config = model.generation_config, GenerationConfig()
    device = next(model.parameters()).device
    ids, mask = collate.to_device(device, *collate.pad(prompts, pad, "left"))
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_answer_tokens,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        eos_token_id=stop,
        pad_token_id=pad,
        synced_gpus=True,
    )
    model.generation_config = own
    return [truncate(row, stop) for row in out[:, ids.shape[1] :].tolist()]


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


def print_answers(net, tokenizer, records, config: StageConfig, recorder: Recorder) -> None:
    """Write a few answers to the rank's log while training (every rank takes part at stage 3)."""
    model, limit = net.module.model, models.max_length(net.module.model, config.max_seq_len)
    prompts = [r.prompt for r in records[:20]]
    ids = template.encode_prompts(tokenizer, prompts)
    shown = [i for i, p in enumerate(ids) if len(p) < limit][:3]
    if not shown:
        return recorder.say(f"no answers printed: the prompts fill {limit} tokens")
    room = min(64, limit - max(len(ids[i]) for i in shown))
    draws = sample_in_step if config.zero_stage == 3 else sample
    rng = torch.get_rng_state()
    drawn = draws(
        model, [ids[i] for i in shown], room, tokenizer.eos_token_id, tokenizer.pad_token_id
    )
    torch.set_rng_state(rng)  # looking must not change the run
    for i, text in zip(shown, template.decode(tokenizer, drawn)):
        recorder.say(f"{prompts[i][-1]['content']}\n  -> {text}")
