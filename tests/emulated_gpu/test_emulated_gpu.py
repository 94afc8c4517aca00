"""All stages on pretended GPUs: real `cuda` tensors, an NCCL group and DeepSpeed, on a CPU.

Nothing here was measured on a card: it shows where tensors lie, not what CUDA's kernels compute.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
pytestmark = [pytest.mark.launch, pytest.mark.timeout(240)]


def start(script, *words):
    """A Python process of its own; the device cannot be taken back."""
    command = [sys.executable, str(HERE / script), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, env=environment, **pipe)


def ended(*processes):
    """The end of all; fails with the first bad one's last lines and leaves none behind."""
    try:
        said = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said):
        assert process.returncode == 0, text[-3000:]


def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def device():
    """Skips where this torch's private parts do not let a GPU be pretended."""
    process = start("selfcheck.py")
    said, _ = process.communicate(timeout=60)
    if process.returncode:
        pytest.skip(f"no GPU can be pretended on this torch: {said.strip()[-300:]}")


@pytest.fixture(scope="module")
def found(device, tmp_path_factory):
    """The findings of rank 0 and rank 1."""
    folder, at = tmp_path_factory.mktemp("cards"), port()
    ended(*(start("stages_on_cards.py", rank, at, folder) for rank in (0, 1)))
    return [json.loads((folder / f"findings{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def mistakes(device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    ended(start("mistakes.py", port(), folder))
    return json.loads((folder / "mistakes.json").read_text())


def test_reductions_give_tensors_back_where_they_were(found):
    """PPO added a sum over the ranks to a CPU tensor, and reduced one that NCCL does not take."""
    for rank in found:
        assert rank["reductions"] == {
            f"{name}_over_ranks {place}": [place, values]
            for name, values in (("sum", [3.0, 9.0]), ("max", [2.0, 5.0]))
            for place in ("cpu", "cuda")
        }


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_stage_runs_on_two_cards_in_bf16(found, stage, zero):
    """The loss of the first step (PPO: the score of its answers) knows no ZeRO stage."""
    ours = [rank[f"{stage}{zero}"]["figures"] for rank in found]
    first = found[0][f"{stage}0"]["figures"]
    assert len(ours[0]) == 1
    assert ours[0] == pytest.approx(first, abs=2e-3)


def test_step_counts_of_a_universal_checkpoint_lie_where_the_fused_kernel_reads_them(found):
    assert [rank["steps"] for rank in found] == [["cuda", "cuda"]] * 2


@pytest.mark.parametrize("zero", [0, 3])
def test_adapters_are_trained_and_a_checkpoint_continues_bit_for_bit(found, zero):
    whole, rest = (found[0][f"lora{zero}{more}"]["figures"] for more in ("", " resumed"))
    assert len(whole) == 2 and whole[1:] == rest


def test_answers_drawn_on_cards_go_on_where_the_checkpoint_left_their_generator(found):
    whole, rest, anew = (
        found[0][f"drawn{more}"]["figures"] for more in ("", " resumed", " forgetful")
    )
    assert len(whole) == 2 and whole[1:] == rest
    assert whole[1:] != anew


def test_checkpointing_and_printed_answers_run_on_cards(found):
    assert found[0]["checkpointing"]["figures"]


def test_all_placement_mistakes_are_caught_but_the_legal_ones(mistakes):
    """Legal on CUDA: numbers, masks that only index, and answers may come from the host."""
    legal = {name for name in mistakes if name.startswith("legal")}
    assert len(mistakes) - len(legal) == 14
    missed = {name for name, said in mistakes.items() if said == "nothing"}
    assert missed == legal
    device_words = ("same device", "device type", "type cpu")
    for name in mistakes.keys() - legal:
        assert any(words in mistakes[name] for words in device_words), mistakes[name]
