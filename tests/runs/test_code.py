"""What counts as an edit of the code that trains, and what does not."""

import ast
import json

import pytest

from chatlib.lab import profiles
from chatlib.runs import code, identity
from chatlib.settings.stages import LAUNCHED

BEFORE = '"""About."""\ndef f(x):\n    """Twice."""\n    return 2 * x  # why\n'


def fingerprint(source):
    return json.dumps(code.plain(ast.parse(source)))


@pytest.mark.parametrize(
    "after",
    ["def f(x):\n    return (2\n        * x)\n", BEFORE.replace("Twice", "Doubled")],
)
def test_wording_and_layout_do_not_count(after):
    assert fingerprint(BEFORE) == fingerprint(after)


@pytest.mark.parametrize(
    "after",
    [BEFORE.replace("2", "3"), BEFORE.replace("2", "2.0"), BEFORE.replace("f(x)", "f(x, y=1)")],
)
def test_an_edit_counts(after):
    assert fingerprint(BEFORE) != fingerprint(after)


def test_a_stage_has_the_files_that_it_imports_and_no_others():
    files = {stage: code.code_of(stage).keys() for stage in LAUNCHED}
    everywhere = {"train/engine.py", "data/template.py", "settings/stages.py"}
    assert all(everywhere <= names for names in files.values())
    assert {"train/ppo.py", "train/reward.py", "maths/policy.py"} <= files["ppo"]
    assert not {"train/ppo.py", "maths/policy.py"} & files["sft"]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A package of ours that may be edited."""
    for name in ("maths/policy.py", "train/ppo.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "train" / "ppo.py").write_text("from chatlib.maths import policy\n")
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    return tmp_path


def test_the_changed_file_is_named(copied):
    before = code.code_of("ppo")
    (copied / "maths" / "policy.py").write_text("x = 22\n")
    assert code.changed_files(before, code.code_of("ppo")) == ["maths/policy.py"]


def test_code_that_is_no_python_is_another_run(copied):
    before = code.code_of("ppo")
    (copied / "maths" / "policy.py").write_text("x = (\n")
    assert code.changed_files(before, code.code_of("ppo")) == ["maths/policy.py"]


def test_a_file_is_read_once_for_all_names(home, monkeypatch):
    model = home / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "weights").write_bytes(b"0" * 1000)
    read, original = [], identity._sha256.__wrapped__
    identity._sha256.cache_clear()
    monkeypatch.setattr(
        identity, "_sha256", identity.functools.cache(lambda *a: read.append(a) or original(*a))
    )
    for _ in range(3):
        config = profiles.recipe("ppo", model=str(model), reward_model=str(model))
        identity.run_name(config)
    assert len(read) == 2
    (model / "weights").write_bytes(b"1" * 1000)
    identity.run_name(config)
    assert len(read) == 3
