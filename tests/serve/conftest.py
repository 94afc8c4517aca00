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
