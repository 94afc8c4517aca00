"""What holds for every test, and a folder of runs of one's own in which launches train nothing."""

import os

import faults
import pytest
from launches import use

# Several test processes share the cores: with more threads than cores they wait for each other
# (on two cores all unit tests took 173 s with two threads each, 64 s with one).
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of runs; launches in it use the light stage, and look at `$FAULT`."""
    use(tmp_path, monkeypatch)
    with faults.faulty(), faults.stage("light_stage"):
        yield tmp_path
