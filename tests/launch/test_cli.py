"""The command line: options from the configuration's fields, and a sentence for bad input."""

import json

import pytest

from chatlib.cli import main, table
from chatlib.lab import profiles
from chatlib.runs import identity
from chatlib.runs.files import write_json
from chatlib.runs.store import Run
from chatlib.settings.stages import STAGES, SFTConfig

COMMANDS = [[], ["sft"], ["reward"], ["ppo"], ["e2e"], ["slurm"], ["runs"], ["chat"]]


@pytest.fixture(autouse=True)
def no_profile(monkeypatch):
    monkeypatch.delenv("CHATLIB_PROFILE", raising=False)


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
    assert main(["e2e", "--dry-run", "--seed", "3", "--profile", "laptop"]) == 0
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


def finished(home, name, **manifest):
    """A run with nothing but a manifest."""
    (home / name).mkdir()
    write_json(home / name / "manifest.json", {"status": "complete", **manifest})
    return Run(home / name)


def test_runs_are_listed(home, capsys):
    assert main(["runs"]) == 0
    assert "no runs in" in capsys.readouterr().out
    finished(home, "sft-1", seconds=61.2)
    main(["runs"])
    assert capsys.readouterr().out.split()[:5] == ["sft-1", "complete", "0", "steps", "61"]


def test_a_row_of_an_evaluation_is_no_step(home, capsys):
    run = finished(home, "sft-1")
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "held_out_loss": 1.6}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run.directory / "metrics.jsonl").write_text(lines)
    main(["runs"])
    assert capsys.readouterr().out.split()[1:4] == ["complete", "2", "steps"]


# ------------------------------------------------------------------ a stage's profile


def planned(capsys, *arguments):
    """The name of the run that a dry run plans."""
    assert main([*arguments, "--dry-run"]) == 0
    return capsys.readouterr().out.split("\n")[0].split("/")[-1]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_starts_from_the_recipe_of_a_profile(stage, home, capsys, monkeypatch):
    expected = identity.run_name(profiles.recipe(stage, 3, "laptop"))
    assert planned(capsys, stage, "--profile", "laptop", "--seed", "3") == expected
    monkeypatch.setenv("CHATLIB_PROFILE", "laptop")
    assert planned(capsys, stage, "--seed", "3") == expected


def test_file_and_options_win_over_the_profile(home, capsys, monkeypatch):
    file = home / "settings.json"
    file.write_text(json.dumps({"steps": 7, "batch_size": 8}))
    options = ["sft", "--config", str(file), "--steps", "9"]
    changed = profiles.recipe("sft", profile="laptop", steps=9, batch_size=8)
    assert planned(capsys, *options, "--profile", "laptop") == identity.run_name(changed)
    monkeypatch.setenv("CHATLIB_PROFILE", "laptop")  # a file means the same everywhere
    assert planned(capsys, *options) == identity.run_name(SFTConfig(steps=9, batch_size=8))


def test_without_a_profile_a_stage_starts_from_its_defaults(home, capsys):
    assert planned(capsys, "sft", "--steps", "9") == identity.run_name(SFTConfig(steps=9))


def test_a_profile_that_does_not_exist(home, capsys):
    assert main(["sft", "--dry-run", "--profile", "desktop"]) == 2
    assert "profile 'desktop' does not exist; use laptop, gpu" in capsys.readouterr().err


# --------------------------------------------------------------- what was reached


def test_the_table_has_a_column_a_run_with_its_seconds_and_tokens(home):
    sft = finished(
        home, "sft-1", world=2, seed=0, seconds=61.25, tokens=1_234_567, peak_bytes=[2**30, 2**29]
    )
    ppo = finished(home, "ppo-1", seconds=9, tokens=10, beta=0.05, data_report=["shop: 9 records"])
    lines = [line.split() for line in table([sft, ppo]).splitlines()]
    assert lines == [
        ["sft-1", "ppo-1"],
        ["seconds", "61.250", "9"],
        ["tokens", "1,234,567", "10"],
        ["peak", "MiB/rank", "1024", "512"],
        ["beta", "0.050"],
        ["sft-1:", str(sft.model_dir)],
        ["ppo-1:", str(ppo.model_dir)],
    ]


def test_a_figure_stands_below_its_run(home):
    """A run without the figure leaves its place empty."""
    one, two = finished(home, "sft-1", seconds=1), finished(home, "ppo-1", beta=0.05)
    head, seconds, beta = table([one, two]).splitlines()[:3]
    assert seconds.index("1") == head.index("sft-1")
    assert beta.index("0.050") == head.index("ppo-1")
