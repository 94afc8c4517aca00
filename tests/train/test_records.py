"""Records are invented once and then read: the same ones, by every launch that asks for them."""

import os

import pytest

from chatlib.data import sources
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import PPOConfig, RewardConfig, SFTConfig
from chatlib.train import records

SMALL = dict(records=60, held_out=10)
STAGES = {
    "sft": SFTConfig(**SMALL),
    "reward": RewardConfig(model="x", **SMALL),
    "ppo": PPOConfig(model="x", reward_model="y", **SMALL),
}


@pytest.fixture
def recorder(tmp_path):
    (tmp_path / "run" / "log").mkdir(parents=True)
    return Recorder(tmp_path / "run", 0, 1)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_read_is_what_was_invented(stage, recorder, monkeypatch):
    config = STAGES[stage]
    wanted = sources.load(config)
    first = records.load_data(config, recorder)
    monkeypatch.setattr(sources, "load", None)  # a second invention would fail
    for found in (first, records.load_data(config, recorder)):
        assert found.report == wanted.report
        for part in ("train", "held_out"):
            for a, b in zip(getattr(found, part), getattr(wanted, part), strict=True):
                assert type(a) is type(b) and a.prompt == b.prompt
                assert a.meta["facts"] == b.meta["facts"]
                own = "answer" if stage != "reward" else "chosen"
                assert getattr(a, own) == getattr(b, own)


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"records": 61}, {"held_out": 9}, {"split": (1, 1, 1)}],
    ids=lambda c: next(iter(c)),
)
def test_another_question_gets_other_records(changes):
    assert records.key(SFTConfig(**SMALL)) != records.key(SFTConfig(**SMALL | changes))


def test_what_does_not_decide_the_records_shares_them():
    same = SFTConfig(**SMALL, steps=7, learning_rate=1e-4, ranks=1)
    assert records.key(same) == records.key(SFTConfig(**SMALL))
    assert len({records.key(config) for config in STAGES.values()}) == 3


def test_the_least_recently_used_make_room(recorder, monkeypatch):
    monkeypatch.setattr(records, "KEPT", 2)
    folder = recorder.directory.parent / records.FOLDER
    asked = [SFTConfig(**SMALL, seed=seed) for seed in range(3)]
    for i, config in enumerate(asked[:2]):
        records.load_data(config, recorder)
        os.utime(folder / f"{records.key(config)}.jsonl", (i + 1, i + 1))
    records.load_data(asked[0], recorder)  # used again, and so the newer of the two
    records.load_data(asked[2], recorder)
    left = {path.stem for path in folder.iterdir()}
    assert left == {records.key(asked[0]), records.key(asked[2])}


def test_files_are_read_by_every_rank(tmp_path, recorder):
    path = tmp_path / "own.json"
    path.write_text('[{"instruction": "Who are you?", "output": "A shop."}]' * 1)
    config = SFTConfig(sources=str(path), records=8, held_out=0, split=(1, 0, 0))
    assert len(records.load_data(config, recorder).train) == 1
    assert not (tmp_path / records.FOLDER).exists()
