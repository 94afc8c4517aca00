"""What cannot be trained gets one sentence that names the place, the value and the remedy."""

import json

import pytest
import tiny_stages as tiny

from chatlib.data import shop, template
from chatlib.data.schema import Dialogue
from chatlib.runs.files import RunError
from chatlib.settings.stages import PPOConfig, SFTConfig, TinyModel
from chatlib.train import models, ppo, reward, sft

ALONE = type("Place", (), {"rank": 0, "world": 1})


@pytest.fixture(scope="module")
def tokenizer():
    dialogues = shop.demonstrations(30)
    return template.train_tokenizer((m["content"] for d in dialogues for m in d.messages), 400)


# ------------------------------------------------------------- longer than the context
def test_long_dialogues_are_cut_or_left_out_and_counted(tokenizer):
    short = [[{"role": "user", "content": "why?"}, {"role": "assistant", "content": "So."}]] * 3
    late = [{"role": "user", "content": "why? " * 300}, {"role": "assistant", "content": "So."}]
    cut = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "So. " * 300}]
    records = [Dialogue(m) for m in (*short, late, cut)]
    usable, report = sft.encode(tokenizer, records, 100, ALONE)
    assert len(usable) == 4 and max(len(e.ids) for e in usable) == 100
    assert report == [
        "2 of 5 dialogues were cut to 100 tokens",
        "1 of 5 dialogues left out: no answer within 100 tokens",
    ]


def test_long_pairs_are_cut_or_left_out_and_counted(tokenizer):
    records = shop.preferences(6)
    records[0].prompt[-1]["content"] = "why? " * 300
    pairs, kept, report = reward.encode(tokenizer, records, 200, ALONE)
    assert len(pairs) == 5 and kept == records[1:]
    assert report == [
        "1 of 6 pairs are longer than 200 tokens and were cut",
        "1 of 6 pairs left out: nothing to compare in 200 tokens",
    ]


def test_long_prompts_of_ppo_are_left_out_and_counted(tokenizer):
    records = shop.demonstrations(6)
    records[2].messages[1]["content"] = "why? " * 300
    prompts, kept, report = ppo.encode(tokenizer, records, 200)
    assert len(prompts) == len(kept) == 5 and records[2] not in kept
    assert report == ["1 of 6 prompts left out: longer than 200 tokens"]


def test_when_every_prompt_is_longer_than_the_context(policy, scorer, tmp_path):
    config = tiny.ppo(policy.model_dir, scorer.model_dir, max_answer_tokens=140)
    with pytest.raises(ValueError) as error:
        tiny.train(config, tmp_path)
    assert str(error.value) == (
        "0 examples do not fill one batch of 8; lower batch_size or give more data "
        "(104 of 104 prompts left out: longer than 20 tokens)"
    )


def test_answers_longer_than_the_context(policy, scorer, tmp_path):
    config = tiny.ppo(policy.model_dir, scorer.model_dir, max_answer_tokens=160)
    with pytest.raises(ValueError, match=r"max_answer_tokens 160 leaves no room for a prompt in"):
        tiny.train(config, tmp_path)


def test_answers_that_are_printed_stay_within_the_context(alone, tmp_path):
    """GPT-2 has no position after its last: a long prompt must not end the run."""
    folder = tiny.foreign_folder(tmp_path / "model", "gpt2")
    rows = [
        {"instruction": f"Number {i}? " + "why " * 30, "output": "So it is."} for i in range(40)
    ]
    (tmp_path / "long.json").write_text(json.dumps(rows))
    source = dict(sources=str(tmp_path / "long.json"), split=(1, 0, 0))
    config = tiny.sft(model=str(folder), steps=1, print_answers=1, max_seq_len=512, **source)
    tiny.train(config, tmp_path / "run")


# ---------------------------------------------------------------------- model folders
def test_a_model_folder_without_a_tokenizer(tmp_path):
    tiny.foreign_model("llama", 300).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a model without a tokenizer; save the model's to"):
        models.load_tokenizer(str(tmp_path))


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(
        RunError, match=r"holds no config.json; give a model folder, run:NAME, hub:"
    ):
        models.load_tokenizer(str(tmp_path))


def test_a_run_that_is_not_there():
    with pytest.raises(RunError, match="run:sft-00000000 is no finished run"):
        models.load_tokenizer("run:sft-00000000")


# ---------------------------------------------------------------------- configurations
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SFTConfig(steps=0), r"steps\n  Input should be greater than or equal to 1"),
        (lambda: SFTConfig(learning_rate=-1), r"learning_rate\n  Input should be greater than 0"),
        (lambda: SFTConfig(zero_stage=4), r"zero_stage\n  Input should be 0, 1, 2 or 3"),
        (lambda: SFTConfig(step=3), r"step\n  Extra inputs are not permitted"),
        (lambda: SFTConfig(batch_size=7), r"batch_size 7 cannot be divided among ranks 2 x"),
        (lambda: SFTConfig(sources=[]), r"sources\n  List should have at least 1 item"),
        (lambda: TinyModel(heads=3), r"hidden_size 128 over heads 3 is not an even number"),
        (lambda: ppo_config(learning_rate=1e-4), r"set actor_learning_rate and critic_learning"),
        (lambda: ppo_config(kl_in="loss"), r"the expected gradient of k1 is zero.*use k2"),
        (lambda: ppo_config(minibatches=3), r"64 answers an iteration cannot be divided among"),
        (lambda: ppo_config(temperature=0), r"temperature\n  Input should be greater than 0"),
    ],
)
def test_a_value_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def ppo_config(**changes):
    return PPOConfig(model="x", reward_model="y", **changes)


# --------------------------------------------------------------------------- the data
def test_too_few_records(alone, tmp_path):
    with pytest.raises(ValueError, match=r"13 examples do not fill one batch of 64; lower batch_"):
        tiny.train(tiny.sft(records=16, batch_size=64), tmp_path)


def test_preferences_are_needed_for_the_reward_model(policy, tmp_path):
    rows = [{"instruction": f"q{i}", "output": "a"} for i in range(40)]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    config = tiny.reward(policy.model_dir, sources=str(tmp_path / "alpaca.json"))
    with pytest.raises(ValueError, match=r"nothing is left to train reward on .*no pair"):
        tiny.train(config, tmp_path)
