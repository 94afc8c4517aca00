"""The arithmetic of chapter 9 against counting, step by step, what it claims to sum up."""

import itertools

import pytest

from chatlib.launch import memory
from chatlib.maths import scaling
from chatlib.settings.stages import Lora, ProbeConfig, TinyModel

PSI = 1200  # divisible by every world below, so that shards are exact


@pytest.mark.parametrize(
    "stage, dtype, expected",
    [  # Rajbhandari et al. 2020, figure 1: 16 bytes a weight, here for 4 ranks
        (0, "fp32", (4800, 4800, 9600)),
        (0, "bf16", (2400, 2400, 14400)),
        (1, "bf16", (2400, 2400, 3600)),
        (2, "bf16", (2400, 600, 3600)),
        (3, "bf16", (600, 600, 3600)),
        (3, "fp32", (1200, 1200, 3600)),
    ],
)
def test_zero_divides_what_it_partitions(stage, dtype, expected):
    assert tuple(scaling.state_bytes(PSI, PSI, 4, stage, dtype).values()) == expected


def test_a_stage_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="ZeRO stage 4"):
        scaling.state_bytes(PSI, PSI, 2, 4, "fp32")


def shards(numbers: int, ranks: int, partitioned: bool) -> list[list[int]]:
    """Who holds which of the numbers, one by one."""
    everyone = [list(range(numbers)) for _ in range(ranks)]
    return [n[r::ranks] for r, n in enumerate(everyone)] if partitioned else everyone


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("ranks", (1, 2, 4))
def test_what_all_ranks_hold_is_everything_and_no_more_than_asked(stage, ranks):
    """Deal the numbers out one at a time and count the first rank's bytes."""
    held = {
        "weights": 2 * len(shards(PSI, ranks, stage == 3)[0]),
        "gradients": 2 * len(shards(PSI, ranks, stage >= 2)[0]),
        "optimizer": 12 * len(shards(PSI, ranks, stage >= 1)[0]),
    }
    assert scaling.state_bytes(PSI, PSI, ranks, stage, "bf16") == held


def test_published_example_of_the_paper():
    """7.5 billion weights on 64 GPUs: 120, 31.4, 16.6 and 1.9 GB (figure 1)."""
    sizes = [
        sum(scaling.state_bytes(7_500_000_000, 7_500_000_000, 64, stage, "fp16").values()) / 1e9
        for stage in range(4)
    ]
    assert sizes == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


def test_lora_counts_the_numbers_of_both_factors():
    torch = pytest.importorskip("torch")
    shapes = [[64, 32], [16, 64]]
    factors = [(torch.zeros(o, 4), torch.zeros(4, i)) for o, i in shapes]
    counted = sum(f.numel() for pair in factors for f in pair)
    assert scaling.lora_weights(shapes, 4) == counted


@pytest.mark.parametrize(
    "stage, gone",
    [  # Ren et al. 2021, section 4: gradients leave as well, once each rank has its own share
        (0, set()),
        (1, {"optimizer"}),
        (2, {"optimizer", "gradients"}),
        (3, {"optimizer", "gradients", "weights"}),
    ],
)
def test_offloading_moves_and_loses_nothing(stage, gone):
    parts = scaling.state_bytes(PSI, PSI, 2, stage, "bf16")
    here, host = scaling.offloaded(parts, stage)
    assert set(host) == gone
    assert sum(here.values()) + sum(host.values()) == sum(parts.values())
    assert all(here[name] == 0 for name in gone)


def ring(operation: str, pieces: int) -> list[int]:
    """Pieces that each of `pieces` ranks sends when a ring carries the operation out, played."""
    ranks, sent = pieces, [0] * pieces
    if operation in ("reduce_scatter", "allreduce"):  # rank r ends up with the sum of piece r + 1
        sums = [[{r} for _ in range(pieces)] for r in range(ranks)]
        for step in range(ranks - 1):
            moves = [(r, (r - step) % ranks) for r in range(ranks)]
            passed = {(r, p): sums[r][p] for r, p in moves}
            for (r, p), part in passed.items():
                sums[(r + 1) % ranks][p] = sums[(r + 1) % ranks][p] | part
                sent[r] += 1
        assert all(len(sums[r][(r + 1) % ranks]) == ranks for r in range(ranks))
    if operation in ("allgather", "allreduce"):
        known = [{r} for r in range(ranks)]
        for step in range(ranks - 1):
            for r in range(ranks):
                known[(r + 1) % ranks].add((r - step) % ranks)
                sent[r] += 1
        assert all(len(k) == ranks for k in known)
    return sent


@pytest.mark.parametrize("operation", ("reduce_scatter", "allgather", "allreduce"))
@pytest.mark.parametrize("ranks", (1, 2, 4))
def test_a_ring_sends_what_the_formula_says(operation, ranks):
    piece = 100
    expected = scaling.collective_bytes(operation, piece * ranks, ranks)
    assert ring(operation, ranks) == [expected / piece] * ranks


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match="'alltoall'"):
        scaling.collective_bytes("alltoall", 8, 2)


def test_stage_three_sends_half_as_much_again():
    """Rajbhandari et al. 2020, section 7: 2 Psi, and 3 Psi for stage 3."""
    sent = [scaling.communication_bytes(PSI, 1000, stage, "fp16") / (2 * PSI) for stage in range(4)]
    assert sent == pytest.approx([2, 2, 2, 3], rel=2e-3)
    assert scaling.communication_bytes(PSI, 1, 3, "fp32") == 0


def test_operations_of_a_matrix_product_are_counted_one_by_one():
    rows, columns, tokens = 3, 5, 2
    count = sum(2 for _ in itertools.product(range(tokens), range(rows), range(columns)))
    assert tokens * scaling.flops_per_token(rows * columns, training=False) == count
    assert scaling.flops_per_token(7) == 42 and scaling.flops_per_token(7, recompute=True) == 56
    assert scaling.flops_per_token(7, recompute=True, lora=True) == 42


def test_ppo_holds_two_trained_and_two_frozen_models():
    models = scaling.ppo_bytes(1000, 100, 4, 3, "bf16")
    assert models["actor"] == scaling.state_bytes(1000, 1000, 4, 3, "bf16")
    assert models["reference"] == {"weights": 500, "gradients": 0, "optimizer": 0}
    assert scaling.total(models) == 4 * 1100 + 550
    slim = scaling.ppo_bytes(1000, 100, 1, 0, "bf16", trained=(10, 1))
    assert scaling.total(slim) == 2 * 2 * 1100 + 14 * 11


def test_offloaded_ppo_keeps_weights_alone_on_the_device():
    models = scaling.ppo_bytes(1000, 100, 1, 2, "bf16", offload=True)
    assert models["actor"] == {"weights": 2000, "gradients": 0, "optimizer": 0}


def test_an_offloaded_reference_is_not_on_the_device():
    here, away = (scaling.ppo_bytes(1000, 100, 8, 3, "bf16", offload_reference=x) for x in (0, 1))
    assert scaling.total(here) - scaling.total(away) == here["reference"]["weights"] == 250


def test_fewest_ranks_is_the_first_number_that_fits_powers_of_two_or_not():
    def needed(ranks):
        return sum(scaling.state_bytes(1000, 1000, ranks, 3, "bf16").values())

    assert scaling.fewest_ranks(needed, 3000) == 6
    assert needed(6) <= 3000 < needed(5)
    assert scaling.fewest_ranks(needed, 16_000) == 1
    assert scaling.fewest_ranks(needed, 15_999) == 2
    assert scaling.fewest_ranks(needed, 1, most=8) is None


def test_the_plan_of_a_launch_uses_this_arithmetic():
    tiny = TinyModel(hidden_size=32, layers=2, heads=2, vocab_size=300)
    weights = memory.trained(memory.tiny_shapes(tiny), None)
    config = ProbeConfig(model=tiny, cases={"a": {}}, ranks=4, zero_stage=3, lora=Lora())
    parts = memory.memory(config, "cpu")
    adapters = memory.trained(memory.tiny_shapes(tiny), Lora())
    expected = scaling.state_bytes(weights, adapters, 4, 3, "fp32")
    assert {name: parts[name] for name in expected} == expected


def test_cases_of_a_probe_are_checked_before_anything_starts():
    with pytest.raises(ValueError, match="zero_stage"):
        ProbeConfig(cases={"wrong": {"zero_stage": 7}})
    case = ProbeConfig(cases={"slim": {"lora": {"lora_dim": 2}}}, steps=3).case("slim")
    assert case.stage == "sft" and case.steps == 3 and case.lora.lora_dim == 2
