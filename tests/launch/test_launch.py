"""What a launch leaves, when it does not start, and what it says then. Faults: test_faults.py."""

import fcntl
import json
import shutil
import subprocess
import sys

import pytest
from launches import config, processes_of, small_disk, turn_read_only

from chatlib.lab import LaunchError, launch
from chatlib.launch import failures
from chatlib.launch import launcher as launching
from chatlib.launch.failures import failure
from chatlib.runs import checkpoints, code, identity
from chatlib.runs.files import read_json, write_json
from chatlib.runs.mutations import mutated
from chatlib.runs.recorder import state_path, write_state
from chatlib.runs.store import Run, run_of


@pytest.mark.launch
@pytest.mark.timeout(240)
def test_a_launch_keeps_the_run_contract_and_is_found_again(home):
    run = launch(config(steps=3), ranks=1)
    found = {path.name for path in run.directory.iterdir()}
    assert found >= {"config.json", "deepspeed.json", "metrics.jsonl", "log", "model", "lock"}
    assert run.config == config(steps=3, ranks=1).model_dump(mode="json")
    facts = run.manifest
    assert facts["status"] == "complete" and facts["world"] == 1 and facts["tokens"] == 30
    assert facts["code"] == code.code_of("sft") and "train/sft.py" in facts["code"]
    assert facts["seed"] == 0 and facts["device"] and set(facts["data"]) == {"shop"}
    assert {"torch", "deepspeed", "python"} <= set(facts["versions"])
    assert facts["seconds"] > 0.5 and len(facts["peak_bytes"]) == 1
    assert list(run.metrics.step) == [1, 2, 3]
    written = (run.directory / "manifest.json").stat().st_mtime_ns
    assert launch(config(steps=3), ranks=1) == run
    assert (run.directory / "manifest.json").stat().st_mtime_ns == written
    assert not processes_of(home)


def unfinished(settings, checkpoint=None, **facts):
    directory = run_of(settings).directory
    directory.mkdir(parents=True)
    write_json(directory / "config.json", settings.model_dump(mode="json"))
    known = launching.known_at_start(settings, identity.fingerprints(settings), 0.0)
    write_json(directory / "manifest.json", known | facts)
    if checkpoint:
        temporary = checkpoints.checkpoint_path(directory, checkpoint).with_suffix(".tmp")
        temporary.mkdir(parents=True)
        (temporary / "state").write_text("x")
        checkpoints.commit_checkpoint(
            temporary, checkpoints.checkpoint_path(directory, checkpoint), 1
        )
    return directory


def refused(match, **options):
    with pytest.raises(LaunchError, match=match) as caught:
        launch(config(), **options)
    return str(caught.value)


def test_a_folder_that_cannot_be_written(home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("CHATLIB_RUNS", str(home / "file" / "runs"))
    refused(r"cannot be written \(Not a directory\); set CHATLIB_RUNS")


def test_a_disk_that_turned_read_only_is_told_when_ranks_cannot(home, tmp_path_factory):
    """They cannot write into their states why they ended."""
    place = tmp_path_factory.mktemp("place")
    with small_disk(home, 400):
        run = Run(unfinished(config()))
        assert launching.unwritable(run) is None
        turn_read_only(home, place)
        try:
            told = str(launching.unwritable(run))
        finally:
            for view in (home, place):
                subprocess.run(["umount", "-l", str(view)], check=True)
    assert "cannot be written (Read-only file system); set CHATLIB_RUNS" in told


def test_a_directory_that_holds_something_else(home):
    directory = run_of(config()).directory
    directory.mkdir()
    (directory / "thesis.tex").write_text("precious")
    refused(r"holds something else \(thesis.tex\) and is left alone; move it")
    assert (directory / "thesis.tex").read_text() == "precious"
    assert [path.name for path in directory.iterdir()] == ["thesis.tex"]


def test_a_directory_in_use(home):
    directory = unfinished(config())
    with open(directory / "lock", "w") as lock:
        lock.write("4711 node7 1.0")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(r"in use by a live run \(process 4711 on node7\); wait for it or stop it")
        assert run_of(config()).status == "running"


def test_a_checkpoint_is_not_overwritten_by_starting_over(home):
    directory = unfinished(config(), checkpoint=40)
    refused("unfinished run with a checkpoint of step 40; continue with resume=True or remove")
    assert checkpoints.newest_checkpoint(directory)


def test_a_config_that_was_edited_in_the_run_directory(home):
    directory = unfinished(config(), checkpoint=40)
    edited = {**config().model_dump(mode="json"), "learning_rate": 1.0}
    (directory / "config.json").write_text(json.dumps(edited))
    refused(r"config.json was changed after .* \(learning_rate\)", resume=True)


def test_a_changed_config_under_resume(home, monkeypatch):
    """An unfinished stranger is named, and keeps nobody from starting."""
    other, said = config(learning_rate=0.5, seed=3), []
    unfinished(other, checkpoint=40)
    monkeypatch.setattr(launching, "_train", lambda job: None)
    launch(config(), resume=True, say=said.append)
    names = run_of(config()).name, run_of(other).name
    assert said == [
        "nothing to resume, {} starts from the beginning: {} differs in seed, learning_rate".format(
            *names
        )
    ]
    assert checkpoints.newest_checkpoint(run_of(config()).directory) is None


@pytest.fixture
def edited():
    """Launches with other code: `edited("x")` is in force in the context."""
    return lambda value: mutated("chatlib.maths.policy.gae", f"def gae(*_): return {value!r}")


def test_other_code_is_another_run_and_the_terminal_names_what_changed(home, monkeypatch, edited):
    monkeypatch.setattr(launching, "_train", lambda job: None)
    unfinished(config(), checkpoint=40)
    before, said = run_of(config()), []
    with edited("x"):
        assert run_of(config()).name != before.name
        launch(config(), say=said.append)
        launch(config(), resume=True, say=said.append)
    what = "mutation of chatlib.maths.policy.gae"
    assert said[0].endswith(f" is trained anew: {what} changed since {before.name}")
    assert said[1].startswith("nothing to resume") and said[1].endswith(f"differs in {what}")


def test_force_resumes_what_other_code_began(home, monkeypatch, edited):
    monkeypatch.setattr(launching, "_train", lambda job: None)
    directory = unfinished(config(), checkpoint=40)
    (directory / "metrics.jsonl").write_text("")
    with edited("x"):
        run = launch(config(), resume=True, force=True)
    assert checkpoints.newest_checkpoint(run.directory).name == "step-00000040"
    assert run.manifest["continues"]["run"] == directory.name != run.name


def test_a_linked_checkpoint_folder_is_emptied_and_stays(home, tmp_path_factory, monkeypatch):
    larger = tmp_path_factory.mktemp("larger")
    monkeypatch.setattr(launching, "_train", lambda job: None)
    directory = unfinished(config(), checkpoint=40)
    shutil.move(directory / "checkpoint" / "step-00000040", larger)
    (directory / "checkpoint").rmdir()
    (directory / "checkpoint").symlink_to(larger)
    assert checkpoints.newest_checkpoint(directory).name == "step-00000040"
    launch(config(), fresh=True)
    assert (directory / "checkpoint").is_symlink() and list(larger.iterdir()) == []


def finished(settings):
    directory = unfinished(settings, status="complete", models=["model"])
    (directory / "model").mkdir()
    return directory


def test_a_finished_run_is_found_and_trained_anew_when_wished_or_without_its_model(
    home, monkeypatch
):
    trained, said = [], []
    monkeypatch.setattr(launching, "_train", lambda job: trained.append(job.run.name))
    directory = finished(config())
    launch(config(), say=said.append)
    assert not trained and not said
    launch(config(), fresh=True)
    assert trained == [directory.name] and [p.name for p in directory.iterdir()] == ["lock"]
    shutil.rmtree(directory)
    (finished(config()) / "model").rmdir()
    launch(config(), say=said.append)
    assert len(trained) == 2 and said == [
        f"{directory.name} has lost its model and is trained anew"
    ]


def test_a_finished_run_whose_config_was_edited_is_not_returned(home):
    directory = finished(config())
    edited = {**config().model_dump(mode="json"), "learning_rate": 1.0}
    (directory / "config.json").write_text(json.dumps(edited))
    refused(r"config.json was changed after .* \(learning_rate\)")


@pytest.fixture
def by_one_rank(home):
    """The same stage, begun by two ranks (40 steps) and carried further by one (60 steps)."""
    settings = config(ranks=1)
    for begun, step in ((config(), 40), (settings, 60)):
        directory = unfinished(begun, checkpoint=step)
        (directory / "metrics.jsonl").write_text(json.dumps({"step": step}) + "\n")
    return run_of(settings)


def test_a_dry_run_names_the_checkpoint_of_the_run_that_got_furthest(by_one_rank, capsys):
    def printed(**options):
        launch(config(), dry_run=True, **options)
        return capsys.readouterr().out

    own = f"{run_of(config()).name}/checkpoint/step-000000"
    assert f"{own}60\n" in printed(resume=True)
    assert f"{by_one_rank.name}/checkpoint/step-00000060\n" in printed(resume=True, ranks=1)
    assert "--checkpoint" not in printed()
    with open(by_one_rank.directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it goes on by itself
        assert f"{own}40\n" in printed(resume=True)


def test_resume_takes_over_from_the_run_that_got_furthest(by_one_rank, monkeypatch):
    monkeypatch.setattr(launching, "_train", lambda job: None)
    run = launch(config(), resume=True)
    assert [path.name for path in (run.directory / "checkpoint").iterdir()] == ["step-00000060"]
    assert run.manifest["continues"] == {"run": by_one_rank.name, "ranks": 1, "step": 60}
    assert list(run.metrics.step) == [60]


def test_an_edited_config_is_not_overwritten_by_taking_over(by_one_rank):
    directory = run_of(config()).directory
    edited = {**config().model_dump(mode="json"), "learning_rate": 1.0}
    (directory / "config.json").write_text(json.dumps(edited))
    refused(r"config.json was changed after .* \(learning_rate\)", resume=True)
    assert read_json(directory / "config.json") == edited


def test_a_dry_run_of_resuming_finds_nothing_to_continue(home, capsys):
    launch(config(), resume=True, dry_run=True)
    assert "--checkpoint" not in capsys.readouterr().out and list(home.iterdir()) == []


def state(rank, **facts):
    return {"rank": rank, "status": "failed", "step": 2, "time": 10.0 + rank, **facts}


@pytest.mark.parametrize(
    "states, culprit",
    [
        ([state(0, error="ValueError: x"), state(1, error="RuntimeError: closed by peer")], 0),
        # a rank that lost its peer can be faster to say so than the peer's end is seen
        (
            [
                state(0, error="RuntimeError: Connection reset by peer"),
                state(1, status="ended", signal=9),
            ],
            1,
        ),
        ([state(0, status="ended", signal=15), state(1, error="KeyError: 'loss'")], 1),
        ([state(0, error="OSError: a"), state(1, error="OSError: b")], 0),
    ],
)
def test_the_rank_that_began_it_is_named(home, states, culprit):
    (home / "log").mkdir()
    for one in states:
        one.setdefault("error", "")
        write_state(state_path(home, one["rank"]), one)
    assert failure(Run(home), 2, 1).rank == culprit


def test_clocks_of_different_machines_are_not_compared(home):
    (home / "log").mkdir()
    late = state(0, error="OSError: a", time=9e9)  # its clock is wrong, not its end
    for one in (late, state(1, error="OSError: b"), state(2, error="x: closed by peer", time=1.0)):
        write_state(state_path(home, one["rank"]), one)
    error = failure(Run(home), 3, 1, hosts=["node1", "node2", "node2"])
    assert (error.rank, error.host) == (0, "node1") and "rank 0 of 3 on node1, at step 2" in str(
        error
    )
    nccl = "DistBackendError: ncclRemoteError: remote process exited or there was a network error"
    write_state(state_path(home, 0), state(0, error=nccl))
    assert failure(Run(home), 3, 1, hosts=["node1", "node2", "node2"]).rank == 1


def test_all_that_failed_are_in_one_table_grouped_by_their_end(home):
    lost = [state(r, error="RuntimeError: closed by peer", code=1) for r in (0, 1, 2, 5)]
    began = [
        state(3, status="ended", signal=9, peak_bytes=2**20),
        state(4, error="KeyError: 'x'"),
    ]
    hosts = ["node1"] * 3 + ["node2"] * 3
    lines = [line.split() for line in failures.table([*lost, *began], hosts).splitlines()]
    assert lines == [
        ["ranks", "hosts", "exit", "how", "they", "ended"],
        ["3", "node2", "SIGKILL", *failures.describe_end(began[0]).split()],
        ["4", "node2", "?", "raised", "KeyError:", "'x'"],
        ["0-2,5", "node1,node2", "1", "raised", "RuntimeError:", "closed", "by", "peer"],
    ]


@pytest.mark.parametrize(
    "code, words",
    [
        (3, "exit code 3"),
        (-9, "SIGKILL, probably out of memory"),
        (-7, "SIGBUS, probably shared memory full"),
        (-11, "SIGSEGV"),
    ],
)
def test_exit_codes_in_words(code, words):
    assert failures.describe_code(code) == words


def save_tensor(folder):
    import torch

    torch.save({"a": torch.zeros(100_000)}, folder / "a.pt")


def save_weights(folder):
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(100_000)}, folder / "a.safetensors")


def save_tokenizer(folder):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"word {i}": i for i in range(20_000)})).save(str(folder / "t"))


def save_text(folder):
    (folder / "text").write_text("x" * 400_000)


@pytest.mark.parametrize("free", [0, 20])
@pytest.mark.parametrize("save", [save_tensor, save_weights, save_tokenizer, save_text])
def test_whatever_fails_to_write_on_a_full_disk_is_told_so(tmp_path, save, free):
    with small_disk(tmp_path, 40):
        (tmp_path / "filler").write_bytes(bytes(1024 * (40 - free)))
        with pytest.raises(Exception) as caught:
            save(tmp_path)
    state = {"status": "failed", "error": f"{caught.typename}: {caught.value}"}
    assert "; the disk is full: free some space or set" in failures.describe_end(state)


def test_another_error_is_not_the_disks():
    state = {"status": "failed", "error": "RuntimeError: mat1 and mat2 shapes differ"}
    assert failures.describe_end(state) == "raised RuntimeError: mat1 and mat2 shapes differ"


def test_a_rank_that_is_done_may_be_silent_while_another_works():
    done, busy = {"status": "done"}, {"status": "running"}
    assert launching.silences([done, busy], [9.0, 1.0]) == [0.0, 1.0]
    # The first to be done has waited for the last: only since then could they have left.
    assert launching.silences([done, done], [9.0, 1.0]) == [1.0, 1.0]


def test_a_download_is_not_stuck_but_slow():
    loading, training = {"where": "read the data"}, {"where": "train"}
    far, near = config(sources="hub:a/b"), config()
    assert launching.patience([loading, training], 5.0, far) == launching.DOWNLOAD_TIMEOUT
    assert launching.patience([training, training], 5.0, far) == 5.0
    assert launching.patience([loading, training], 5.0, near) == 5.0
    waiting = [{"where": "not started"}, training]
    assert launching.patience(waiting, 5.0, near) == launching.START_TIMEOUT


def test_notebooks_import_the_lab_without_torch():
    code = "import sys, chatlib.lab; print([m for m in sys.modules if m in {'torch', 'deepspeed', 'transformers', 'pandas'}])"  # noqa: E501
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr
