"""One rank equals two, and every ZeRO stage equals stage 0; one launch for all of it."""

import json

import parallel_stage
import pytest
import tiny_stages as tiny

from chatlib.runs.store import Run
from chatlib.settings.stages import Lora

pytestmark = [pytest.mark.launch, pytest.mark.timeout(600)]
TOLERANCE = 1e-5
ALONE = parallel_stage.STEPS | dict(ranks=1, learning_rate=parallel_stage.FAST)


@pytest.fixture(scope="module")
def two(policy, scorer, tmp_path_factory):
    """The directory of the two-rank launch, with its findings."""
    inputs = {"policy": str(policy.model_dir), "scorer": str(scorer.model_dir)}
    return tiny.launched("parallel_stage", tmp_path_factory.mktemp("two"), inputs)


@pytest.fixture(scope="module")
def found(two):
    """Each rank's findings."""
    return json.loads((two / "findings.json").read_text())


@pytest.fixture(scope="module")
def one(alone, tmp_path_factory):
    """The same SFT in this process alone, without ZeRO."""
    config = tiny.sft(**ALONE)
    return tiny.train(config, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("stage", "0123")
def test_two_ranks_at_each_zero_stage_are_one_rank_without(stage, one, two, found):
    assert found[0]["zero_stages"][stage]["losses"] == pytest.approx(
        tiny.losses(one), abs=TOLERANCE
    )
    weights = tiny.weights(two / f"sft{stage}" / "model")
    assert tiny.furthest(weights, tiny.weights(one.model_dir)) < TOLERANCE


def test_every_tensor_is_partitioned_at_stage_three_and_none_before(found):
    for rank in found:
        for stage in "012":
            assert all(own == whole for own, whole in rank["zero_stages"][stage]["tensors"])
        tensors = rank["zero_stages"]["3"]["tensors"]
        assert len(tensors) > 15
        assert all(own == -(-whole // 2) for own, whole in tensors)


def test_lora_at_stage_three_is_lora_alone(policy, found, two, tmp_path):
    config = tiny.sft(model=policy.model_dir, lora=Lora(), **ALONE)
    run = tiny.train(config, tmp_path)
    assert found[0]["zero_stages"]["lora"] == pytest.approx(tiny.losses(run), abs=TOLERANCE)
    merged = tiny.weights(two / "lora3" / "model")
    assert tiny.furthest(merged, tiny.weights(run.model_dir)) < TOLERANCE


@pytest.fixture(scope="module")
def reward_alone(policy, alone, tmp_path_factory):
    """The reward model on one rank without ZeRO."""
    config = tiny.reward(policy.model_dir, **ALONE)
    return tiny.train(config, tmp_path_factory.mktemp("reward"))


@pytest.mark.parametrize("stage", "0123")
def test_the_reward_model_does_not_depend_on_ranks_and_stage(stage, reward_alone, found, two):
    run = reward_alone
    losses, accuracy = found[0]["reward_stages"][stage]
    assert losses == pytest.approx(tiny.losses(run), abs=TOLERANCE)
    assert accuracy == run.manifest["held_out_accuracy"]
    weights = tiny.weights(two / f"reward{stage}" / "model")
    assert tiny.furthest(weights, tiny.weights(run.model_dir)) < TOLERANCE


@pytest.fixture(scope="module")
def update_alone(policy, scorer, alone, tmp_path_factory):
    """(statistics, weights) of a PPO update on one rank without ZeRO."""
    import torch

    inputs = {"policy": str(policy.model_dir), "scorer": str(scorer.model_dir)}
    place = tmp_path_factory.mktemp("update")
    figures = parallel_stage.update_of_given_answers(place, inputs, torch.device("cpu"), worlds=1)
    return figures[0], tiny.weights(place / "update0" / "model")


@pytest.mark.parametrize("stage", "0123")
def test_a_ppo_update_does_not_depend_on_ranks_and_stage(stage, update_alone, found, two):
    """Whitening over all ranks' tokens, losses over the global token count."""
    figures, ours = update_alone
    both = found[0]["update_of_given_answers"][stage]
    assert both == pytest.approx(figures, rel=1e-3, abs=1e-4)
    assert abs(both["kl"]) > 0.01  # the update moved the policy
    theirs = tiny.weights(two / f"update{stage}" / "model")
    assert tiny.furthest(ours, theirs) < TOLERANCE


@pytest.fixture(scope="module")
def alternatives_alone(policy, scorer, alone, tmp_path_factory):
    """(figures, folder) of chapter 10's algorithms on one rank without ZeRO."""
    import torch

    inputs = {"policy": str(policy.model_dir), "scorer": str(scorer.model_dir)}
    place = tmp_path_factory.mktemp("alternatives")
    return parallel_stage.alternatives(place, inputs, torch.device("cpu"), worlds=1), place


@pytest.mark.parametrize("name", [*parallel_stage.WITHOUT_CRITIC, "dpo"])
def test_every_algorithm_on_two_ranks_is_what_it_is_on_one(name, alternatives_alone, found, two):
    figures, place = alternatives_alone
    assert found[0]["alternatives"][name] == pytest.approx(figures[name], rel=1e-3, abs=1e-4)
    ours, theirs = (tiny.weights(folder / name / "model") for folder in (place, two))
    assert tiny.furthest(ours, theirs) < TOLERANCE


def test_two_and_two_ppo_iterations_on_two_ranks_are_four_bit_for_bit(two):
    whole, rest = (Run(two / name) for name in ("whole", "rest"))
    frames = [run.metrics.drop(columns=tiny.TIMES, errors="ignore") for run in (whole, rest)]
    assert frames[0].iloc[2:].reset_index(drop=True).equals(frames[1])
    assert tiny.furthest(*(tiny.weights(run.model_dir) for run in (whole, rest))) == 0


def test_ranks_draw_different_samples_from_one_shared_shuffle(found):
    parts = [rank["rollouts"] for rank in found]
    assert not set(parts[0]["prompts"]) & set(parts[1]["prompts"])
    assert len(parts[0]["prompts"]) == len(parts[1]["prompts"]) == 4
    draws = [tuple(a) for part in parts for a in part["answers"]]
    assert len(set(draws)) == len(draws) == 8


def test_generation_at_stage_three_survives_unequal_lengths(found):
    for rank in found:
        assert rank["unequal"]["stopped"] == rank["unequal"]["expected"]
    lengths = [len(rank["unequal"]["stopped"]) for rank in found]
    assert lengths[0] <= 3 and lengths[1] == 12
