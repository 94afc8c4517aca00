"""Nothing is unpickled that this user's runs did not write."""

import os
import stat

import pytest

from chatlib.runs import checkpoints, trust
from chatlib.runs.files import RunError, read_json, write_json


@pytest.fixture
def checkpoint(home):
    final = checkpoints.checkpoint_path(home / "sft-1", 4)
    part = final.with_suffix(".tmp")
    (part / "model").mkdir(parents=True)
    (part / "model" / "weights.pt").write_bytes(b"0123456789")
    checkpoints.commit_checkpoint(part, final, 1)
    return final


def test_our_own_is_taken(home, checkpoint):
    assert checkpoints.newest_checkpoint(home / "sft-1") == checkpoint
    [key] = home.glob(".key-*")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == 32


def alter(folder):
    (folder / "model" / "weights.pt").write_bytes(b"9876543210")  # of the same length


def add(folder):
    (folder / "rank0.pt").write_bytes(b"x")


def reseal(folder):
    """As somebody would who knows how seals are made, but not our key."""
    alter(folder)
    sealed, original = None, trust.key
    try:
        trust.key = lambda: b"guessed"
        sealed = trust.seal(folder, ["model/weights.pt"])
    finally:
        trust.key = original
    said = read_json(folder / "complete.json")
    write_json(folder / "complete.json", said | {"seal": sealed})


def link(folder):
    target = folder.parent / "elsewhere"
    (folder / "model" / "weights.pt").rename(target)
    (folder / "model" / "weights.pt").symlink_to(target)


def give_away(folder):
    if os.geteuid():
        pytest.skip("needs root: giving a file to another user")
    os.chown(folder / "model" / "weights.pt", 12345, 12345)


@pytest.mark.parametrize("change", [alter, add, reseal, link, give_away])
def test_what_others_may_have_written_is_skipped(home, checkpoint, change):
    change(checkpoint)
    with pytest.warns(UserWarning, match="step-00000004 was not written by your runs and is"):
        assert checkpoints.newest_checkpoint(home / "sft-1") is None


def test_a_key_that_others_can_read_is_none(home, checkpoint):
    [key] = home.glob(".key-*")
    key.chmod(0o644)
    with pytest.raises(RunError, match="can be read by them; remove it"):
        checkpoints.newest_checkpoint(home / "sft-1")
