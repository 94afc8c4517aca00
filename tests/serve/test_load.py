"""Clients that stream from a real server: what they read, in which order, and when."""

import time

import pytest
from served import ORDER, alone, serving

from chatlib.serve import chat, desk, load
from chatlib.serve.server import Access

TOKENS = 12
TEXTS = [ORDER, "it is due", "order", "Thursday", "is it"]


def prompts():
    return [[{"role": "user", "content": text}] for text in TEXTS]


@pytest.mark.parametrize("clients", [1, 2, 8])
def test_every_client_reads_its_own_answers(url, assistant, clients):
    got = load.ask(url, assistant.name, prompts(), clients, max_tokens=TOKENS)
    assert got.texts == [alone(assistant, text, TOKENS).strip() for text in TEXTS]
    for one in got.answers:
        assert 0 < one.first <= one.seconds <= got.seconds


@pytest.fixture
def slow(assistant, monkeypatch):
    """A server whose model takes a while for every piece; its address."""

    def slowly(assistant, asked, put):
        def later(piece):
            time.sleep(0.05)
            put(piece)

        chat.generate(assistant, asked, later)

    monkeypatch.setattr(desk, "generate", slowly)
    with serving([assistant]) as where:
        yield where


def test_the_first_text_comes_before_the_end(slow, assistant):
    got = load.ask(slow, assistant.name, prompts()[:2], 1, max_tokens=TOKENS)
    for one in got.answers:
        assert one.first < 0.7 * one.seconds


def test_who_comes_last_waits_for_the_others(slow, assistant):
    asked = prompts()[:1] * 4
    one, four = (load.ask(slow, assistant.name, asked, n, max_tokens=TOKENS) for n in (1, 4))
    assert four.first > 1.5 * one.first


def test_a_refusal_is_raised_with_its_sentence(assistant):
    with serving([assistant], access=Access(key="right")) as url:
        with pytest.raises(RuntimeError, match="the API key is missing or wrong"):
            load.ask(url, assistant.name, prompts()[:1], 1, "wrong")
        assert load.ask(url, assistant.name, prompts()[:1], 1, "right", max_tokens=1).answers
