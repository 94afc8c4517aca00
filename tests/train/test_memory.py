"""Predicted activations and logits against every byte that a CPU allocates in one real step.

Sizes are those of models in which activations outweigh the states, sequences as long as the
configuration allows: then the prediction, an upper bound for other data, should be exact.
"""

import json
from pathlib import Path

import pytest
import tiny_stages
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from chatlib.data import template
from chatlib.launch import memory
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import PPOConfig, RewardConfig, SFTConfig
from chatlib.train import engine, models, ppo, reward, sft

CPU = torch.device("cpu")
TOLERANCE = 0.15
SIZES = {  # width, inner width, layers, heads, heads of keys and values, vocabulary
    "deep": (64, 192, 6, 4, 4, 512),
    "narrow keys": (128, 256, 4, 4, 1, 512),
    "many words": (64, 128, 2, 4, 4, 12_000),
}


def allocated(work, folder: Path) -> int:
    """Most bytes allocated at once while a function runs, beyond what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    seen.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    held, most = 0, 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


def folder_of(size: str, home: Path) -> Path:
    """A stored model of random weights with a tokenizer of fewer words than it has room for."""
    width, inner, layers, heads, groups, vocabulary = SIZES[size]
    tokenizer, place = tiny_stages.foreign_tokenizer(), home / size.replace(" ", "_")
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(place)
    tokenizer.save_pretrained(place)
    scorer = LlamaForSequenceClassification(LlamaConfig(**shape.to_dict() | {"num_labels": 1}))
    scorer.save_pretrained(place.with_name("scorer"))
    tokenizer.save_pretrained(place.with_name("scorer"))
    return place


def close(measured: int, predicted: int) -> None:
    assert measured == pytest.approx(predicted, rel=TOLERANCE), measured / predicted


def tokens(rows: int, length: int) -> list[list[int]]:
    """Rows of words: none is a special token."""
    return torch.randint(10, 300, (rows, length)).tolist()


@pytest.fixture
def recorder(tmp_path):
    (tmp_path / "log").mkdir()
    return Recorder(tmp_path, 0, 1)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_an_sft_step_takes_what_was_predicted(alone, size, again, tmp_path, recorder):
    place = folder_of(size, tmp_path)
    config = SFTConfig(
        model=place, ranks=1, batch_size=4, max_seq_len=192, gradient_checkpointing=again
    )
    tokenizer = models.load_tokenizer(config.model)
    model = models.load_policy(config.model, tokenizer)
    models.adapt(model, config, "CAUSAL_LM", recorder)
    net = engine.initialize(config, models.AnswerLM(model), 1e-3, 9)
    batch = [template.Encoded(row, [0] + [1] * 191) for row in tokens(4, 192)]

    def step():
        sft.learn(net, batch, tokenizer, config, recorder, CPU)

    step()  # Adam's states
    parts = memory.memory(config, "cpu")
    close(allocated(step, tmp_path), parts["activations"])


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("size", ["deep", "narrow keys"])
def test_a_reward_models_step_takes_what_was_predicted(alone, size, again, tmp_path, recorder):
    place = folder_of(size, tmp_path)
    config = RewardConfig(
        model=place, ranks=1, batch_size=4, max_seq_len=128, gradient_checkpointing=again
    )
    tokenizer = models.load_tokenizer(config.model)
    model = models.load_scorer(config.model, tokenizer)
    models.adapt(model, config, "SEQ_CLS", recorder)
    net = engine.initialize(config, models.TokenScorer(model), 1e-3, 9)
    pairs = list(zip(tokens(4, 128), tokens(4, 128)))  # with nothing in common

    def step():
        chosen, rejected = reward.score_pairs(net, pairs, tokenizer, CPU)
        engine.backward(net, (chosen - rejected).mean())
        net.step()

    step()
    close(allocated(step, tmp_path), memory.memory(config, "cpu")["activations"])


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_ppos_iteration_takes_what_was_predicted(alone, size, again, tmp_path, recorder):
    """Every part of an iteration by itself: the largest hides the others."""
    place = folder_of(size, tmp_path)
    config = PPOConfig(
        model=place,
        reward_model=place.with_name("scorer"),
        ranks=1,
        batch_size=8,
        minibatches=1,
        max_seq_len=160,
        max_answer_tokens=64,
        gradient_checkpointing=again,
    )
    nets = ppo.load_models(config, CPU, recorder)
    asked, answers, held = tokens(8, 96), tokens(8, 64), {}

    def iteration(count):
        held["rollout"] = count(lambda: ppo.generate(config, nets.actor, asked, nets.tokenizer))
        held["scoring"] = count(lambda: kept.append(experience()))
        ppo.add_advantages(config, kept[-1], config.kl_ctl)
        held["learning"] = count(lambda: ppo.update(config, nets, kept[-1], 0.1))

    def experience():
        return ppo.make_experience(config, nets, asked, answers)

    kept = []
    iteration(lambda work: work())
    iteration(lambda work: allocated(work, tmp_path))
    shapes = {role: memory.architecture(m) for role, m in memory.started_from(config).items()}
    moments = memory.ppo_moments(config, "cpu", shapes)
    found = {name: held[name] / moments[name] for name in ("rollout", "scoring")}
    found["learning"] = held["learning"] / max(moments["actor"], moments["critic"])
    assert found == pytest.approx(dict.fromkeys(found, 1.0), rel=TOLERANCE)
    assert memory.memory(config, "cpu")["activations"] == max(moments.values())
