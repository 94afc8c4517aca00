"""A folder of runs of one's own, in which launches train nothing."""

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of runs; launches in it use the light stage."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CHATLIB_PROGRESS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHATLIB_RUNS", str(tmp_path))
    monkeypatch.setenv("CHATLIB_PROGRESS", "none")
    monkeypatch.setenv("CHATLIB_STAGE_MODULE", "light_stage")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return tmp_path
