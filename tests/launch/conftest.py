"""A folder of runs of one's own, in which launches train nothing; and one real run to compare."""

from pathlib import Path

import pytest
from launches import tiny

from chatlib.lab import launch


def use(folder, patch):
    """Let launches keep their runs in `folder`, quietly, and find the stages of these tests."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CHATLIB_PROGRESS_FILE"):
        patch.delenv(name, raising=False)
    patch.setenv("CHATLIB_RUNS", str(folder))
    patch.setenv("CHATLIB_PROGRESS", "none")
    patch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of runs; launches in it use the light stage."""
    use(tmp_path, monkeypatch)
    monkeypatch.setenv("CHATLIB_STAGE_MODULE", "light_stage")
    return tmp_path


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The finished run of `tiny()`: what nothing has disturbed, on this machine alone."""
    with pytest.MonkeyPatch.context() as patch:
        use(tmp_path_factory.mktemp("uninterrupted"), patch)
        return launch(tiny())
