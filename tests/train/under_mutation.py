"""A pytest plugin: the tests that the museum names run as they are, and with each mistake.

`pytest -p under_mutation --verdicts FILE NODE_IDS` writes how each ended, by the exhibit's name:
the outcome, the kind of error, and whether the test raised it (no mutant may die by crashing).
Fixtures of the session are made by a test that runs as it is, so that no mistake is in them.
"""

import contextlib
import copy
import json
import pkgutil
import sys
from pathlib import Path

import pytest

from chatlib.book import museum
from chatlib.runs import mutations

VERDICTS = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--verdicts", type=Path, help="where to write how the tests ended")


def pytest_configure(config):
    config.stash[VERDICTS] = {}


def pytest_collection_modifyitems(items):
    """After each test the same one once more for every exhibit that names it."""
    own = []
    for item in items:
        naming = [one for one in museum.EXHIBITS if names(one.test, item.nodeid)]
        item.exhibit, item.test = None, naming[0].test if naming else item.nodeid
        own += [item, *(twin(item, exhibit) for exhibit in naming)]
    items[:] = own


def names(test, node):
    """Whether a node id is that of a test, or of one of its parameters."""
    return node == test or node.startswith(f"{test}[")


def twin(item, exhibit):
    """The same test, to be run with a mistake in place."""
    other = copy.copy(item)
    other.exhibit = exhibit
    other._initrequest()
    return other


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with in_place(item.exhibit) if item.exhibit else contextlib.nullcontext():
        return (yield)


@contextlib.contextmanager
def in_place(exhibit):
    """The mistake in this process, in the tests that hold the function by its name as well."""
    with exhibit.on_show(), pytest.MonkeyPatch.context() as patch:
        healthy = {edit.where: pkgutil.resolve_name(edit.where) for edit in exhibit.edits}
        for function in healthy.values():
            for holder, alias in holders(function):  # so that it is undone where it is applied
                patch.setattr(holder, alias, function)
        known = {name: list(holders(function)) for name, function in healthy.items()}
        mutations.apply()
        for name in healthy:
            mutant = pkgutil.resolve_name(name)
            for holder, alias in known[name]:
                setattr(holder, alias, mutant)
        yield


def holders(function):
    """(module or class, name) wherever code of this repository has a function."""
    root = str(Path(museum.__file__).parents[2])
    for module in list(sys.modules.values()):
        if str(getattr(module, "__file__", None) or "").startswith(root):
            yield from ((module, name) for name, v in vars(module).items() if v is function)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" or call.excinfo:
        name = item.exhibit.name if item.exhibit else item.test + museum.AS_IT_IS
        known, found = item.config.stash[VERDICTS], verdict(item, call, report)
        if known.get(name, {}).get("outcome") != "failed":  # of several parameters one is enough
            known[name] = found
    return report


def verdict(item, call, report):
    """How a test ended, and if it failed what it said and whether the test itself said it."""
    found = {"outcome": report.outcome, "when": call.when, "seconds": round(call.duration, 2)}
    if call.excinfo:
        places = [Path(str(entry.path)) for entry in call.excinfo.traceback[-3:]]
        found |= {"error": call.excinfo.typename, "own": item.path in places}
    return found


def pytest_sessionfinish(session):
    if path := session.config.getoption("--verdicts"):
        path.write_text(json.dumps(session.config.stash[VERDICTS], indent=1))
