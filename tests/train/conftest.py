"""A process group of one rank, and the runs of a tiny pipeline, made once."""

import itertools
import socket

import pytest
import tiny_stages as tiny

from chatlib.runs.recorder import Recorder


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """This process becomes the only rank of a group: a stage runs here without a launch."""
    with socket.socket() as free, pytest.MonkeyPatch.context() as patch:
        free.bind(("127.0.0.1", 0))
        place = dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR="127.0.0.1")
        for name, value in {**place, "MASTER_PORT": free.getsockname()[1]}.items():
            patch.setenv(name, str(value))
        free.close()
        import torch.distributed as dist

        from chatlib.train import engine

        directory = tmp_path_factory.mktemp("alone")
        (directory / "log").mkdir()
        engine.start(tiny.sft(), Recorder(directory, 0, 1))
        yield
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def policy(alone, tmp_path_factory):
    """A finished SFT run; its model has learnt next to nothing."""
    return tiny.train(tiny.sft(steps=8), tmp_path_factory.mktemp("sft"))


@pytest.fixture(scope="session")
def scorer(policy, tmp_path_factory):
    """A finished reward-model run on top of it."""
    config = tiny.reward(policy.model_dir, steps=8, reference_samples=64)
    return tiny.train(config, tmp_path_factory.mktemp("reward"))


@pytest.fixture
def setting(policy, scorer, tmp_path):
    """Makes a `Setting`; changes of the configuration are not validated, so a rate may be 0."""
    from one_iteration import Setting

    made = itertools.count()

    def make(**changes):
        config = tiny.ppo(policy.model_dir, scorer.model_dir, minibatches=1)
        return Setting(config.model_copy(update=changes), tmp_path / f"setting{next(made)}")

    return make
