"""What holds for every test."""

import os

# Several test processes share the cores: with more threads than cores they wait for each other
# (on two cores all unit tests took 173 s with two threads each, 64 s with one).
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
