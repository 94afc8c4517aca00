"""Launches that are forked from a process which has imported: the same digits, nothing left."""

import os
import signal
import subprocess
import sys
import time

import faults
import psutil
import pytest
from launches import config, processes_of, tiny

from chatlib.lab import LaunchError, launch
from chatlib.launch import warm
from chatlib.runs import mutations
from chatlib.runs.store import run_of

pytestmark = [pytest.mark.launch, pytest.mark.timeout(240)]


def gone(pid, seconds=30.0) -> bool:
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def waiting() -> int:
    """The number of this process's warm process."""
    return warm._warm.process.pid


def test_a_forked_launch_trains_the_same_digits_as_one_that_starts_cold(home, monkeypatch):
    monkeypatch.delenv(mutations.VARIABLE)  # this stage is to train
    found = {}
    for how in ("yes", "no"):
        monkeypatch.setenv("CHATLIB_WARM", how)
        run = launch(tiny(), fresh=True)
        weights = (run.model_dir / "model.safetensors").read_bytes()
        found[how] = run.metrics["loss"].tolist(), weights
    assert found["yes"] == found["no"]


def test_one_process_serves_launch_after_launch_and_outlives_them(home):
    launch(config())
    first = waiting()
    launch(config(seed=1))
    assert waiting() == first and psutil.pid_exists(first)
    assert not processes_of(home)


def test_what_libraries_read_at_import_asks_for_another_process(home, tmp_path, monkeypatch):
    launch(config())
    first = waiting()
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    launch(config(seed=1))
    assert waiting() != first and gone(first)


def test_without_it_launches_start_cold(home, monkeypatch):
    monkeypatch.setenv("CHATLIB_WARM", "no")
    monkeypatch.setattr(warm, "Warm", lambda *_: pytest.fail("it was started"))
    assert launch(config()).complete


@pytest.mark.parametrize("when", ["killed before", "cannot import"])
def test_a_launch_starts_cold_where_the_warm_process_is_gone(home, tmp_path, monkeypatch, when):
    launch(config())
    before = waiting()
    if when == "killed before":
        os.kill(before, signal.SIGKILL)
        assert gone(before)
    else:
        broken = tmp_path / "transformers"
        broken.mkdir()
        (broken / "__init__.py").write_text("raise ImportError('broken')")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    assert launch(config(seed=1)).complete
    assert not processes_of(run_of(config(seed=1)).directory)


def test_the_warm_process_is_killed_while_a_launch_runs(home, monkeypatch):
    monkeypatch.setenv("LIGHT_SECONDS", "0.5")
    run = run_of(config(steps=400))
    code = (
        "import threading, time, os, signal\n"
        "from chatlib.launch import warm\n"
        "from chatlib.lab import SFTConfig, launch\n"
        f"path = {str(run.directory / 'metrics.jsonl')!r}\n"
        "def kill():\n"
        "    while not (os.path.exists(path) and os.path.getsize(path)): time.sleep(.05)\n"
        "    warm._warm.process.kill()\n"
        "threading.Thread(target=kill).start()\n"
        "launch(SFTConfig(steps=400))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode and LaunchError.__name__ in done.stderr
    assert not processes_of(run.directory)


def test_it_ends_with_the_process_that_launches(home):
    code = (
        "from chatlib.launch import warm\n"
        "from chatlib.lab import SFTConfig, launch\n"
        "launch(SFTConfig(steps=5))\n"
        "print(warm._warm.process.pid, flush=True)\n"
        "import time; time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.kill()
    assert gone(pid)
    process.communicate()


STAGE = "def train(config, recorder):\n    return {'said': %d}\n"


def test_an_edit_of_what_trains_counts_in_the_next_launch(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    pids, said = set(), []
    with faults.stage("edited_stage"):
        for seed in (1, 2):
            (tmp_path / "edited_stage.py").write_text(STAGE % seed)
            said.append(launch(config(seed=seed)).manifest["said"])
            pids.add(waiting())
    assert said == [1, 2] and len(pids) == 1
