"""The book of these tests, rendered once."""

import pytest


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """The folder of the book, rendered here with every warning an error."""
    from chatlib.book import render

    return render.render(build=tmp_path_factory.mktemp("book")).parent
