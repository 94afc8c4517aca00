"""The command line: options from the configuration's fields, and a sentence for bad input."""

import fcntl
import json
import subprocess
import sys
from threading import Timer

import pytest

from chatlib.cli import COMMANDS, main
from chatlib.cli.options import nested, option, words
from chatlib.cli.stages import table
from chatlib.lab import profiles
from chatlib.runs import identity
from chatlib.runs.files import write_json
from chatlib.runs.store import Run
from chatlib.settings.corpora import CORPORA
from chatlib.settings.registry import STAGES
from chatlib.settings.stages import SFTConfig, choices


@pytest.fixture(autouse=True)
def no_profile(monkeypatch):
    monkeypatch.delenv("CHATLIB_PROFILE", raising=False)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*filter(None, [command]), "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: chatlib" in printed
    for name, field in STAGES[command].model_fields.items() if command in STAGES else ():
        assert name == "stage" or f"--{name.replace('_', '-')}" in printed
        for inner in nested(field):
            assert f"--{name}.{inner}".replace("_", "-") in printed


@pytest.mark.parametrize("stage", STAGES)
def test_help_has_an_example_of_every_list_and_nested_setting(stage):
    for name, field in STAGES[stage].model_fields.items():
        inner = nested(field)
        lists = {n: f for n, f in {name: field, **inner}.items() if words(f) not in (str, bool)}
        lists = {n for n, f in lists.items() if not choices(f.annotation)}
        for one in lists | ({name} if inner else set()):
            kind = option(one, inner.get(one, field), inside=name)
            assert f"--{one}".replace("_", "-") in kind.__metadata__[0].help or one in inner, one
            assert "--" in kind.__metadata__[0].help, one


def settings(home, *arguments):
    """The settings that a stage's options amount to, from a dry run's plan."""
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chatlib.cli.stages.launch", lambda config, **how: taken.append(config))
        assert main(["sft", "--dry-run", *arguments]) == 0
    return taken[0]


def test_both_spellings_name_the_same_option(home):
    dashed = ["--learning-rate", "0.5", "--lora.lora-dim", "3", "--num-warmup-steps", "4"]
    expected = SFTConfig(learning_rate=0.5, lora={"lora_dim": 3}, num_warmup_steps=4)
    assert settings(home, *dashed) == expected
    underlined = [word.replace("-", "_").replace("__", "--") for word in dashed]
    assert settings(home, *underlined) == expected


def test_lists_are_words_and_nested_settings_are_options(home):
    (home / "a.jsonl").touch()
    words = ["--sources", "shop", '{"name": "a.jsonl", "weight": 2}', "--split", "2", "4", "4"]
    more = ["--betas", "0.8", "0.9", "--model.hidden-size", "64", "--lora"]
    assert settings(home, *words, *more) == SFTConfig(
        sources=["shop", {"name": "a.jsonl", "weight": 2}],
        split=(2, 4, 4),
        betas=(0.8, 0.9),
        model={"hidden_size": 64},
        lora={},
    )
    assert settings(home, "--zero-stage", "2", "--offload").offload


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_corpus_of_the_book_is_a_source_by_its_name_alone_or_blended(home, corpus):
    assert settings(home, "--sources", corpus) == SFTConfig(sources=corpus)
    blended = settings(home, "--sources", "shop", f'{{"name": "{corpus}", "weight": 2}}')
    assert [source.weight for source in blended.sources] == [1.0, 2.0]


def test_an_option_changes_only_a_part_of_a_nested_setting(home):
    file = home / "settings.json"
    file.write_text(json.dumps({"lora": {"lora_dim": 2, "lora_alpha": 3.0}}))
    begun = ["--config", str(file)]
    assert settings(home, *begun, "--lora.lora-alpha", "5").lora.model_dump() == {
        **SFTConfig(lora={}).lora.model_dump(),
        "lora_dim": 2,
        "lora_alpha": 5.0,
    }
    assert settings(home, *begun, "--lora").lora.lora_dim == 2
    assert settings(home, *begun, "--no-lora").lora is None
    assert settings(home, *begun).lora.lora_dim == 2


def test_a_model_is_one_or_is_made_from_scratch(home, capsys):
    assert main(["sft", "--dry-run", "--model", "x", "--model.layers", "3"]) == 2
    assert "--model and --model.layers were given; give one of them" in capsys.readouterr().err


def test_options_win_over_the_file(home, capsys):
    file = home / "settings.json"
    file.write_text(json.dumps({"steps": 7, "learning_rate": 0.5}))
    taken = settings(home, "--config", str(file), "--steps", "9")
    assert taken == SFTConfig(steps=9, learning_rate=0.5)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["sft", "--learning_rate", "-1"], "`learning_rate` is -1: Input should be greater than 0"),
        (["sft", "--steps", "many"], "`steps` is 'many': Input should be a valid integer"),
        (["sft", "--batch_size", "7"], "batch_size 7 cannot be divided among ranks 2"),
        (["reward"], "`model`: Field required"),
        (["sft", "--sources", "gone.json"], "gone.json: no such file; check the name"),
        (["sft", "--config", "gone.json"], "gone.json cannot be read (No such file"),
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
    assert all(f"{stage}-" in printed for stage in ("sft", "reward", "ppo"))
    assert list(home.iterdir()) == []


def test_a_config_file_that_is_no_json(home, capsys):
    (home / "c.json").write_text('{\n"steps": 3,\n}')
    assert main(["sft", "--config", str(home / "c.json")]) == 2
    assert "c.json, line 3: no JSON" in capsys.readouterr().err


def test_an_option_that_does_not_exist(capsys):
    with pytest.raises(SystemExit):
        main(["sft", "--learning_rat", "1"])
    said = capsys.readouterr().err
    assert "Unrecognized options: --learning_rat" in said and "--learning-rate" in said


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


# ------------------------------------------------------------------ runs by name


def with_log(home, name, **manifest):
    """A run with a log of rank 0, settings and figures."""
    run = finished(home, name, seconds=2.0, data_report=["a.jsonl: 3 of 4 rows"], **manifest)
    write_json(run.directory / "config.json", {"steps": 2, "lora": None})
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "held_out_loss": 1.6}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run.directory / "metrics.jsonl").write_text(lines)
    (run.directory / "log").mkdir()
    (run.directory / "log" / "rank0.txt").write_text("first\n")
    return run


def test_runs_as_json(home, capsys):
    run = with_log(home, "sft-1")
    assert main(["runs", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["directory"] == str(run.directory)
    assert (row["name"], row["status"], row["step"], row["seconds"]) == ("sft-1", "complete", 2, 2)


def test_show_has_settings_manifest_data_and_last_figures(home, capsys):
    with_log(home, "sft-12345678", world=2)
    assert main(["show", "sft-1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for expected in (["steps", "2"], ["world", "2"], ["loss", "1.5"], ["held_out_loss", "1.6"]):
        assert expected in lines
    assert ["a.jsonl:", "3", "of", "4", "rows"] in lines
    assert main(["show", "sft-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["last figures"]["held_out_loss"] == 1.6


def test_the_beginning_of_a_name_has_to_be_one_run_s(home, capsys):
    with_log(home, "sft-12")
    with_log(home, "sft-13")
    assert main(["show", "sft-1"]) == 2
    assert "'sft-1' begins sft-12, sft-13; give more" in capsys.readouterr().err
    assert main(["show", "ppo"]) == 2 and "no run 'ppo' in" in capsys.readouterr().err
    assert main(["show", "run:sft-13"]) == 0


def held(directory):
    """The lock of a live run."""
    lock = open(directory / "lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_logs_are_printed_and_followed_to_the_end_of_the_run(home, capsys):
    run = with_log(home, "sft-1")
    assert main(["logs", "sft-1"]) == 0 and capsys.readouterr().out == "first\n"
    assert main(["logs", "sft-1", "--rank", "3"]) == 2
    assert "no log of rank 3; it has those of rank 0" in capsys.readouterr().err
    lock = held(run.directory)

    def goes_on():
        with open(run.directory / "log" / "rank0.txt", "a") as log:
            log.write("last\n")
        lock.close()

    Timer(0.5, goes_on).start()
    assert main(["logs", "sft-1", "-f"]) == 0
    assert capsys.readouterr().out == "first\nlast\n"


def test_rm_asks_and_spares_what_lives(home, capsys, monkeypatch):
    run, other = with_log(home, "sft-1"), with_log(home, "sft-2")
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert main(["rm", "sft-1"]) == 1 and run.directory.is_dir()
    lock = held(other.directory)
    assert main(["rm", "sft-1", "sft-2", "--yes"]) == 2
    assert "sft-2 is live; stop it" in capsys.readouterr().err
    assert run.directory.is_dir() and other.directory.is_dir()
    lock.close()
    assert main(["rm", "sft-1", "sft-2", "--yes"]) == 0
    assert not run.directory.exists() and not other.directory.exists()


def test_rm_removes_nothing_outside_the_folder_of_runs(home, capsys, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with_log(elsewhere, "sft-9")
    (home / "sft-1").symlink_to(elsewhere / "sft-9")
    assert main(["rm", "sft-1", "--yes"]) == 2
    assert "is a link to another place" in capsys.readouterr().err
    assert main(["rm", "../sft-9", "--yes"]) == 2 and main(["rm", str(elsewhere), "--yes"]) == 2
    assert (elsewhere / "sft-9" / "manifest.json").exists()


def test_version_and_completion(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("chatlib 0.1")
    with pytest.raises(SystemExit) as end:
        main(["--tyro-print-completion", "bash"])
    printed = capsys.readouterr().out
    assert not end.value.code and "--learning-rate" in printed and "logs" in printed


@pytest.mark.parametrize("command", [["--help"], ["runs"], ["sft", "--dry-run"]])
def test_what_needs_no_model_imports_no_torch(home, command):
    code = "import sys; from chatlib.cli import main\ntry: main(sys.argv[1:])\nfinally: "
    code += "assert 'torch' not in sys.modules"
    ran = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


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
    assert "profile 'desktop' does not exist; use laptop, small, gpu" in capsys.readouterr().err


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


def test_how_a_stage_is_launched_reaches_the_launch(monkeypatch):
    seen = {}
    monkeypatch.setattr("chatlib.cli.stages.launch", lambda config, **how: seen.update(how))
    main(["sft", "--dry-run", "--resume", "--force", "--fresh", "--port", "29511"])
    assert {k: v for k, v in seen.items() if v} == {
        "dry_run": True,
        "resume": True,
        "force": True,
        "fresh": True,
        "port": 29511,
    }
