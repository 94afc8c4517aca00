"""One place decides what ranks compute on: machines with 0, 1 and 8 cards, pretended on a CPU."""

import ast
import base64
import importlib.metadata
import json
import os
import runpy
import subprocess
import sys

import nbformat
import pytest

from chatlib.book import execute, pages
from chatlib.launch import hosts, plan
from chatlib.launch.failures import LaunchError
from chatlib.settings import device

UUIDS = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,MIG-GPU-8932f937/1/0"


@pytest.fixture
def machine(monkeypatch):
    """A function that pretends so many cards, a CUDA build of torch, and an untouched caller."""

    def pretend(count, selected=None, **environment):
        for name in ("CHATLIB_DEVICE", "DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES", "CHATLIB_CARDS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(device, "cards", lambda: [str(i) for i in range(count)])
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu130")
        if selected is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", selected)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return pretend


def ranks_of(command):
    """How many ranks a command starts on this machine."""
    world = next(part for part in command if part.startswith("--world_info="))
    return len(json.loads(base64.urlsafe_b64decode(world.partition("=")[2]))["localhost"])


@pytest.mark.parametrize("count", [0, 1, 8])
def test_all_cards_are_taken_when_nothing_is_said(machine, count):
    machine(count)
    assert device.gpus() == count
    assert device.accelerator() == ("cuda" if count else "cpu")


@pytest.mark.parametrize("selected", ["-1", "", "-1,0", "NoDevFiles"])
def test_a_selection_of_none_is_no_card(machine, selected):
    machine(8, selected)
    assert device.accelerator() == "cpu" and device.gpus() == 0


@pytest.mark.parametrize(
    ("selected", "count"), [("3,5", 2), (" 0 , 7", 2), ("1,-1,2", 1), (UUIDS, 2)]
)
def test_a_selection_is_counted_and_passes_through_untouched(machine, selected, count, tmp_path):
    machine(8, selected)
    assert device.gpus() == count
    command = plan.command(tmp_path, count, 1, None)
    assert ranks_of(command) == count and "--include" not in command
    wanted = plan.environment(count)["CHATLIB_CARDS"]
    assert wanted == ",".join(name.strip() for name in selected.split(",")[:count])


def test_a_rank_sees_the_selection_again_whatever_deepspeed_numbered(machine, monkeypatch):
    """DeepSpeed's launcher sets CUDA_VISIBLE_DEVICES to 0, 1, .. for its ranks."""
    machine(8, UUIDS)
    for name, value in plan.environment(2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    device.take_selection()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == UUIDS


@pytest.mark.parametrize("name", ["CHATLIB_DEVICE", "DS_ACCELERATOR"])
@pytest.mark.parametrize("count", [0, 1, 8])
def test_cpu_ranks_can_be_forced(machine, count, name):
    machine(count, **{name: "cpu"})
    plan.require_gpus(2)
    assert device.accelerator() == "cpu" and device.gpus() == 0
    assert plan.environment(2)["DS_ACCELERATOR"] == "cpu"
    assert "CHATLIB_CARDS" not in plan.environment(2)


def test_our_own_variable_wins_over_deepspeeds(machine):
    machine(8, CHATLIB_DEVICE="cpu", DS_ACCELERATOR="cuda")
    assert plan.environment(2)["DS_ACCELERATOR"] == "cpu"


def test_an_unknown_device_is_refused_with_what_is_allowed(machine):
    machine(1, CHATLIB_DEVICE="gpu")
    with pytest.raises(ValueError, match="CHATLIB_DEVICE is 'gpu'; set it to cpu or cuda"):
        device.accelerator()


def test_a_cpu_build_of_torch_uses_no_card(machine, monkeypatch):
    machine(8)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert device.accelerator() == "cpu"


def test_the_cards_of_several_machines_are_counted_by_machine(machine):
    several = hosts.read(["node1 slots=2", "node2 slots=4"], 6, node_rank=1)
    machine(8, "0,1,2,3")
    plan.require_gpus(6, several)
    machine(8, "0,1,2")
    with pytest.raises(LaunchError, match="ranks 4 need a GPU each and this machine offers 3"):
        plan.require_gpus(6, several)
    assert plan.environment(6, several)["CHATLIB_CARDS"] == "0,1,2"


def test_over_ssh_a_selection_holds_on_every_machine_or_is_refused(machine):
    several = hosts.read(["node1 slots=2", "node2 slots=2"], 4)
    machine(0, "4,5", CHATLIB_DEVICE="cuda")
    plan.require_gpus(4, several)
    assert plan.environment(4, several)["CHATLIB_CARDS"] == "4,5"
    machine(8, UUIDS)
    with pytest.raises(LaunchError, match=r"names GPU-8932.*by number, or launch once on every"):
        plan.require_gpus(4, several)


def test_wsl2_has_no_device_files_but_cards(monkeypatch):
    listed = "GPU 0: NVIDIA A (UUID: GPU-1)\n  MIG 1g Device 0: (UUID: MIG-1)\nGPU 1: B\n"
    monkeypatch.setattr(device.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(device.Path, "exists", lambda self: str(self) == "/dev/dxg")
    done = subprocess.CompletedProcess([], 0, stdout=listed)
    monkeypatch.setattr(device.subprocess, "run", lambda *a, **k: done)
    assert device.cards.__wrapped__() == ["0", "1"]


def test_nobody_else_decides():
    """No module of ours asks torch whether there is a card."""
    for path in sorted((pages.ROOT / "chatlib").rglob("*.py")):
        assert "cuda.is_available" not in path.read_text(encoding="utf-8"), path


def test_every_model_is_loaded_without_trusting_its_code():
    """transformers would ask otherwise, and in a rank read the pipe that keeps it alive."""
    calls = 0
    for path in sorted((pages.ROOT / "chatlib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                assert said.get("trust_remote_code") is False, f"{path}:{node.lineno}"
                calls += 1
    assert calls >= 5


def test_a_page_computes_on_the_cpu_beside_any_cards(machine, tmp_path):
    machine(8)
    source = "import os\nprint(os.environ['CHATLIB_DEVICE'])"
    path = tmp_path / "01_page.ipynb"
    pages.save(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    execute.execute([path], tmp_path)
    assert pages.load(path).cells[0].outputs[0].text == "cpu\n"


def test_a_check_computes_on_the_cpu_beside_any_cards(machine, tmp_path):
    machine(8)
    source = "from chatlib.settings.device import accelerator; print(accelerator())"
    check = runpy.run_path(str(pages.ROOT / ".ci" / "check.py"))
    step = check["Step"]("device", [sys.executable, "-c", source])
    check["run"](step, tmp_path)
    assert (step.status, step.last) == (0, "cpu")


def test_without_the_override_one_card_is_too_few_for_the_books_two_ranks(machine):
    machine(1)
    with pytest.raises(LaunchError, match="CHATLIB_DEVICE=cpu"):
        plan.require_gpus(2)
