"""One rank without a launcher: how it ends is written down, and its exit code tells."""

import os
import signal
import subprocess
import sys
import time

import faults
import pytest
from launches import config

from chatlib.launch import failures
from chatlib.runs import meeting
from chatlib.runs.files import read_json, write_json
from chatlib.runs.mutations import mutated
from chatlib.runs.recorder import Recorder, read_metrics, state_path, write_state
from chatlib.runs.store import Run
from chatlib.train import worker


def start(home, **environment):
    (home / "log").mkdir()
    write_json(home / "config.json", config(ranks=1).model_dump(mode="json"))
    command = [sys.executable, "-m", "chatlib.train.worker", "--run", str(home)]
    return subprocess.Popen(command, env=os.environ | environment, start_new_session=True)


def work(home, fault=""):
    code = start(home, FAULT=fault).wait(timeout=60)
    return code, read_json(state_path(home, 0))


def test_a_rank_that_finishes_completes_the_manifest(home):
    code, state = work(home)
    assert (code, state["status"], state["code"]) == (0, "done", 0)
    assert Run(home).complete
    assert 5e6 < Run(home).manifest["peak_bytes"][0] < 5e8


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("raise", {"status": "failed", "code": 1, "signal": None}),
        ("kill", {"status": "ended", "code": None, "signal": 9}),
        ("exit0", {"status": "ended", "code": 0, "signal": None}),
    ],
)
def test_a_rank_that_fails_says_so_and_its_exit_code_is_never_0(home, kind, expected):
    code, state = work(home, f"rank=0,step=2,kind={kind}")
    assert code != 0 and state["step"] == 2
    assert {name: state[name] for name in expected} == expected
    assert not Run(home).complete


def test_a_rank_whose_stage_cannot_be_imported(home):
    with faults.stage("no_such_stage"):
        code, state = work(home)
    assert code and "ModuleNotFoundError: No module named 'no_such_stage'" in state["error"]


def test_a_mutation_of_nothing_is_told_by_the_log(home):
    with mutated("chatlib.maths.policy.no_such_thing", "def f(): pass"):
        code, state = work(home)
    assert code and state["status"] == "ended"
    assert "no_such_thing does not exist and cannot" in (home / "log" / "rank0.txt").read_text()


def test_a_rank_that_was_started_over_ssh_dumps_its_stacks_when_dismissed(home):
    meeting.announce(home, 29500, None)
    rank = start(home, CHATLIB_ATTACHED="announcement", LIGHT_SECONDS="60")
    while not read_metrics(home / "metrics.jsonl"):
        assert rank.poll() is None
        time.sleep(0.05)
    meeting.dismiss(home)
    assert rank.wait(timeout=60) == -signal.SIGKILL
    assert "light_stage.py" in (home / "log" / "rank0.stack.txt").read_text()


def test_a_rank_that_waits_for_one_that_failed_says_that_it_is_not_the_cause(home):
    (home / "log").mkdir()
    recorder = Recorder(home, 0, 2)
    write_state(state_path(home, 1), {"rank": 1, "status": "ended", "time": 1e12})
    with pytest.raises(RuntimeError, match="another rank did not finish: rank 1") as caught:
        worker.complete(recorder, {})
    recorder.report(status="failed", error=str(caught.value), traceback="")
    assert failures.failure(Run(home), 2, 1).rank == 1


@pytest.mark.parametrize("where, shown", [("read the data", False), ("train", True)])
def test_a_sentence_about_the_data_comes_without_a_stack(home, where, shown):
    state = {"rank": 0, "status": "failed", "step": 0, "where": where, "code": 1}
    told = {"error": "ValueError: held_out 9 of 8 records", "traceback": "Traceback (most recent"}
    (home / "log").mkdir()
    write_state(state_path(home, 0), state | told)
    found = failures.failure(Run(home), 1, 1)
    assert "held_out 9 of 8 records" in str(found)
    assert ("Traceback" in str(found)) == shown and "Traceback" in found.traceback
