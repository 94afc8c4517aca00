"""A run that two ranks began is continued by one, through DeepSpeed's universal checkpoint."""

from pathlib import Path

import faults
import pytest
import tiny_stages as tiny
import torch
import world_stage
from test_settings_do_what_they_say import remember_engines

from chatlib.lab import RankFailed, launch
from chatlib.runs import checkpoints
from chatlib.runs.store import Run
from chatlib.train import ppo

pytestmark = [pytest.mark.launch, pytest.mark.timeout(600)]
ALONE = world_stage.STEPS | dict(ranks=1)


@pytest.fixture(scope="module")
def inputs(policy, scorer):
    """The models that the cases start from."""
    return {"policy": str(policy.model_dir), "scorer": str(scorer.model_dir)}


@pytest.fixture(scope="module")
def two(inputs, tmp_path_factory):
    """The directory of the two-rank launch, one run in it for each case."""
    return tiny.launched("world_stage", tmp_path_factory.mktemp("two"), inputs)


@pytest.fixture
def continued(inputs, two, tmp_path):
    """A function that continues a case's half on this one rank: (the rest, [engines])."""

    def rest(name, **changes):
        config = world_stage.cases(inputs, **ALONE)[name].model_copy(update=changes)
        half = checkpoints.checkpoint_path(two / name, config.save_every)
        nets = remember_engines(lambda: tiny.train(config, tmp_path, half))
        assert not (tmp_path / "checkpoint" / "universal").exists()
        return Run(tmp_path), nets

    return rest


@pytest.mark.parametrize(
    "name",
    [
        *("sft0", "sft1", "sft2", "sft3", "lora1", "lora3"),
        *("bf16_0", "bf16_1", "bf16_3", "offload1", "offload3"),
    ],
)
def test_the_other_half_on_one_rank_is_that_of_two(name, two, continued):
    whole, close = Run(two / name), 1e-2 if name.startswith("bf16") else 1e-4
    rest, nets = continued(name)
    assert nets[0].loaded_checkpoint_dp_world_size == 2 == 2 * nets[0].dp_world_size
    for column in ("loss", "learning_rate", "tokens"):
        first, second = (tiny.losses(run, column) for run in (whole, rest))
        assert len(second) == 4 and second == pytest.approx(first[4:], abs=close), column
    assert tiny.furthest(*(tiny.weights(run.model_dir) for run in (whole, rest))) < close


def test_one_rank_continues_a_launch_of_two_that_lost_one(alone, tmp_path, monkeypatch):
    """Four steps on two ranks and four on one are the eight that nobody interrupted."""
    settings = tiny.sft(zero_stage=2, **world_stage.STEPS)
    for name, value in {"RUNS": tmp_path, "PROGRESS": "none"}.items():
        monkeypatch.setenv(f"CHATLIB_{name}", str(value))
    monkeypatch.setenv("PYTHONPATH", str(Path(faults.__file__).parent))
    monkeypatch.setenv("FAULT", "rank=1,step=5,kind=kill")
    with faults.faulty():
        with pytest.raises(RankFailed, match=r"rank 1 of 2, at step 5 .* was killed"):
            launch(settings)
        monkeypatch.delenv("FAULT")
        run = launch(settings, ranks=1, resume=True)
    whole = tiny.train(tiny.sft(zero_stage=2, **ALONE), tmp_path / "whole")
    assert run.manifest["world"] == 1 and run.manifest["continues"]["ranks"] == 2
    assert tiny.losses(run) == pytest.approx(tiny.losses(whole), abs=1e-4)
    assert len(tiny.losses(run)) == 8


def test_ppo_goes_on_with_its_average_and_its_beta(two, continued):
    whole, (rest, nets) = Run(two / "ppo"), continued("ppo")
    assert all(net.loaded_checkpoint_dp_world_size == 2 for net in nets)
    assert rest.metrics["beta"].iloc[-1] == pytest.approx(whole.metrics["beta"].iloc[1])
    assert (rest.directory / "model_ema").is_dir()
    assert rest.manifest["tokens"] > whole.metrics["tokens"][0]


def test_sampling_goes_on_with_new_numbers(two, continued, monkeypatch):
    """Neither those of the start again, nor those of the rank whose state is read."""
    states, original = [], ppo.generate

    def generate(*arguments):
        states.append(torch.get_rng_state())
        return original(*arguments)

    monkeypatch.setattr(ppo, "generate", generate)
    continued("ppo")
    saved = torch.load(checkpoints.checkpoint_path(two / "ppo", 1) / "rank0.pt", weights_only=True)
    start = torch.Generator().manual_seed(0).get_state()
    assert not any(torch.equal(states[0], other) for other in (saved["torch"], start))
