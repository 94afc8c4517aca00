"""`make test` and `make check`: which steps, which finished runs, and what may be left out."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from chatlib.book import pages

SCRIPT = pages.ROOT / ".ci" / "check.py"


@pytest.fixture(scope="module")
def check():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("check", SCRIPT)
    sys.modules["check"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def names(steps):
    return [step.name for step in steps]


def test_make_check_is_the_quick_part_of_make_test(check):
    quick, whole = names(check.chosen([], "check")), names(check.chosen([], "test"))
    assert quick == ["lint", "format", "spelling", "types", "fast"]
    assert [*quick[:-1], "stored", "book", "unit", "launch", "notebooks"] == whole
    assert all((pages.ROOT / path).exists() for path in check.FAST)


def test_help_and_list_start_nothing():
    listed = script("--list", "lint", "unit").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["lint", "unit"]
    assert "--fresh" in script("--help").stdout


def test_an_unknown_step_gets_a_sentence():
    done = script("unt")
    assert done.returncode == 2 and "no step unt; there are lint, format" in done.stderr


def finished(runs, name, status="complete"):
    (runs / name).mkdir(parents=True)
    (runs / name / "manifest.json").write_text(json.dumps({"status": status}))


def test_finished_runs_of_the_same_code_are_reused(check, tmp_path):
    check.prepare(tmp_path, fresh=False)
    finished(tmp_path, "sft-1")
    finished(tmp_path, "ppo-1", status="interrupted")
    (tmp_path / "half").mkdir()
    check.prepare(tmp_path, fresh=False)
    assert [path.name for path in tmp_path.glob("*/")] == ["sft-1"]


def test_runs_of_other_code_and_of_a_fresh_start_are_not(check, tmp_path, monkeypatch):
    for fresh, code in ((True, "now"), (False, "edited")):
        finished(tmp_path, "sft-1")
        (tmp_path / check.STAMP).write_text("now")
        monkeypatch.setattr(check, "code", lambda code=code: code)
        check.prepare(tmp_path, fresh=fresh)
        assert not list(tmp_path.glob("*/"))


def test_an_edit_is_another_code_and_a_comment_is_not(check, tmp_path, monkeypatch):
    monkeypatch.setattr(check.pages, "ROOT", tmp_path)
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "constraints.txt").touch()
    (tmp_path / "chatlib").mkdir()
    found = []
    for text in ("x = 1\n", "x = 1  # one\n", "x = 2\n"):
        (tmp_path / "chatlib" / "a.py").write_text(text)
        found.append(check.code())
    assert found[0] == found[1] != found[2]
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert check.code() != found[2], "runs of a processor that is played are not this one's"


@pytest.mark.parametrize("environment, reused", [({}, True), ({"CI": "true"}, False)])
def test_nothing_is_reused_in_ci(check, monkeypatch, environment, reused):
    asked = []
    monkeypatch.delenv("CI", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(check, "prepare", lambda runs, fresh: asked.append(fresh))
    monkeypatch.setattr(check, "run", lambda step, runs: setattr(step, "status", 0))
    monkeypatch.setattr(sys, "argv", ["check.py", "lint"])
    assert check.main() == 0 and asked == [not reused]


SKIPPED = """
import pytest
def test_of_root(): pytest.skip("needs root: mounting")
def test_of_a_card(): pytest.skip("no card")
"""


@pytest.mark.parametrize("variable, code", [(None, 0), ("1", 1)])
def test_leaving_out_what_needs_root_is_an_error_where_ci_is_root(tmp_path, variable, code):
    (tmp_path / "conftest.py").write_text((pages.ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(SKIPPED)
    environment = {k: v for k, v in os.environ.items() if k != "CHATLIB_NO_SKIPS"}
    environment |= {"PYTHONPATH": str(pages.ROOT / "tests" / "launch") + f":{pages.ROOT}"}
    environment |= {"CHATLIB_NO_SKIPS": variable} if variable else {}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert "no card" in done.stdout and ("1 failed" in done.stdout) == bool(code)
