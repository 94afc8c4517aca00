"""The calculator of chapter 9 against its parts, DeepSpeed's own estimator and published rates."""

import pytest

from chatlib.maths import budget, scaling
from chatlib.maths.budget import Phases
from chatlib.runs import code


def test_the_calculator_is_the_sum_of_its_phases():
    found = budget.estimate(
        1000, 100, 2, 0, answers=3, tokens=10, tflops=Phases(1e-9, 4e-9), price=5.0, passes=(4, 3)
    )
    generation, training = 3 * 10 * 2 * 1000, 3 * 10 * 2 * (4 * 1000 + 3 * 100)
    assert found.hours.generation == pytest.approx(generation / (2 * 1000 * 3600))
    assert found.hours.training == pytest.approx(training / (2 * 4000 * 3600))
    assert found.cost == pytest.approx(found.hours.sum * 10)
    assert found.bytes_per_gpu == 16 * 1100 + 2 * 1100


def test_adapters_save_the_products_of_frozen_weights():
    """Forward, backward for the inputs, and one pass again: 3, where all weights take 4."""
    all_, slim = (
        budget.ppo_flops(100, 10, 1, (scaling.training_passes(True, lora),) * 2)
        for lora in (False, True)
    )
    assert (all_.training, slim.training) == (880, 660)
    assert all_.generation == slim.generation == 200


def test_the_effective_rate_takes_as_long_as_both_phases():
    flops, rates = Phases(20e12, 80e12), Phases(20.0, 80.0)
    assert budget.effective(flops, rates) == pytest.approx(50)
    apart = budget.hours(flops, 1, rates).sum
    assert budget.hours(flops, 1, Phases(50, 50)).sum == pytest.approx(apart)


@pytest.mark.parametrize("ranks", (1, 4, 64))
def test_deepspeed_estimates_the_same_bytes_with_the_gradient_of_the_step(ranks):
    """Stage 2: 2 + 18 / N a weight, of which 4 / N live only while the optimizer steps."""
    zero = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    psi = 64_000
    _, theirs = zero.estimate_zero2_model_states_mem_needs(psi, ranks, 1, cpu_offload=False)
    assert theirs == 2 * psi + 18 * psi // ranks == budget.step_bytes(psi, ranks, 2, "bf16")
    kept = sum(scaling.state_bytes(psi, psi, ranks, 2, "bf16").values())
    assert theirs - kept == 4 * psi // ranks


@pytest.mark.parametrize("ranks", (1, 4, 64))
def test_deepspeed_leaves_the_same_bytes_on_a_device_that_offloads(ranks):
    """Weights alone at stage 2, nothing but the layer at work at stage 3."""
    two = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    three = pytest.importorskip("deepspeed.runtime.zero.stage3")
    psi = 64_000
    parts = {s: scaling.state_bytes(psi, psi, ranks, s, "bf16") for s in (2, 3)}
    here = {s: sum(scaling.offloaded(parts[s], s)[0].values()) for s in (2, 3)}
    _, theirs = two.estimate_zero2_model_states_mem_needs(psi, ranks, 1, cpu_offload=True)
    assert here[2] == theirs
    _, theirs, layer = three.estimate_zero3_model_states_mem_needs(psi, 100, ranks)
    assert here[3] == theirs - layer == 0


def test_the_estimate_of_stage_three_lies_between_what_is_kept_and_the_step():
    three = pytest.importorskip("deepspeed.runtime.zero.stage3")
    psi, ranks = 64_000, 4
    _, theirs, _ = three.estimate_zero3_model_states_mem_needs(psi, 0, ranks, 1, False, False)
    kept = sum(scaling.state_bytes(psi, psi, ranks, 3, "bf16").values())
    assert kept < theirs < budget.step_bytes(psi, ranks, 3, "bf16")


def test_from_so_many_tokens_on_sending_takes_no_longer_than_computing():
    tokens = budget.tokens_to_hide(150e12, 25e9)
    for weights in (10**9, 7 * 10**10):
        computing = tokens * scaling.flops_per_token(weights) / 150e12
        sending = scaling.communication_bytes(weights, 10**6, 3, "bf16") / 25e9
        assert computing == pytest.approx(sending, rel=1e-5)
    assert budget.tokens_to_hide(150e12, 25e9, training=4) == pytest.approx(tokens * 3 / 4)


def test_no_stage_is_trained_by_this_file():
    for stage in ("sft", "reward", "ppo", "probe"):
        assert "maths/budget.py" not in code.code_of(stage)
