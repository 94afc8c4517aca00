"""The walls between the parts: what imports what."""

import ast
import subprocess
import sys

import pytest

from chatlib.book import pages

MODULES = sorted((pages.ROOT / "chatlib").rglob("*.py"))


def imported(path):
    """The names of all modules that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_only_the_engine_imports_deepspeed():
    found = {
        path.relative_to(pages.ROOT).as_posix()
        for path in MODULES
        if any(name.split(".")[0] == "deepspeed" for name in imported(path))
    }
    assert found == {"chatlib/train/engine.py"}


@pytest.mark.parametrize("part", ["maths", "data"])
def test_training_builds_on_maths_and_data_and_not_the_other_way(part):
    for path in (pages.ROOT / "chatlib" / part).glob("*.py"):
        above = [name for name in imported(path) if name.startswith(("chatlib.train", "chatlib.e"))]
        assert not above, f"{path.name} imports {above}"


@pytest.mark.parametrize("module", ["chatlib.lab", "chatlib.lab.launch", "chatlib.lab.config"])
def test_what_a_notebook_touches_starts_nothing_heavy(module):
    heavy = ("torch", "deepspeed", "transformers", "datasets", "peft")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_unpickles_or_trusts_foreign_code():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in text, path
        assert not any(name.split(".")[0] == "pickle" for name in imported(path)), path
