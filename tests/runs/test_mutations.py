"""A mutation replaces a name for everybody in a rank, and a mutant passes for nothing else."""

import os
import subprocess
import sys

import pytest
from launches import config

from chatlib.runs import mutations
from chatlib.runs.mutations import mutated
from chatlib.runs.store import run_of

LOSS = "chatlib.maths.likelihood.token_log_probs"


def in_a_rank(code):
    """What code prints in a process that has applied the mutations in force."""
    before = "from chatlib.runs import mutations\n"
    command = [sys.executable, "-c", before + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_it_reaches_those_who_imported_the_name_before_and_after(home):
    code = """
from chatlib.maths.likelihood import masked_mean
from chatlib.maths import policy
mutations.apply()
from chatlib.maths.likelihood import masked_mean as later
print(policy.masked_mean(1, 2), later(1, 2), masked_mean is later.__wrapped__)
"""
    with mutated("chatlib.maths.likelihood.masked_mean", "def masked_mean(x, mask): return 'm'"):
        done = in_a_rank(code)
    assert done.stdout == "m m True\n", done.stderr


def test_source_sees_its_module_and_the_original(home):
    source = "def is_complete(folder):\n    return read_json, is_complete.__wrapped__(folder)\n"
    code = """
from pathlib import Path
mutations.apply()
from chatlib.runs import store
print(store.is_complete(Path("nowhere"))[1], store.is_complete(Path("nowhere"))[0].__name__)
"""
    with mutated("chatlib.runs.identity.is_complete", source):
        assert in_a_rank(code).stdout == "False read_json\n"


def test_a_mutant_has_another_name_which_its_source_decides(home):
    names = [run_of(config()).name]
    for source in ("def f(): return 1", "def f(): return 2"):
        with mutated(LOSS, source):
            names.append(run_of(config()).name)
    assert len(set(names)) == 3 and run_of(config()).name == names[0]


def test_a_function_of_a_file_counts_with_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mutants.py").write_text("def f(): return 1\n")
    before = mutations.digest("mutants:f")
    (tmp_path / "mutants.py").write_text("def f(): return 2\n")
    assert mutations.digest("mutants:f") != before


def test_mutations_add_up_and_end(home, monkeypatch):
    monkeypatch.delenv(mutations.VARIABLE)
    with mutated("a.b", "def f(): 1"):
        with mutated("a.c", "def f(): 2"):
            assert set(mutations.in_force()) == {"a.b", "a.c"}
        assert set(mutations.in_force()) == {"a.b"}
    assert mutations.VARIABLE not in os.environ


@pytest.mark.parametrize(
    "by, sentence",
    [
        ("def f(:", "is no Python"),
        ("x = 1", "defines no function; end it with one"),
        ("no_such_module:f", "no_such_module cannot be found; put it on PYTHONPATH"),
    ],
)
def test_a_bad_mutation_gets_a_sentence(by, sentence):
    with pytest.raises(ValueError, match=sentence), mutated(LOSS, by):
        pass
