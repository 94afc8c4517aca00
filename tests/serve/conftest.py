"""The tiny model of these tests, made once."""

import pytest
from tiny_chat_model import save


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def assistant(folder):
    from chatlib.serve import chat

    return chat.load(folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second model, which answers otherwise."""
    from chatlib.serve import chat

    return chat.load(save(tmp_path_factory.mktemp("second"), seed=1))


@pytest.fixture(scope="module")
def url(assistant, other):
    """A server with both models; its address."""
    from served import serving

    with serving([assistant, other]) as where:
        yield where
