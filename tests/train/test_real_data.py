"""The three stages on real dialogues, English and Chinese, in real launches of two ranks."""

import re
import shutil

import pytest
import tiny_stages as tiny
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from chatlib.lab import launch
from chatlib.settings.stages import TinyModel

pytestmark = [pytest.mark.launch, pytest.mark.timeout(600)]
MODEL = TinyModel(hidden_size=64, layers=2, heads=2, vocab_size=3000, context=256)
REAL = dict(ranks=2, max_seq_len=256, held_out=32, batch_size=16, records=2000)
LIMIT = 300  # seconds without a sign of life


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder for runs of the real launches."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLIB_RUNS", str(folder))
        patch.setenv("CHATLIB_PROGRESS", "none")
        patch.delenv("CHATLIB_MUTATIONS", raising=False)
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def files(request):
    """The names of the data files; skipped where they are not beside the repository."""
    folder = request.config.rootpath.parent / "shared" / "data"
    names = {n: folder / f"{n}_demo.json" for n in ("alpaca_en", "alpaca_zh", "dpo_en", "dpo_zh")}
    if not all(path.is_file() for path in names.values()):
        pytest.skip("no ../shared/data beside the repository: real dialogues are not shipped")
    return {name: str(path) for name, path in names.items()}


@pytest.fixture(scope="module")
def sft(home, files):
    sources = [files["alpaca_en"], files["alpaca_zh"]]
    config = tiny.sft(**REAL | dict(model=MODEL, sources=sources, steps=40))
    return launch(config, timeout=LIMIT)


@pytest.fixture(scope="module")
def reward(sft, files):
    sources = [files["dpo_en"], files["dpo_zh"]]
    changes = dict(sources=sources, steps=24, learning_rate=3e-3)
    return launch(tiny.reward(sft, **REAL | changes), timeout=LIMIT)


@pytest.fixture(scope="module")
def ppo(sft, reward, files):
    sources = [files["dpo_en"], files["dpo_zh"]]
    changes = dict(sources=sources, steps=24, max_answer_tokens=16)
    return launch(tiny.ppo(sft, reward, **REAL | changes), timeout=LIMIT)


def mean(values):
    return sum(values) / len(values)


def test_sft_learns_and_reports_what_was_read(sft):
    losses = tiny.losses(sft)
    assert mean(losses[-8:]) < mean(losses[:8]) - 0.3
    assert sft.manifest["held_out_loss"] < losses[0]
    assert sft.manifest["world"] == 2
    english, chinese = sft.manifest["data_report"][:2]
    assert "999" in english and "1000" in chinese and "in sft's share" in chinese


def test_the_tokenizer_was_trained_on_both_languages(sft):
    tokenizer = AutoTokenizer.from_pretrained(sft.model_dir)
    for text in ("Describe the process of making tea.", "这是一个基础理论。"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text and len(ids) < len(text.encode()) / 2


def test_the_reward_model_learns_from_real_pairs(reward):
    losses = tiny.losses(reward)
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # a head of zeros knows nothing
    assert mean(losses[-8:]) < 0.68
    assert reward.manifest["score_std"] > 0
    assert "bayes_accuracy" not in reward.manifest  # no judge is known here


def test_what_did_not_fit_is_reported(reward, ppo):
    """What was used of the sources is what was held out, left out, or trained on."""
    for run, what in ((reward, "pairs"), (ppo, "prompts")):
        report = run.manifest["data_report"]
        assert all("dpo_" in line for line in report[:2])
        ends = [re.search(r"(\d+)( of \d+ used)?$", line)[1] for line in report[:2]]
        out = [re.match(rf"(\d+) of \d+ {what} left out", line) for line in report[2:]]
        lost = sum(int(found[1]) for found in out if found)
        held_out = run.config["held_out"]
        assert sum(map(int, ends)) == held_out + lost + run.manifest["examples"]
    assert lost > 0


def test_ppo_runs_on_real_prompts_and_its_critic_learns(ppo):
    """A policy this small says noise, so there is no score to win; values can be learned."""
    metrics = ppo.metrics
    assert len(metrics) == 24 and abs(metrics["kl"][0]) < 1e-5
    assert metrics["first_log_ratio"].max() < 1e-5
    assert (metrics["answer_tokens"] <= 16).all()
    first, last = metrics[:8].mean(), metrics[-8:].mean()
    assert last["value_error"] < 0.85 * first["value_error"]
    assert last["explained_variance"] > first["explained_variance"] + 0.1
    assert "gold" not in metrics


@pytest.mark.parametrize("name", ["sft", "reward", "ppo"])
def test_every_run_directory_loads_with_plain_transformers(name, request):
    run = request.getfixturevalue(name)
    loader = AutoModelForSequenceClassification if name == "reward" else AutoModelForCausalLM
    model = loader.from_pretrained(run.model_dir)
    tokenizer = AutoTokenizer.from_pretrained(run.model_dir)
    question = [{"role": "user", "content": "你好！ How are you?"}]
    ids = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    assert torch.isfinite(model(ids).logits).all()
    assert run.manifest["status"] == "complete" and run.manifest["data_report"]
