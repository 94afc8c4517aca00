"""The command line: options from the configuration's fields, and a sentence for bad input."""

import json

import pytest

from chatlib.__main__ import main
from chatlib.lab import runs
from chatlib.lab.config import STAGES

COMMANDS = [[], ["sft"], ["reward"], ["ppo"], ["e2e"], ["slurm"], ["runs"], ["chat"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    fields = STAGES[command[0]].model_fields if command and command[0] in STAGES else {}
    assert all(f"--{name}" in printed for name in fields if name != "stage")


def test_options_win_over_the_file(home, capsys):
    file = home / "settings.json"
    file.write_text(json.dumps({"steps": 7, "learning_rate": 0.5}))
    options = ["--config", str(file), "--steps", "9", "--offload", "--zero_stage", "3"]
    nested = ["--model", '{"hidden_size": 64}', "--lora", '{"lora_dim": 2}', "--dtype", "fp32"]
    assert main(["sft", "--dry-run", *options, *nested]) == 0
    printed = capsys.readouterr().out
    assert '"stage": 3' in printed and "offload_param" in printed and "weights 0.4 MiB" in printed


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["sft", "--learning_rate", "-1"], "`learning_rate` is -1: Input should be greater than 0"),
        (["sft", "--steps", "many"], "`steps` is 'many': Input should be a valid integer"),
        (["sft", "--batch_size", "7"], "batch_size 7 cannot be divided among ranks 2"),
        (["reward"], "`model`: Field required"),
        (["sft", "--sources", "gone.json"], "gone.json cannot be read (No such file"),
        (["sft", "--config", "gone.json"], "No such file or directory: 'gone.json'"),
    ],
)
def test_bad_input_gets_a_sentence(home, capsys, arguments, sentence):
    assert main([*arguments, "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and "Traceback" not in captured.err


def test_a_model_that_was_not_trained_yet(home, capsys):
    assert main(["reward", "--model", "run:none"]) == 2
    assert "run:none is no finished run in" in capsys.readouterr().err
    assert list(home.iterdir()) == []
    assert main(["reward", "--model", "run:none", "--dry-run"]) == 0
    assert "unknown: a model is not on this machine" in capsys.readouterr().out


def test_the_whole_pipeline_can_be_planned_before_anything_is_trained(home, capsys):
    assert main(["e2e", "--dry-run", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert [printed.count(f"{stage}-") > 0 for stage in STAGES] == [True] * 3
    assert list(home.iterdir()) == []


def test_a_config_file_that_is_no_json(home, capsys):
    (home / "c.json").write_text('{\n"steps": 3,\n}')
    assert main(["sft", "--config", str(home / "c.json")]) == 2
    assert "c.json, line 3: no JSON" in capsys.readouterr().err


def test_an_option_that_does_not_exist(capsys):
    with pytest.raises(SystemExit):
        main(["sft", "--learning_rat", "1"])
    assert "no such option: --learning_rat 1" in capsys.readouterr().err


def test_runs_are_listed(home, capsys):
    assert main(["runs"]) == 0
    assert "no runs in" in capsys.readouterr().out
    (home / "sft-1").mkdir()
    runs.write_json(home / "sft-1" / "manifest.json", {"status": "complete", "seconds": 61.2})
    main(["runs"])
    assert capsys.readouterr().out.split()[:5] == ["sft-1", "complete", "0", "steps", "61"]
