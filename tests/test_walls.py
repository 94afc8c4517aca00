"""The walls between the rooms: what imports what, lazy imports included."""

import ast
import subprocess
import sys

import pytest

from chatlib.book import pages

PACKAGE = pages.ROOT / "chatlib"
MODULES = sorted(PACKAGE.rglob("*.py"))
# A room and what it may import: arrows run one way, down (`design.md`, the house).
BELOW = {
    "maths": set(),
    "settings": set(),
    "runs": {"settings"},
    "data": {"maths", "settings", "runs"},
    "train": {"maths", "settings", "runs", "data"},
    "launch": {"maths", "settings", "runs"},
    "lab": {"maths", "settings", "runs", "data", "launch"},
    "evaluate": {"maths", "settings", "runs", "data", "train", "launch", "lab"},
    "compress": {"maths", "settings", "runs", "data", "train", "launch", "lab"},
    "serve": {"maths", "settings", "runs", "data", "train", "launch", "lab"},
}
TOP = {"book", "cli", "__main__", "__init__"}  # these see everything


def imported(source, package="chatlib"):
    """The full names of all modules that a source imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name):
    """The room of a module of ours: `maths` of `chatlib.maths.policy`."""
    parts = name.split(".")
    return parts[1] if parts[0] == "chatlib" and len(parts) > 1 else None


def arrows_up(here, source):
    """The modules that a source of room `here` imports though they do not lie below it."""
    found = {name for name in imported(source, f"chatlib.{here}") if room(name)}
    allowed = {here, *BELOW.get(here, set())}
    return sorted(name for name in found if here not in TOP and room(name) not in allowed)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_run_down(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert here in {*BELOW, *TOP}, f"{here} is a room that the house does not have"
    up = arrows_up(here, path.read_text(encoding="utf-8"))
    assert not up, f"{path.relative_to(pages.ROOT)} imports {', '.join(up)}"


@pytest.mark.parametrize(
    ("here", "line"),  # as they stood at commit dd89704, in the rooms of then and now
    [
        ("train", "from chatlib.lab import runs"),
        ("train", "from chatlib.lab.plan import accelerator"),
        ("train", "from chatlib.launch.failures import PEER_LOST"),
        ("data", "from chatlib.lab.config import Source, StageConfig"),
        ("runs", "def plot(self):\n    from chatlib.lab import plots"),
        ("evaluate", "from chatlib.serve.chat import no_bar"),
        ("launch", "from chatlib.lab import display"),
        ("maths", "from ..data import collate"),
        ("lab", "import chatlib.train.models"),
    ],
)
def test_an_arrow_that_runs_up_is_found(here, line):
    assert arrows_up(here, line)


def test_only_the_engine_imports_deepspeed():
    found = {
        path.relative_to(pages.ROOT).as_posix()
        for path in MODULES
        if any(
            name.split(".")[0] == "deepspeed" for name in imported(path.read_text(encoding="utf-8"))
        )
    }
    assert found == {"chatlib/train/engine.py"}


@pytest.mark.parametrize(
    "module",
    ["chatlib.lab", "chatlib.launch.launcher", "chatlib.settings.stages", "chatlib.runs.store"],
)
def test_what_a_notebook_touches_starts_nothing_heavy(module):
    heavy = ("torch", "deepspeed", "transformers", "datasets", "peft")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_unpickles_or_trusts_foreign_code():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in text, path
        assert not any(name.split(".")[0] == "pickle" for name in imported(text)), path
