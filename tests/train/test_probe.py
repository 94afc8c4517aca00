"""What chapter 9 measures: bytes against the arithmetic, messages against theory, in one launch."""

import time

import pytest
import torch

from chatlib.lab import TinyModel, launch
from chatlib.launch import memory
from chatlib.maths import scaling
from chatlib.settings.stages import Lora, ProbeConfig
from chatlib.train import probe

RANKS = 2
MODEL = TinyModel(hidden_size=64, intermediate_size=64, layers=16, vocab_size=300, context=160)
CASES = {f"ZeRO {stage}": {"zero_stage": stage} for stage in range(4)}
PSI = memory.trained(memory.tiny_shapes(MODEL), None)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Each case's findings by rank."""
    config = ProbeConfig(
        model=MODEL,
        cases={"LoRA": {"lora": Lora().model_dump()}} | CASES,  # stage 3 leaves something behind
        ranks=RANKS,
        steps=2,
        records=120,
        held_out=8,
        max_seq_len=160,
        batch_size=4,
        num_warmup_steps=0,
        adam_epsilon=1e-3,
        zero_bucket_size=10_000,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLIB_RUNS", str(tmp_path_factory.mktemp("probe")))
        patch.setenv("CHATLIB_PROGRESS", "none")
        patch.delenv("CHATLIB_MUTATIONS", raising=False)
        return launch(config, timeout=120).manifest["cases"]


@pytest.mark.launch
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", range(4))
def test_ranks_hold_what_was_predicted(found, stage):
    expected = scaling.state_bytes(PSI, PSI, RANKS, stage, "fp32")
    assert len(found[f"ZeRO {stage}"]) == RANKS
    for rank in found[f"ZeRO {stage}"]:
        held = {part: rank["held"][part] for part in expected}
        assert held == pytest.approx(expected, rel=0.10)


@pytest.mark.launch
def test_adapters_alone_have_gradients_and_moments(found):
    adapters = memory.trained(memory.tiny_shapes(MODEL), Lora())
    held = found["LoRA"][0]["held"]
    expected = scaling.state_bytes(PSI + adapters, adapters, RANKS, 0, "fp32")
    assert {part: held[part] for part in expected} == pytest.approx(expected, rel=0.02)


@pytest.mark.launch
@pytest.mark.parametrize("stage, passes", [(0, 2), (1, 3), (2, 3), (3, 3)])
def test_messages_of_a_step(found, stage, passes):
    """Stages 1 and 2 all-reduce whole gradients in DeepSpeed, one pass more than in the paper."""
    sent = found[f"ZeRO {stage}"][0]["sent"]
    counted = sum(scaling.collective_bytes(op, size, RANKS) for op, size in sent.items())
    unit = scaling.collective_bytes("allgather", 4 * PSI, RANKS)
    assert counted / unit == pytest.approx(passes, rel=0.03)


@pytest.mark.launch
def test_all_stages_have_one_loss_curve(found):
    curves = [found[name][0]["losses"] for name in CASES]
    assert all(curve == pytest.approx(curves[0], abs=1e-5) for curve in curves)
    assert curves[0][1] < curves[0][0]


def test_views_are_counted_once():
    x = torch.zeros(10, 10)
    assert probe.size(probe.storages([x, x[0], x.T])) == 400


def test_tensors_are_found_in_nested_containers():
    x = torch.zeros(1)
    assert len(list(probe.tensors({"a": [x, (x, {"b": x}), None, 3]}))) == 3


def test_resident_memory_is_seen_to_grow():
    with probe.Resident() as resident:
        block = torch.ones(16_000_000)
        until = time.monotonic() + 20  # on a busy machine the watcher's turn comes late
        while resident.grown <= 0.8 * block.nbytes and time.monotonic() < until:
            time.sleep(0.01)
    assert resident.grown > 0.8 * block.nbytes
