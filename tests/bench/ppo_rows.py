"""PPO and GRPO against TRL's trainers, and generation against transformers' `generate`."""

from __future__ import annotations

from random import Random

import torch
import work
from compare import Peer, Row, Side, in_turns, timed
from environments import python
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from chatlib.data import collate, sources, template
from chatlib.settings.stages import PPOConfig
from chatlib.train import models, ppo, rollout

ITERATIONS = 3  # of one round
BATCHES = 4  # generated in one round


def chatlib_side(config: PPOConfig, batches: list[list[list[int]]]) -> Side:
    """The PPO stage's iteration: generate, four forward passes, advantages, updates."""
    nets = ppo.load_models(config, torch.device("cpu"), work.recorder())

    def iteration(asked: list[list[int]]) -> None:
        answers = ppo.generate(config, nets.actor, asked, nets.tokenizer)
        r = ppo.make_experience(config, nets, asked, answers)
        ppo.add_advantages(config, r, config.kl_ctl)
        for _ in range(config.ppo_epochs):
            for index in ppo.minibatches(len(asked), config):
                ppo.update(config, nets, r.take(index), config.kl_ctl)

    def round_of(k: int) -> list[list[list[int]]]:
        return batches[k * ITERATIONS : (k + 1) * ITERATIONS]

    return lambda k: timed(lambda: [iteration(asked) for asked in round_of(k)])


def asked_in(config: PPOConfig, rounds: int) -> list[list[list[int]]]:
    """The prompts of every iteration of all rounds, drawn anew for each."""
    prompts, rng = work.prompts(config), Random(0)
    return [rng.sample(prompts, config.batch_size) for _ in range(ITERATIONS * (rounds + 1))]


def against_trl(rounds: int) -> Row:
    """The same prompts in every iteration, each side's own draws from the same policy."""
    config = work.ppo_config()
    batches = asked_in(config, rounds)
    settings = dict(
        policy=str(work.model("sft")),
        reward_model=str(work.model("reward")),
        data=work.write("prompts", [{"input_ids": p} for batch in batches for p in batch]),
        iterations=len(batches),
        steps=ITERATIONS,
        config=config.model_dump(mode="json"),
    )
    with Peer(python(".venv-trl112"), "ppo.py", settings) as trl:
        times = in_turns(chatlib_side(config, batches), trl, rounds)
    return Row("PPO / TRL 1.12.0 PPOTrainer", 2.0, "iterations", ITERATIONS, *times)


def grpo_against_trl(rounds: int) -> Row:
    """GRPO: the same prompts in every iteration, four answers to each, drawn by each side."""
    config, rng = work.grpo_config(), Random(0)
    records, count = sources.load(config).train, ITERATIONS * (rounds + 1)
    drawn = [rng.sample(records, config.batch_size) for _ in range(count)]
    asked = [template.encode_prompts(work.tokenizer(), [r.prompt for r in rows]) for rows in drawn]
    each = config.answers_per_prompt
    batches = [[ids for ids in rows for _ in range(each)] for rows in asked]
    settings = dict(
        policy=str(work.model("sft")),
        reward_model=str(work.model("reward")),
        data=work.write("questions", [{"prompt": r.prompt} for rows in drawn for r in rows]),
        iterations=count,
        steps=ITERATIONS,
        config=config.model_dump(mode="json"),
    )
    with Peer(python(".venv-bench"), "grpo.py", settings) as trl:
        times = in_turns(chatlib_side(config, batches), trl, rounds)
    return Row("GRPO / TRL GRPOTrainer", 2.0, "iterations", ITERATIONS, *times)


def generation(rounds: int) -> Row:
    """The same prompts and, drawn at temperature 1 on both sides, the very same answers."""
    config, tokenizer = work.ppo_config(), work.tokenizer()
    model = models.load_policy(str(work.model("sft")), tokenizer).eval()
    prompts, size = work.prompts(config), config.batch_size
    batches = [prompts[i * size : (i + 1) * size] for i in range(BATCHES)]
    ends = (tokenizer.eos_token_id, tokenizer.pad_token_id)

    def ours() -> list[list[list[int]]]:
        seeded = torch.Generator().manual_seed(config.seed)
        most = config.max_answer_tokens
        return [rollout.sample(model, b, most, *ends, generator=seeded) for b in batches]

    answers = ours()

    def theirs() -> list[list[list[int]]]:
        return [draw_again(model, b, a, *ends) for b, a in zip(batches, answers)]

    assert theirs() == answers, "the two sides' answers differ"
    times = in_turns(lambda _: timed(ours), lambda _: timed(theirs), rounds)
    tokens = sum(len(a) for batch in answers for a in batch)
    return Row("PPO generation / transformers generate", 1.8, "tokens", tokens, *times)


def draw_again(model, prompts: list[list[int]], answers: list[list[int]], stop: int, pad: int):
    """transformers' sampling loop, its draws made to come out as ``answers``."""
    ids, mask = collate.pad(prompts, pad, "left")
    drawn, _ = collate.pad(answers, pad)
    settings = GenerationConfig(
        max_new_tokens=drawn.shape[1],
        do_sample=True,
        top_k=0,
        top_p=1.0,
        eos_token_id=stop,
        pad_token_id=pad,
    )
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=settings,
        logits_processor=LogitsProcessorList([Certain(drawn, ids.shape[1])]),
    )
    rows = out[:, ids.shape[1] :].tolist()
    return [row[: row.index(stop) + 1] if stop in row else row for row in rows]


class Certain(LogitsProcessor):
    """Gives each row's next token of ``drawn`` (batch, time) all the probability, in place.

    One written number a row: the cost of the draw itself stays what it is.
    """

    def __init__(self, drawn: torch.Tensor, prompt: int) -> None:
        self.drawn, self.prompt = drawn, prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = self.drawn[:, input_ids.shape[1] - self.prompt, None]
        return scores.scatter_(1, token, 1e4)
