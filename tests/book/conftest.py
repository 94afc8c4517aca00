"""The book of these tests, rendered once, and the browser that looks at it."""

import pytest
from chromium import driven, needed


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """The folder of the book, rendered here with every warning an error."""
    from chatlib.book import render

    return render.render(build=tmp_path_factory.mktemp("book")).parent


@pytest.fixture(scope="module")
def chromium():
    """A Chromium without a network; where there is none, the tests that ask for it say why."""
    needed()
    with driven() as browser:
        yield browser
