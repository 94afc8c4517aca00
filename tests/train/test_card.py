"""What a card may do otherwise than a CPU; `make gpu` runs these there, `make test` here.

Marked `gpu`: on a CPU they hold for its own generator, its own bf16 and its own AdamW.
"""

from pathlib import Path

import faults
import pytest
import tiny_stages as tiny
import torch

from chatlib.lab import RankFailed, launch
from chatlib.launch import memory
from chatlib.runs import checkpoints
from chatlib.runs.recorder import Recorder
from chatlib.train import engine, models, ppo

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CARD = pytest.mark.skipif(DEVICE.type == "cpu", reason="its bytes are those of a card's allocator")


@pytest.fixture
def recorder(tmp_path):
    (tmp_path / "log").mkdir()
    return Recorder(tmp_path, 0, 1)


def four(policy, scorer, recorder, **changes):
    """A configuration of PPO and its four models on this device."""
    config = tiny.ppo(policy.model_dir, scorer.model_dir, **changes)
    return config, ppo.load_models(config, DEVICE, recorder)


def test_the_first_ratio_is_one_within_what_bf16_can_tell(policy, scorer, recorder):
    """A logit below 8 is rounded by at most 1/64, and a log-probability by about twice that."""
    config, nets = four(policy, scorer, recorder, dtype="bf16")
    asked = torch.randint(10, 300, (8, 20)).tolist()
    answers = torch.randint(10, 300, (8, 12)).tolist()
    r = ppo.make_experience(config, nets, asked, answers)
    ppo.add_advantages(config, r, config.kl_ctl)
    again = r.take([7, 2, 5])  # another batch, other kernels
    logp, _ = ppo.log_probs(nets.actor, again, nets.pad, config.temperature)
    assert logp.dtype == r.old_logp.dtype == torch.float32
    assert (logp - again.old_logp).abs().max() < 1 / 32


def test_what_is_drawn_after_a_resume_is_what_would_have_been(policy, scorer, tmp_path, recorder):
    config, nets = four(policy, scorer, recorder)
    engines = {"actor": nets.actor, "critic": nets.critic}
    torch.rand(3, device=DEVICE)
    engine.save_checkpoint(engines, config, recorder, 1, {})
    wanted = torch.rand(5, device=DEVICE)
    torch.manual_seed(1)
    folder = checkpoints.newest_checkpoint(tmp_path)
    engine.restore(engines, Recorder(tmp_path, 0, 1, folder))
    assert torch.equal(torch.rand(5, device=DEVICE), wanted)


@pytest.mark.launch
def test_fused_adamw_continues_what_two_ranks_began(alone, tmp_path, monkeypatch):
    """Two ranks on the CPU begin, this device goes on: Adam's `step` arrives where it belongs."""
    settings = tiny.sft(zero_stage=2, ranks=2, steps=4, save_every=2, dtype="fp32")
    with monkeypatch.context() as patch:
        for name, value in {"RUNS": tmp_path, "PROGRESS": "none"}.items():
            patch.setenv(f"CHATLIB_{name}", str(value))
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("PYTHONPATH", str(Path(faults.__file__).parent))
        patch.setenv("FAULT", "rank=1,step=3,kind=kill")
        with faults.faulty(), pytest.raises(RankFailed):
            launch(settings)
    half = next(tmp_path.glob("sft-*/checkpoint/step*"))
    config = tiny.sft(zero_stage=2, ranks=1, steps=4, dtype="fp32")
    rest = tiny.losses(tiny.train(config, tmp_path / "rest", half))
    whole = tiny.losses(tiny.train(config, tmp_path / "whole"))
    assert rest == pytest.approx(whole[2:], abs=1e-3)


@CARD
def test_a_step_takes_the_cards_memory_that_was_predicted(policy, recorder, alone):
    """Without a card: `test_memory.py`, in which every byte of a CPU is counted."""
    config = tiny.sft(model=policy.model_dir, batch_size=64, steps=2)
    tokenizer = models.load_tokenizer(config.model)
    model = models.load_policy(config.model, tokenizer)
    net = engine.initialize(config, models.AnswerLM(model), 1e-3, 2)
    ids = torch.randint(10, 300, (64, config.max_seq_len), device=DEVICE)
    mask = torch.ones_like(ids)
    mask[:, 0] = 0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine.backward(net, -net(ids, mask)[0].mean())
    grown = torch.cuda.max_memory_allocated() - before
    assert grown == pytest.approx(memory.memory(config, "cuda")["activations"], rel=0.15)
