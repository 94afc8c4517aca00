"""Each thing that can go wrong with a launch, done to a real one: a sentence, and nothing left."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import faults
import psutil
import pytest
from launches import config, processes_of, small_disk, tiny, turn_read_only

from chatlib.lab import LaunchError, RankFailed, RankStuck, launch
from chatlib.launch import plan
from chatlib.runs import checkpoints, mutations
from chatlib.runs.recorder import read_metrics
from chatlib.runs.store import run_of

pytestmark = [pytest.mark.launch, pytest.mark.timeout(240)]


def fault(monkeypatch, **parts):
    monkeypatch.setenv("FAULT", ",".join(f"{k}={v}" for k, v in parts.items()))


@pytest.fixture
def gloo(home):
    """Ranks that meet over gloo."""
    with faults.stage("gloo_stage"):
        yield


@pytest.fixture
def real_stages(home, monkeypatch):
    """Ranks that train, and look at `$FAULT`."""
    monkeypatch.delenv(mutations.VARIABLE)
    with faults.faulty():
        yield


def launched_elsewhere(settings: str) -> subprocess.Popen:
    """A process that launches, so that it can be killed or interrupted.

    A shell starts a background job with interrupts ignored, and its children inherit that.
    """
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from chatlib.lab import SFTConfig, launch; launch(SFTConfig({settings}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return result


def test_a_rank_that_raises(home, monkeypatch):
    fault(monkeypatch, rank=1, step=3, kind="raise")
    with pytest.raises(RankFailed, match=r"rank 1 of 2, at step 3 .*RuntimeError") as caught:
        launch(config())
    assert (caught.value.rank, caught.value.step) == (1, 3)
    assert "in commit_fault" in caught.value.traceback
    assert "in commit_fault" in caught.value.logs[1].read_text()
    assert run_of(config()).status == "failed"
    assert not processes_of(home)


def test_a_rank_that_is_killed(home, monkeypatch):
    fault(monkeypatch, rank=0, step=2, kind="kill")
    monkeypatch.setenv("LIGHT_SECONDS", "0.2")
    with pytest.raises(RankFailed, match=r"rank 0 .* SIGKILL, probably out of memory") as caught:
        launch(config())
    assert int(re.search(r"peak seen: (\d+) MiB", str(caught.value))[1]) > 5
    assert not processes_of(home)


def test_a_rank_that_leaves_early_with_code_0(home, monkeypatch):
    fault(monkeypatch, rank=1, step=1, kind="exit0")
    with pytest.raises(RankFailed, match=r"rank 1 .* left with exit code 0 before"):
        launch(config())
    assert not run_of(config()).complete
    assert not processes_of(home)


def test_a_rank_that_hangs(home, monkeypatch):
    fault(monkeypatch, rank=1, step=2, kind="sleep")
    monkeypatch.setenv("LIGHT_SECONDS", "0.5")  # the other rank is slow, not stuck
    with pytest.raises(RankStuck) as caught:
        launch(config(steps=10), timeout=3)
    assert re.search(
        r"rank 1: step 2 \(forward\), \d+ s ago; in File .*commit_fault", str(caught.value)
    )
    logs = run_of(config(steps=10)).directory / "log"
    assert all("light_stage.py" in (logs / f"rank{r}.stack.txt").read_text() for r in (0, 1))
    assert not processes_of(home)


def test_a_rank_that_is_stopped(home, monkeypatch):
    fault(monkeypatch, rank=1, step=2, kind="stop")
    monkeypatch.setenv("LIGHT_SECONDS", "0.5")
    with pytest.raises(RankStuck, match=r"rank 1: step 2 .* ago; stopped by a signal \(SIGSTOP"):
        launch(config(steps=20), timeout=3)
    assert not processes_of(home)


def test_a_straggler_is_waited_for_as_long_as_it_goes_on(home, monkeypatch):
    """One rank is slow at every step: all take longer than the timeout, no step does."""
    fault(monkeypatch, rank=1, kind="slow")
    began = time.monotonic()
    assert launch(config(steps=12), timeout=3).complete
    assert time.monotonic() - began > 4


def test_a_rank_that_others_wait_for_is_told_from_them(home, monkeypatch, gloo):
    fault(monkeypatch, rank=1, step=2, kind="sleep")
    with pytest.raises(RankStuck, match=r"rank 1: step 2 .* ago; in File .*commit_fault") as caught:
        launch(config(), timeout=4)
    assert re.search(r"rank 0: step \d .* ago; in File .*distributed", str(caught.value))
    assert not processes_of(home)


def test_a_request_to_end_is_met_with_a_checkpoint(home, real_stages):
    """SIGTERM, as a system that shuts down or a queue sends it."""
    settings = tiny(steps=2000)
    process = launched_elsewhere(f"**{settings.model_dump()!r}")
    run = run_of(settings)
    wait_until(lambda: len(read_metrics(run.directory / "metrics.jsonl")) > 2)
    process.terminate()
    _, errors = process.communicate(timeout=90)
    assert process.returncode and "with a checkpoint, as asked" in errors
    assert run.status == "stopped" and checkpoints.newest_checkpoint(run.directory)
    assert not processes_of(home)


def test_a_disk_that_turns_read_only(home, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LIGHT_SECONDS", "0.3")
    run, place = run_of(config(steps=400)), tmp_path_factory.mktemp("place")

    def turn():
        wait_until(lambda: read_metrics(run.directory / "metrics.jsonl"))
        turn_read_only(home, place)

    with small_disk(home, 4000):
        turning = threading.Thread(target=turn)
        turning.start()
        try:
            with pytest.raises(LaunchError, match=r"cannot be written \(Read-only file system\)"):
                launch(config(steps=400), timeout=20)
            turning.join()
            assert not processes_of(home)
        finally:
            for view in (home, place):
                subprocess.run(["umount", "-l", str(view)], check=True)


def test_the_launching_process_is_killed_and_the_next_launch_starts_over(home, monkeypatch):
    monkeypatch.setenv("LIGHT_SECONDS", "0.5")
    process, run = launched_elsewhere("steps=400"), run_of(config(steps=400))
    wait_until(lambda: read_metrics(run.directory / "metrics.jsonl"))
    assert run.status == "running"
    with pytest.raises(LaunchError, match="in use by a live run"):
        launch(config(steps=400))
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(run.directory), 20)
    assert run.status == "stopped"
    monkeypatch.setenv("LIGHT_SECONDS", "0")
    assert list(launch(config(steps=400)).metrics.step) == list(range(1, 401))


def test_an_interrupt_leaves_no_process(home, monkeypatch):
    monkeypatch.setenv("LIGHT_SECONDS", "0.5")
    process, run = launched_elsewhere("steps=400"), run_of(config(steps=400))
    wait_until(lambda: read_metrics(run.directory / "metrics.jsonl"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not processes_of(home)
    assert run.status == "interrupted"


def test_deepspeeds_own_launcher_is_killed(home, monkeypatch):
    monkeypatch.setenv("LIGHT_SECONDS", "0.5")
    directory = run_of(config(steps=400)).directory

    def kill_launcher():
        wait_until(lambda: read_metrics(directory / "metrics.jsonl"))
        for process in processes_of(directory):
            if process.pid == os.getpgid(process.pid):  # the launcher leads their group
                process.kill()

    killer = threading.Thread(target=kill_launcher)
    killer.start()
    with pytest.raises(LaunchError, match=r"launcher ended .* no rank said why"):
        launch(config(steps=400))
    killer.join()
    assert not processes_of(home)


def test_a_port_that_was_taken_in_between(home, monkeypatch, gloo):
    free = plan.free_port
    with socket.socket() as occupant:
        occupant.bind(("0.0.0.0", 0))  # noqa: S104  # as the rendezvous does
        occupant.listen()
        ports = [occupant.getsockname()[1]]
        monkeypatch.setattr(plan, "free_port", lambda: ports.pop() if ports else free())
        run = launch(config(steps=2))
    assert run.manifest["total"] == 6.0  # 1 + 2 on both ranks, added once more
    log = (run.directory / "log" / "launcher.txt").read_text()
    assert log.count("cmd = ") == 2


def test_the_disk_fills_up_with_the_records(home, real_stages):
    with small_disk(home, 200):  # of 260 kB
        with pytest.raises(RankFailed, match=r"step 0 \(read the data\), .*; the disk is full"):
            launch(tiny())
        assert not list(home.rglob(".*")) and not list(home.rglob("*.jsonl"))
    assert not processes_of(home)


def test_the_disk_fills_up_with_a_checkpoint(home, real_stages):
    settings = tiny(save_every=1)  # 80 kB of weights, 160 kB of the optimizer's
    with small_disk(home, 240 + 264):  # and the records
        with pytest.raises(RankFailed, match=r"step 1 \(checkpoint\), .*; the disk is full"):
            launch(settings)
        assert list(run_of(settings).metrics.step) == [1] and not run_of(settings).complete
        assert not list(home.rglob(".*"))  # temporary files
    assert not processes_of(home)


def test_a_file_size_quota(home, monkeypatch):
    monkeypatch.setenv("LIGHT_BYTES", "100000")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2)\n"
    code = limited + "from chatlib.lab import SFTConfig, launch; launch(SFTConfig(steps=50))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(r"RankFailed.*Errno 27.*the disk is full: free", process.stderr)
    assert not processes_of(home)


def test_the_disk_is_full_at_the_start(home):
    full = pytest.raises(LaunchError, match=r"the disk that holds .* is full; free some space")
    with small_disk(home, 24), full:
        launch(config())
    assert not processes_of(home)


def test_killed_during_a_checkpoint_then_resumed(home, monkeypatch):
    settings = config(steps=6, save_every=2, keep_checkpoints=1)
    fault(monkeypatch, rank=0, step=4, kind="kill", where="checkpoint")
    with pytest.raises(RankFailed, match=r"rank 0 of 2, at step 4 \(checkpoint\), was killed"):
        launch(settings)
    monkeypatch.delenv("FAULT")
    with pytest.warns(UserWarning, match=r"step-00000004.tmp was not finished and is skipped"):
        run = launch(settings, resume=True)
    assert run.manifest["started_at_step"] == 2
    assert list(run.metrics.step) == [1, 2, 3, 4, 5, 6]
    assert [p.name for p in (run.directory / "checkpoint").iterdir()] == ["step-00000006"]


def test_killed_in_a_real_checkpoint_then_resumed_bit_for_bit(home, monkeypatch, real_stages):
    """Nothing disturbs the first launch until all its steps are logged; the second repeats them."""
    settings, same = tiny(save_every=4), ["step", "loss", "learning_rate", "tokens"]
    weights = "model/mp_rank_00_model_states.pt"  # and the optimizer's moments
    run, final = run_of(settings), checkpoints.checkpoint_path(run_of(settings).directory, 8)
    fault(monkeypatch, rank=0, step=8, kind="kill", where="model_saved")
    with pytest.raises(RankFailed, match=r"rank 0 of 2, at step 8 \(model_saved\), was killed"):
        launch(settings)
    torn, undisturbed = final.with_suffix(".tmp"), run.metrics[same]
    assert not (torn / "rank0.pt").exists()  # it is torn; its one whole file is to be met again
    shutil.copy(torn / weights, home / "undisturbed")
    monkeypatch.delenv("FAULT")
    with pytest.warns(UserWarning, match=r"step-00000008.tmp was not finished and is skipped"):
        launch(settings, resume=True)
    log = (run.directory / "log" / "launcher.txt").read_text()
    assert re.findall(r"--checkpoint \S+/(\S+)", log) == ["step-00000004"]
    assert list(run.metrics.step) == list(range(1, 9)) and run.metrics[same].equals(undisturbed)
    assert (final / weights).read_bytes() == (home / "undisturbed").read_bytes()


def test_a_run_of_two_ranks_is_resumed_by_one_and_again_after_that_failed(home, monkeypatch):
    settings = config(steps=6, save_every=2)
    alone = run_of(settings.model_copy(update={"ranks": 1}))
    fault(monkeypatch, rank=0, step=5, kind="raise")
    with pytest.raises(RankFailed, match="rank 0 of 2, at step 5"):
        launch(settings)
    with pytest.raises(RankFailed, match="rank 0 of 1, at step 5"):
        launch(settings, ranks=1, resume=True)
    assert list(alone.metrics.step) == [1, 2, 3, 4]
    shutil.rmtree(run_of(settings).directory)  # it goes on from a copy of its own
    monkeypatch.delenv("FAULT")
    run = launch(settings, ranks=1, resume=True)
    assert run.manifest["continues"] == {"run": run_of(settings).name, "ranks": 2, "step": 4}
    assert run.manifest["started_at_step"] == 4 and list(run.metrics.step) == [1, 2, 3, 4, 5, 6]


LOSES_A_WEIGHT = """
def learn(net, batch, tokenizer, config, recorder, device):
    loss = learn.__wrapped__(net, batch, tokenizer, config, recorder, device)
    if recorder.state["step"] < 5:
        return loss
    dict(net.module.named_parameters())["model.model.norm.weight"].data[0] = float("nan")
    return float("nan")
"""


def test_a_loss_that_is_no_number(home, real_stages):
    """Named with its step and the first bad weight; the checkpoint before it is kept."""
    with faults.mutated("chatlib.train.sft.learn", LOSES_A_WEIGHT):
        run = run_of(tiny(save_every=2))
        with pytest.raises(RankFailed, match=r"loss is nan at step 6; 1 of \d+ weights") as caught:
            launch(tiny(save_every=2))
        assert "the first is model.model.norm.weight" in str(caught.value)
        assert checkpoints.newest_checkpoint(run.directory).name == "step-00000004"
        assert len(run.metrics) == 6
        assert list(run.manifest["code"])[-1] == "mutation of chatlib.train.sft.learn"


def port_of(run) -> int:
    """The port at which a run's ranks have met."""
    log = (run.directory / "log" / "launcher.txt").read_text()
    return int(re.search(r"--master_port=(\d+)", log)[1])


def test_two_launches_side_by_side(home, gloo):
    finished = []
    threads = [
        threading.Thread(target=lambda seed=seed: finished.append(launch(config(seed=seed))))
        for seed in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.manifest["seed"] for run in finished) == [1, 2]
    assert [run.manifest["total"] for run in finished] == [48.0, 48.0]  # 1 + 2, doubled 4 times
    assert port_of(finished[0]) != port_of(finished[1])
    assert not processes_of(home)


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where torch puts what processes share
FILES = {"config.json", "deepspeed.json", "lock", "log", "manifest.json", "metrics.jsonl"}
FILES |= {"log/launcher.txt"}
FILES |= {f"log/rank{rank}.{kind}" for rank in (0, 1) for kind in ("json", "txt", "stack.txt")}


def held() -> tuple[int, int, int]:
    """What this process holds: open files, threads, children."""
    me = psutil.Process()
    return me.num_fds(), me.num_threads(), len(me.children(recursive=True))


def listeners(port) -> list:
    """Sockets of any process that listen on a port."""
    found = psutil.net_connections("tcp")
    return [c for c in found if c.status == psutil.CONN_LISTEN and c.laddr.port == port]


def names(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.timeout(1800)
def test_launches_one_after_another_leak_nothing(home, monkeypatch, tmp_path_factory):
    """Five, or as many as `$CHATLIB_LAUNCHES` says (50: five minutes); every other opens a port."""
    scratch, shared = tmp_path_factory.mktemp("scratch"), names(SHARED_MEMORY)
    monkeypatch.setenv("TMPDIR", str(scratch))
    first, done = None, set()
    for number in range(int(os.environ.get("CHATLIB_LAUNCHES", 5))):
        stage = ("light_stage", "gloo_stage")[number % 2]
        with faults.stage(stage):
            run = launch(config(seed=number))
        port = port_of(run)
        assert not processes_of(home) and not listeners(port)
        first = first or held()  # with what importing and the first launch made
        assert held() == first
        done.add(run.name)
        assert {path.name for path in home.iterdir()} == done
        assert names(run.directory) == FILES | ({"model"} if stage == "light_stage" else set())
        new = names(SHARED_MEMORY) - shared
        assert not {name for name in new if "torch" in name or str(port) in name}
        assert not {name for name in names(scratch) if not name.startswith("torchinductor_")}
