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


def test_only_the_engine_and_the_process_that_forks_its_launcher_import_deepspeed():
    found = {
        path.relative_to(pages.ROOT).as_posix()
        for path in MODULES
        if any(
            name.split(".")[0] == "deepspeed" for name in imported(path.read_text(encoding="utf-8"))
        )
    }
    assert found == {"chatlib/train/engine.py", "chatlib/launch/warm.py"}


@pytest.mark.parametrize(
    "module",
    ["chatlib.lab", "chatlib.launch.launcher", "chatlib.settings.stages", "chatlib.runs.store"],
)
def test_what_a_notebook_touches_starts_nothing_heavy(module):
    heavy = ("torch", "deepspeed", "transformers", "datasets", "peft")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# What opens a file as a program, and the one place that may: DeepSpeed reads a checkpoint with
# pickle, and the engine asks it to only for checkpoints that runs of this user wrote.
PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNPICKLES = {"load_checkpoint", "read_pickle"}
STATED = {
    "chatlib/train/engine.py": {"load_checkpoint"},
    "chatlib/runs/mutations.py": {"exec"},  # the code of this user's own launching process
}


def given(call, keyword):
    """The literal that a call gives for a keyword; None without it, `...` when no literal."""
    for item in call.keywords:
        if item.arg == keyword:
            return item.value.value if isinstance(item.value, ast.Constant) else ...
    return None


def dangerous_call(call, torch_load):
    """What a call may run that is not ours, or None; `torch_load`: names that mean torch.load."""
    name = ast.unparse(call.func)
    if name in {"eval", "exec"} or name.split(".")[-1] in UNPICKLES:
        return name.split(".")[-1]
    if name in torch_load and given(call, "weights_only") is not True:
        return "torch.load"
    if given(call, "allow_pickle") not in (None, False):
        return "allow_pickle"
    return "trust_remote_code" if given(call, "trust_remote_code") not in (None, False) else None


def dangers(source):
    """Everything in a source that unpickles, or that runs code which came from elsewhere."""
    tree, found = ast.parse(source), {name.split(".")[0] for name in imported(source)} & PICKLERS
    torch_load = {"torch.load"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            torch_load |= {f"{a.asname}.load" for a in node.names if a.name == "torch" and a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            torch_load |= {a.asname or a.name for a in node.names if a.name == "load"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.add(dangerous_call(node, torch_load))
        elif isinstance(node, ast.Dict):  # options that are handed on with **
            pairs = {ast.unparse(k): ast.unparse(v) for k, v in zip(node.keys, node.values) if k}
            if pairs.get("'trust_remote_code'", "False") != "False":
                found.add("trust_remote_code")
    return found - {None}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_unpickles_or_trusts_foreign_code(path):
    found = dangers(path.read_text(encoding="utf-8"))
    assert found <= STATED.get(path.relative_to(pages.ROOT).as_posix(), set())


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from pickle import loads", "pickle"),
        ("import dill as d", "dill"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("torch.load(path, weights_only=chosen)", "torch.load"),
        ("import torch as t\nt.load(path)", "torch.load"),
        ("from torch import load as read\nread(path)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("pd.read_pickle(path)", "read_pickle"),
        ("engine.load_checkpoint(path)", "load_checkpoint"),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", "trust_remote_code"),
        ("AutoModel.from_pretrained(path, trust_remote_code = trusted)", "trust_remote_code"),
        ("options = {'trust_remote_code': True}", "trust_remote_code"),
        ("eval(text)", "eval"),
        ("exec(text, {})", "exec"),
    ],
)
def test_what_could_run_foreign_code_is_found(source, name):
    assert dangers(source) == {name}


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "torch.load(path, weights_only=True)",
        "json.load(file)",
        "AutoModel.from_pretrained(path, trust_remote_code=False)",
        "options = {'trust_remote_code': False}",
        "TEXT = 'trust_remote_code=True'",
    ],
)
def test_what_is_harmless_is_not_found(source):
    assert dangers(source) == set()
