"""One real run to compare with."""

import pytest
from launches import tiny, use

from chatlib.lab import launch


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The finished run of `tiny()`: what nothing has disturbed, on this machine alone."""
    with pytest.MonkeyPatch.context() as patch:
        use(tmp_path_factory.mktemp("uninterrupted"), patch)
        return launch(tiny())
