"""Names, places, files and checkpoints of runs."""

import json

import pytest
from launches import config

from chatlib.lab import RewardConfig, SFTConfig
from chatlib.runs import checkpoints, identity
from chatlib.runs.files import RunError, read_json, write_json
from chatlib.runs.recorder import (
    STATE_BYTES,
    Recorder,
    Tail,
    read_metrics,
    write_state,
)
from chatlib.runs.store import Run, run_of


def finished(home, name="sft-0", **facts):
    directory = home / name
    (directory / "model").mkdir(parents=True)
    write_json(directory / "manifest.json", {"status": "complete", **facts})
    return Run(directory)


def test_a_runs_name_depends_on_settings_and_contents_and_not_on_the_place(home):
    names = {}
    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (home / folder).mkdir()
        (home / folder / "talk.jsonl").write_text(text)
        names[folder] = identity.run_name(config(sources=[home / folder / "talk.jsonl"]))
    assert names["a"] == names["b"] != names["c"]
    assert identity.run_name(config()) != identity.run_name(config(seed=1))
    assert identity.run_name(config()) == identity.run_name(config())


def test_a_setting_that_is_not_set_does_not_rename_runs():
    """Only so can a new optional setting come without every run being trained again."""

    class Later(SFTConfig):
        lora_of_later: float | None = None

    assert identity.run_name(Later()) == identity.run_name(SFTConfig())
    assert identity.run_name(Later(lora_of_later=0.1)) != identity.run_name(SFTConfig())


def test_a_source_that_is_not_there(home):
    with pytest.raises(RunError, match=r"none\.json cannot be read \(No such file"):
        identity.run_name(config(sources="none.json"))


def test_a_run_stands_for_its_model(home):
    run = finished(home)
    assert RewardConfig(model=run).model == "run:sft-0"
    assert identity.resolve("run:sft-0") == identity.resolve(run.directory) == run.model_dir
    assert identity.resolve("hub:a/b@main") == ("a/b", "main")
    assert identity.resolve("hub:a/b") == ("a/b", None)


@pytest.mark.parametrize("reference", ["run:sft-9", "run:sft-running"])
def test_an_unfinished_run_has_no_model(home, reference):
    (home / "sft-running").mkdir()
    write_json(home / "sft-running" / "manifest.json", {"status": "running"})
    with pytest.raises(RunError, match=r"is no finished run in .*; launch it first"):
        identity.resolve(reference)


def test_a_folder_that_holds_no_model(home):
    with pytest.raises(RunError, match=r"holds no config\.json; give a model folder"):
        identity.resolve(home)


def test_a_recorder_logs_on_rank_0_only_and_rewinds(home):
    for rank in (1, 0):
        (home / "log").mkdir(exist_ok=True)
        recorder = Recorder(home, rank, 2)
        for step in (1, 2, 3):
            recorder.log(step, loss=1 / step)
    recorder.rewind(2)
    recorder.log(3, loss=0.5, gold=1)
    assert [row["loss"] for row in read_metrics(home / "metrics.jsonl")] == [1.0, 0.5, 0.5]
    assert list(Run(home).metrics.columns) == ["step", "loss", "gold"]
    assert Run(home).metrics.gold.isna().tolist() == [True, True, False]


def test_a_reader_of_metrics_waits_for_whole_lines_and_notices_a_rewrite(home):
    path = home / "metrics.jsonl"
    tail = Tail(path)
    assert not tail.read()
    path.write_text('{"step": 1}\n{"st')
    assert tail.read() and tail.rows == [{"step": 1}]
    assert not tail.read()
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert tail.read() and tail.rows[-1] == {"step": 2}
    path.write_text('{"step": 1}\n')
    assert tail.read() and tail.rows == [{"step": 1}]


def test_a_reader_of_metrics_starts_again_when_a_rewound_file_has_outgrown_the_old_one(home):
    (home / "log").mkdir()
    recorder = Recorder(home, 0, 1)
    for step in (1, 2, 3):
        recorder.log(step, loss=1.0)
    tail = Tail(home / "metrics.jsonl")
    assert tail.read()
    recorder.rewind(2)
    for step in (3, 4):
        recorder.log(step, loss=0.123456789)
    assert tail.read() and [row["step"] for row in tail.rows] == [1, 2, 3, 4]


def test_a_state_keeps_its_size_whatever_the_traceback(home):
    path = home / "state.json"
    for text in ("", 'with "quotes"\n' * 5000):
        write_state(path, {"rank": 0, "traceback": text})
        assert path.stat().st_size == STATE_BYTES
        assert text.endswith(read_json(path)["traceback"])


@pytest.fixture(autouse=True)
def here(home):
    """The key that seals checkpoints lies in the folder of runs."""


def write_checkpoint(directory, step, keep=2):
    final = checkpoints.checkpoint_path(directory, step)
    (final.with_suffix(".tmp") / "part").mkdir(parents=True)
    (final.with_suffix(".tmp") / "part" / "weights").write_bytes(b"0123456789")
    checkpoints.commit_checkpoint(final.with_suffix(".tmp"), final, keep)
    return final


def test_the_last_checkpoints_are_kept(tmp_path):
    paths = [write_checkpoint(tmp_path, step, keep=2) for step in (5, 100, 20)]
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == [
        "step-00000020",
        "step-00000100",
    ]
    assert checkpoints.newest_checkpoint(tmp_path) == paths[1]
    assert checkpoints.checkpoint_step(paths[1]) == 100


@pytest.mark.parametrize("tear", ["shorten", "remove", "unlisted"])
def test_a_torn_checkpoint_is_skipped_with_a_warning(tmp_path, tear):
    whole, torn = (write_checkpoint(tmp_path, step) for step in (1, 2))
    if tear == "shorten":
        (torn / "part" / "weights").write_bytes(b"01234")
    if tear == "remove":
        (torn / "part" / "weights").unlink()
    if tear == "unlisted":
        (torn / "complete.json").unlink()
    with pytest.warns(UserWarning, match="step-00000002 is torn and is skipped"):
        assert checkpoints.newest_checkpoint(tmp_path) == whole


def test_without_checkpoints_there_is_none(tmp_path):
    assert checkpoints.newest_checkpoint(tmp_path) is None


def test_a_complete_manifest_is_what_counts(home):
    run = run_of(config())
    assert run.status == "not started" and not run.complete
    run.directory.mkdir()
    (run.directory / "manifest.json").write_text(json.dumps({"status": "running"}))
    assert run.status == "stopped"
    (run.directory / "manifest.json").write_text('{"status": "comp')
    assert not run.complete
