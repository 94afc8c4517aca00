"""What holds for every test, and a folder of runs of one's own in which launches train nothing."""

import os

import faults
import pytest
from launches import use

from chatlib.runs import mutations

# Several test processes share the cores: with more threads than cores they wait for each other
# (on two cores all unit tests took 173 s with two threads each, 64 s with one).
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What only root can do is left out with a reason that begins so. `.ci/run` sets the variable where
# it runs as root: then leaving it out is an error (tests/test_check.py).
ROOT_ONLY = "needs root: "
NO_SKIPS = "CHATLIB_NO_SKIPS"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    if report.skipped and NO_SKIPS in os.environ and ROOT_ONLY in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"left out though {NO_SKIPS} is set: {report.longrepr[-1]}"
    return report


@pytest.fixture(autouse=True)
def unmutated():
    """No test leaves its mutations to the next: `monkeypatch` may bring one back that had ended."""
    yield
    os.environ.pop(mutations.VARIABLE, None)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of runs; launches in it use the light stage, and look at `$FAULT`."""
    use(tmp_path, monkeypatch)
    with faults.faulty(), faults.stage("light_stage"):
        yield tmp_path
