"""Several nodes: hostfiles, commands, and real runs across two network namespaces.

Each node is a namespace with an address of its own; nothing but these two can be reached from
them. Where making namespaces is not permitted, two loopback addresses stand for the nodes.
"""

import concurrent.futures
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launches import config, processes_of, tiny

from chatlib.cli import main
from chatlib.lab import LaunchError, launch
from chatlib.launch import hosts, plan
from chatlib.runs import checkpoints, identity, meeting, mutations
from chatlib.runs.files import write_json
from chatlib.runs.store import run_of

# ------------------------------------------------------------------------- hostfiles


def test_a_hostfile_and_a_list_of_its_lines_are_the_same(tmp_path):
    lines = ["# our machines", "node1 slots=8", "", "node2  slots=4  # the old one"]
    (tmp_path / "hostfile").write_text("\n".join(lines))
    found = hosts.read(tmp_path / "hostfile", 12)
    assert found == hosts.read(lines, 12)
    assert found.slots == {"node1": 8, "node2": 4} and found.master == "node1"
    assert found.host_of_rank == ["node1"] * 8 + ["node2"] * 4
    assert [hosts.read(lines, 12, r).local_ranks for r in (0, 1)] == [8, 4]


def test_the_hostfile_may_come_from_the_environment(tmp_path, monkeypatch):
    assert hosts.read(None, 2) is None
    (tmp_path / "hostfile").write_text("node1 slots=2\n")
    monkeypatch.setenv("CHATLIB_HOSTS", str(tmp_path / "hostfile"))
    assert hosts.read(None, 2).slots == {"node1": 2}


@pytest.mark.parametrize(
    "hosts, node_rank, sentence",
    [
        (["a slots=2", "b slots=2"], None, r"offers 4 slots \(a 2, b 2\) .* ranks 2; set ranks to"),
        (["a slots=1", "b slot=1"], None, r"line 2: 'b slot=1' is no host; write `NAME slots="),
        (["a slots=1", "a slots=1"], None, r"line 2: 'a slots=1' comes a second time"),
        (["-oProxyCommand=x slots=2"], None, r"line 1: '-oProxyCommand=x slots=2' is no host"),
        (["a slots=0"], None, r"line 1: 'a slots=0' is no host"),
        (["a slots=1", "b slots=1"], 2, r"node_rank is 2; hosts has nodes 0 to 1"),
        ("gone/hostfile", None, r"hostfile gone/hostfile cannot be read \(No such file"),
        (None, 1, r"node_rank 1 has no meaning without hosts"),
    ],
)
def test_bad_hosts_get_a_sentence(home, hosts, node_rank, sentence):
    with pytest.raises(LaunchError, match=sentence):
        launch(config(), hosts=hosts, node_rank=node_rank, dry_run=True)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("node_rank", [None, 1])
def test_deepspeed_reads_our_command_and_hostfile_as_meant(tmp_path, node_rank):
    from deepspeed.launcher import runner

    several = hosts.read(["node1 slots=8", "node2 slots=4"], 12, node_rank)
    (tmp_path / "hostfile").write_text(several.hostfile)
    parsed = runner.parse_args(plan.command(tmp_path, 12, 29500, None, several)[1:])
    assert runner.fetch_hostfile(parsed.hostfile) == {"node1": 8, "node2": 4}
    assert (parsed.num_nodes, parsed.master_addr, parsed.num_gpus) == (2, "node1", -1)
    assert (parsed.no_ssh, parsed.node_rank) == ((False, -1) if node_rank is None else (True, 1))
    assert parsed.user_script == "chatlib.train.worker" and parsed.module


def test_a_dry_run_shows_the_hosts(home, capsys, monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    launch(config(), hosts=["node1 slots=1", "node2 slots=1"], dry_run=True)
    printed = capsys.readouterr().out
    assert "hosts        node1 1, node2 1" in printed
    assert "/hostfile --num_nodes 2 --master_addr node1 --master_port PORT" in printed
    assert "SOCKET_IFNAME" not in printed  # each machine may call its interface otherwise


def test_what_the_environment_names_as_interface_stays(tmp_path, monkeypatch):
    write_json(meeting.hosts_path(tmp_path), {"ranks": ["127.0.0.1", "127.0.0.2"]})
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    meeting.use_interface(tmp_path, 1)
    assert [os.environ[f"{kind}_SOCKET_IFNAME"] for kind in ("GLOO", "NCCL")] == ["mine", "lo"]


def test_over_ssh_without_pdsh(home, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LaunchError, match=r"pdsh is not installed; install it, or launch once on"):
        launch(config(), hosts=["node1 slots=1", "node2 slots=1"])
    assert list(home.iterdir()) == []


def test_what_ranks_on_other_machines_get_from_our_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DS_ENV_FILE", "mine.env")
    monkeypatch.setenv(mutations.VARIABLE, '{"a.b": "c:d"}')
    monkeypatch.setenv("HF_TOKEN", "secret")
    (tmp_path / "mine.env").write_text("NCCL_DEBUG=INFO\n")
    several = hosts.read(["node1 slots=1", "node2 slots=1"], 2)
    hosts.write_exports(tmp_path / "exports.txt", plan.environment(2, several))
    assert (tmp_path / "exports.txt").stat().st_mode & 0o777 == 0o600
    read = dict(line.split("=", 1) for line in (tmp_path / "exports.txt").read_text().splitlines())
    assert read["NCCL_DEBUG"] == "INFO" and read[mutations.VARIABLE] == '{"a.b": "c:d"}'
    assert read["CHATLIB_RUNS"] == str(identity.root()) and "DS_ACCELERATOR" in read
    assert read["CHATLIB_ATTACHED"] == "announcement" and "HF_TOKEN" not in read


def test_ranks_over_ssh_end_when_dismissed_or_when_nobody_renews_the_announcement(tmp_path):
    meeting.announce(tmp_path, 29500, None)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(meeting.await_dismissal, tmp_path, 4.0)  # more than a busy machine
        for _ in range(60):  # keeps a process waiting, less than this loop takes
            meeting.still_here(tmp_path)
            time.sleep(0.1)
        assert not waiting.done()
        waiting.result(timeout=30)  # nobody renews it
        waiting = pool.submit(meeting.await_dismissal, tmp_path, 60.0)
        meeting.dismiss(tmp_path)
        waiting.result(timeout=30)


def test_ranks_over_ssh_end_when_another_launch_takes_their_place(tmp_path):
    meeting.announce(tmp_path, 29500, None, "first")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(meeting.await_dismissal, tmp_path, 60.0, "first")
        time.sleep(0.5)
        assert not waiting.done()
        meeting.announce(tmp_path, 29501, None, "second")
        waiting.result(timeout=30)


def test_a_node_whose_first_node_does_not_start(home):
    meeting.announce(home, 29500, None)  # left by a launch that is dead: nobody renews it
    with pytest.raises(TimeoutError, match=r"the first node did not start .* within 1 s; look at"):
        meeting.await_meeting(home, lambda: False, 1.0)


# --------------------------------------------------------------------- two real nodes


@contextlib.contextmanager
def namespaces():
    """(name, address) of two network namespaces that are joined by one virtual cable."""
    names = [f"chatlib-{os.getpid()}-{i}" for i in (0, 1)]
    addresses = ["192.0.2.1", "192.0.2.2"]  # RFC 5737: never anybody's

    def ip(*arguments, check=True):
        return subprocess.run(["ip", *arguments], check=check, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ends = [("name", "net0", "netns", names[0]), ("name", "net0", "netns", names[1])]
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for name, address in zip(names, addresses):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "net0")
            for link in ("lo", "net0"):
                ip("-n", name, "link", "set", link, "up")
        yield list(zip(names, addresses))
    finally:
        for name in names:
            ip("netns", "delete", name, check=False)


@pytest.fixture
def two_nodes():
    """As `namespaces`; with a name of None, and loopback addresses, where they are forbidden."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(namespaces())
        except (OSError, subprocess.CalledProcessError):
            found = [(None, "127.0.0.1"), (None, "127.0.0.2")]
        yield found


def start_on(two_nodes, settings, directory, *options) -> list[subprocess.Popen]:
    """The shell's command on each node; the further one first, which then has to wait."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(settings.model_dump_json())
    hostfile = directory / "hostfile"
    hostfile.write_text("".join(f"{address} slots=1\n" for _, address in two_nodes))
    started = []
    for number in (1, 0):
        name = two_nodes[number][0]
        inside = ["ip", "netns", "exec", name] if name else []
        stage = [sys.executable, "-m", "chatlib", "sft", "--config", directory / "config.json"]
        place = ["--hosts", hostfile, "--node_rank", str(number)]
        command = [str(part) for part in [*inside, *stage, *place, *options]]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.insert(0, subprocess.Popen(command, **pipes))
    return started


def ended(started) -> list[tuple[int, str]]:
    """(exit code, what was printed to standard error) of each process."""
    try:
        errors = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, error) for process, error in zip(started, errors)]


def await_steps(run, steps, seconds=120) -> None:
    """Return when a run in another process has made so many steps."""
    deadline = time.monotonic() + seconds
    while len(run.metrics) < steps:
        assert time.monotonic() < deadline, f"{run.name} made fewer than {steps} steps"
        time.sleep(0.01)


@pytest.fixture
def real(home, monkeypatch):
    """A folder of runs whose launches train."""
    monkeypatch.delenv(mutations.VARIABLE)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("CHATLIB_RUNS", str(home / "runs"))
    return home


def assert_equal_losses(found, expected):
    assert list(found.step) == list(expected.step)
    assert (found.loss - expected.loss).abs().max() < 1e-5


@pytest.mark.launch
@pytest.mark.timeout(240)
def test_two_nodes_train_as_one(real, two_nodes, uninterrupted):
    finished = ended(start_on(two_nodes, tiny(), real / "job"))
    assert [code for code, _ in finished] == [0, 0], finished
    run = run_of(tiny())
    assert run.complete and list(run.manifest["hosts"]) == [address for _, address in two_nodes]
    assert_equal_losses(run.metrics, uninterrupted.metrics)
    assert not processes_of(real)


@pytest.mark.launch
@pytest.mark.timeout(300)
def test_a_node_that_is_cut_off_is_named_and_the_run_resumes(real, two_nodes, monkeypatch):
    if two_nodes[0][0] is None:
        pytest.skip("needs root: cutting a node off in a network namespace")
    settings, silence = tiny(steps=120, save_every=5), 20
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("CHATLIB_RUNS", str(real / "alone"))
        expected = launch(settings).metrics
    started = start_on(two_nodes, settings, real / "job", "--timeout", str(silence))
    await_steps(run_of(settings), 6)
    subprocess.run(["ip", "-n", two_nodes[1][0], "link", "set", "net0", "down"], check=True)
    cut = time.monotonic()
    failed = ended(started)
    assert time.monotonic() - cut < 60  # for gloo it would be half an hour
    assert [code for code, _ in failed] == [1, 1], failed
    assert "no progress for" in failed[0][1] and "rank 1 on 192.0.2.2: step" in failed[0][1]
    assert "no progress for" in failed[1][1]
    assert run_of(settings).status == "failed" and not processes_of(real)

    subprocess.run(["ip", "-n", two_nodes[1][0], "link", "set", "net0", "up"], check=True)
    resumed = ended(start_on(two_nodes, settings, real / "job", "--resume"))
    assert [code for code, _ in resumed] == [0, 0], resumed
    log = (run_of(settings).directory / "log" / "launcher.txt").read_text()
    assert "--checkpoint" in log
    assert_equal_losses(run_of(settings).metrics, expected)
    assert not processes_of(real)


SSHD = """
ListenAddress {address}
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PidFile none
PermitRootLogin yes
StrictModes no
"""
SSH = """
IdentityFile {folder}/key
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


@pytest.fixture
def ssh(two_nodes, home, monkeypatch):
    """An ssh server on each node, and an `ssh` that may enter both."""
    if two_nodes[0][0] is None:
        pytest.skip("needs root: an ssh server in each of two network namespaces")
    if not (shutil.which("sshd") and shutil.which("pdsh")):
        pytest.skip("sshd or pdsh is not installed (Debian: openssh-server, pdsh)")
    folder = home / "ssh"
    folder.mkdir()
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", folder / "key"], check=True)
    (folder / "config").write_text(SSH.format(folder=folder))
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    servers = []
    for name, address in two_nodes:
        settings = folder / f"sshd_{address}"
        settings.write_text(SSHD.format(folder=folder, address=address))
        command = ["ip", "netns", "exec", name, shutil.which("sshd"), "-D", "-e", "-f", settings]
        servers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))

    def start(settings) -> subprocess.Popen:
        hostfile = home / "hostfile"
        hostfile.write_text("".join(f"{address} slots=1\n" for _, address in two_nodes))
        (home / "config.json").write_text(settings.model_dump_json())
        inside = ["ip", "netns", "exec", two_nodes[0][0]]
        stage = [sys.executable, "-m", "chatlib", "sft", "--config", home / "config.json"]
        return subprocess.Popen(
            [*inside, *stage, "--hosts", hostfile],
            stderr=subprocess.PIPE,
            # where these tests run in the background, their shell has interrupts ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    yield start
    for server in servers:
        server.kill()
        server.wait()


@pytest.mark.launch
@pytest.mark.timeout(240)
def test_one_node_starts_the_other_over_ssh(real, ssh, uninterrupted):
    [(code, error)] = ended([ssh(tiny())])
    assert code == 0, error
    assert_equal_losses(run_of(tiny()).metrics, uninterrupted.metrics)
    assert not processes_of(real / "runs")


@pytest.mark.launch
@pytest.mark.timeout(240)
def test_an_interrupt_ends_what_was_started_over_ssh(real, ssh, another_run):
    settings = tiny(steps=5000)
    started, run = ssh(settings), run_of(settings)
    await_steps(run, 5)
    os.kill(started.pid, signal.SIGINT)
    [(code, error)] = ended([started])
    assert code == 130 and b"no process of the launch is left" in error
    assert run.status == "interrupted" and not processes_of(real / "runs")
    assert another_run.poll() is None  # DeepSpeed's own answer to an interrupt would end it


@pytest.fixture
def another_run():
    """A process that looks like DeepSpeed's launcher of some other run on this machine."""
    name = f"{sys.executable} -u -m deepspeed.launcher.launch"
    process = subprocess.Popen(["bash", "-c", f"exec -a '{name}' sleep 300"])
    yield process
    process.kill()
    process.wait()


def test_the_interface_is_the_one_that_leads_to_the_other_nodes(two_nodes):
    name, _ = two_nodes[0]
    if name is None:
        assert meeting.interface(two_nodes[-1][1]) == "lo"
        return
    slots = {address: 1 for _, address in two_nodes}
    code = f"from chatlib.runs import meeting; print(meeting.interface({list(slots)[-1]!r}))"
    inside = ["ip", "netns", "exec", name, sys.executable, "-c", code]
    assert subprocess.check_output(inside, text=True).strip() == "net0"


# ----------------------------------------------------------------------------- Slurm

# Stand in for Slurm: `srun` starts its command once a node and hands on signals to all processes
# of the step, `scontrol` names the nodes and remembers what it is asked to put into the queue.
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
set -m  # each task in a process group of its own
for i in 0 1; do SLURM_NODEID=$i "$@" & tasks+=("$!"); done
trap 'for task in "${tasks[@]}"; do kill -USR1 -- "-$task"; done' USR1
for task in "${tasks[@]}"; do
  wait "$task"; code=$?
  while kill -0 "$task" 2>/dev/null; do wait "$task"; code=$?; done
  (( code > worst )) && worst=$code
done
exit "${worst:-0}"
"""
SCONTROL = """#!/bin/bash
if [[ $1 == requeue ]]; then echo "$2" >> "$(dirname "$0")/requeued"; exit; fi
printf '127.0.0.1\\n127.0.0.2\\n'
"""


@pytest.fixture
def slurm(real, monkeypatch):
    """A folder with Slurm's commands, which is first on the path."""
    folder = real / "slurm"
    folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "nodes")
    return folder


def printed_script(capsys, *arguments) -> str:
    assert main(["slurm", *arguments]) == 0
    script = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    return script


def test_the_batch_script_asks_for_what_the_profile_needs(home, capsys):
    script = printed_script(capsys, "sft", "reward", "--profile", "cluster", "--time", "2:00:00")
    for line in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=8", "time=2:00:00"):
        assert f"#SBATCH --{line}\n" in script
    assert script.count("\ntrain ") == 2 and "${SLURM_RESTART_COUNT:+--resume}" in script
    assert "slots=8" in script and '"name": "hub:HuggingFaceH4/ultrachat_200k' in script
    again = printed_script(capsys, "sft", "--profile", "laptop", "--cpu", "--resume")
    assert "gpus" not in again and "    --resume\n" in again


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["sft", "--nodes", "3", "--profile", "laptop"], "ranks 2 cannot be shared by nodes 3;"),
        (["sft", "--profile", "desktop"], "profile 'desktop' does not exist; use laptop, small"),
        (["dance", "--profile", "laptop"], "recipe 'dance' does not exist; use one of sft"),
        (["gone.json"], "gone.json cannot be read (No such file or directory)"),
    ],
)
def test_a_batch_script_that_cannot_be(home, capsys, arguments, sentence):
    assert main(["slurm", *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.launch
@pytest.mark.timeout(240)
def test_the_batch_script_trains_across_two_nodes(real, capsys, uninterrupted, slurm):
    (real / "config.json").write_text(tiny().model_dump_json())
    script = printed_script(capsys, str(real / "config.json"), "--nodes", "2", "--cpu")
    job = subprocess.run(["bash"], input=script, text=True, capture_output=True)
    run = run_of(tiny())
    assert run.complete, job.stderr
    assert run.manifest["hosts"] == {"127.0.0.1": 1, "127.0.0.2": 1}
    assert_equal_losses(run.metrics, uninterrupted.metrics)
    assert not processes_of(real)


@pytest.mark.launch
@pytest.mark.timeout(240)
def test_a_warned_job_saves_a_checkpoint_goes_back_into_the_queue_and_resumes(
    real, capsys, slurm, monkeypatch
):
    settings = tiny(steps=400)
    (real / "config.json").write_text(settings.model_dump_json())
    script = printed_script(capsys, str(real / "config.json"), "--nodes", "2", "--cpu")
    (real / "job.sh").write_text(script)
    job, run = subprocess.Popen(["bash", real / "job.sh"], stderr=subprocess.PIPE), run_of(settings)
    await_steps(run, 3)
    job.send_signal(signal.SIGUSR1)
    _, error = job.communicate(timeout=120)
    assert job.returncode == 0 and (slurm / "requeued").read_text() == "7\n", error
    step = checkpoints.checkpoint_step(checkpoints.newest_checkpoint(run.directory))
    assert 3 <= step == run.metrics.step.iloc[-1] < 400 and run.status == "stopped"
    assert b"stopped at step" in error and not processes_of(real / "runs")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    subprocess.run(["bash", real / "job.sh"], check=True, capture_output=True, timeout=200)
    assert run.complete and list(run.metrics.step) == list(range(1, 401))
    assert f"step-{step:08d}" in (run.directory / "log" / "launcher.txt").read_text()
