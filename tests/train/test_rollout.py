"""What sampling costs, and that looking at answers changes neither them nor the run."""

import sys

import pytest
import tiny_stages as tiny
import torch
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

from chatlib.data import shop
from chatlib.runs.recorder import Recorder
from chatlib.train import engine, models, rollout


def test_the_host_waits_for_the_device_once_a_token(monkeypatch):
    """Whatever moves numbers to the host is counted where `rollout` asks for it."""
    model, waits = tiny.foreign_model("llama", 50).eval(), []
    names = ("tolist", "item", "__bool__", "__int__", "__float__", "cpu", "nonzero")
    for name in names:
        plain = getattr(torch.Tensor, name)

        def counted(x, *args, plain=plain, name=name):
            if sys._getframe(1).f_code.co_filename == rollout.__file__:
                waits.append(name)
            return plain(x, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    torch.manual_seed(0)
    answers = rollout.sample(model, [[3, 4, 5]] * 16, 20, stop=7, pad=0)
    assert len({len(a) for a in answers}) > 2  # rows leave the batch on the way
    assert waits == ["tolist"] * max(map(len, answers))


def net_of(policy, tmp_path, **settings):
    """(an engine around the policy, its tokenizer, configuration and recorder)"""
    config = tiny.sft(model=policy.model_dir, **settings)
    (tmp_path / "log").mkdir(parents=True)
    recorder = Recorder(tmp_path, 0, 1)
    tokenizer = models.load_tokenizer(config.model)
    model = models.load_policy(config.model, tokenizer)
    models.adapt(model, config, "CAUSAL_LM", recorder)
    net = engine.initialize(config, models.AnswerLM(model), 1e-3, 1)
    return net, tokenizer, config, recorder


@pytest.mark.parametrize("stage", [0, 3])
def test_a_rollout_gathers_the_weights_once(policy, tmp_path, monkeypatch, stage):
    """At stage 3 each layer was gathered for every token; after it they are partitioned again."""
    net, tokenizer, *_ = net_of(policy, tmp_path, zero_stage=stage)
    gathers, fetch = [], PartitionedParameterCoordinator.fetch_sub_module
    monkeypatch.setattr(
        PartitionedParameterCoordinator,
        "fetch_sub_module",
        lambda self, module, *a, **k: (gathers.append(module), fetch(self, module, *a, **k))[1],
    )
    opened, gathered = [], engine.deepspeed.zero.GatheredParameters.__enter__
    monkeypatch.setattr(
        engine.deepspeed.zero.GatheredParameters,
        "__enter__",
        lambda self: (opened.append(self), gathered(self))[1],
    )
    net.eval()
    with engine.whole(net):
        drawn = rollout.sample(net.module.model, [[3, 4, 5]], 12, stop=-1, pad=0)
    assert len(drawn[0]) == 12 and not gathers
    assert len(opened) == (stage == 3)
    ids = torch.arange(4, 12)[None]
    net(ids, torch.ones_like(ids))
    assert bool(gathers) == (stage == 3)  # training goes on layer by layer
    if stage == 3:
        assert all(w.numel() == 0 for w in net.parameters())
    assert tokenizer.pad_token_id is not None


@pytest.mark.parametrize("stage", [0, 3])
def test_printed_answers_do_not_depend_on_checkpointing_and_change_nothing(
    policy, tmp_path, capsys, stage
):
    """Without `eval()` transformers drops the cache, and what is printed is no answer."""
    records, printed = shop.demonstrations(6, seed=3), []
    for checkpointing in (False, True):
        net, tokenizer, config, recorder = net_of(
            policy,
            tmp_path / str(checkpointing),
            zero_stage=stage,
            gradient_checkpointing=checkpointing,
        )
        net.train()
        torch.manual_seed(3)
        before = torch.get_rng_state()
        capsys.readouterr()
        rollout.print_answers(net, tokenizer, records, config, recorder)
        printed.append(capsys.readouterr().out)
        assert torch.equal(torch.get_rng_state(), before)
        assert net.training and net.module.model.training
    assert printed[0] == printed[1] and printed[0].count("  -> ") == 3
