"""The dialogue in a terminal: what is typed, what is shown, what a script gets."""

import re
import sys

from tiny_chat_model import save

from chatlib.cli import main
from chatlib.serve import terminal as shown_by
from chatlib.serve.chat import Chat, Sampling


def terminal(monkeypatch, capsys, lines, *arguments):
    """What the terminal shows for these typed lines."""
    typed = iter(lines)

    def read(prompt):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    code = main(["chat", *map(str, arguments)])
    return code, capsys.readouterr()


def test_terminal_commands(monkeypatch, capsys, folder):
    lines = ["/help", "/facts order 7", "hello", "/reset", "/nonsense", "/quit", "never read"]
    code, shown = terminal(monkeypatch, capsys, lines, folder, "--max-new-tokens", 5)
    assert code == 0
    for text in ("/reset forgets", "(facts: order 7)", "(the turns are forgotten", "no command /n"):
        assert text in shown.out
    assert shown.out.count("> ") == 1


def test_terminal_with_two_models_labels_the_answers(monkeypatch, capsys, folder, tmp_path):
    other = save(tmp_path / "other", seed=1)
    _, shown = terminal(monkeypatch, capsys, ["hello"], folder, other, "--max-new-tokens", 5)
    assert re.search(rf"^{folder.name}> .*^other> ", shown.out, re.M | re.S)


def test_terminal_says_when_turns_are_left_out(monkeypatch, capsys, folder):
    lines = ["where is my order"] * 6
    options = ("--max-new-tokens", 5, "--context", 48)
    _, shown = terminal(monkeypatch, capsys, lines, folder, *options)
    assert "oldest turns left out: the context holds 48 tokens" in shown.out


def test_terminal_goes_on_after_a_message_that_is_too_long(monkeypatch, capsys, folder):
    code, shown = terminal(monkeypatch, capsys, ["x " * 300, "hello"], folder)
    assert code == 0
    assert "shorten one of them" in shown.out and shown.out.count("> ") == 2


def test_terminal_ends_with_a_sentence_for_a_bad_folder(monkeypatch, capsys, tmp_path):
    code, shown = terminal(monkeypatch, capsys, [], tmp_path / "nothing")
    assert code == 2 and shown.out == ""
    assert f"no folder {tmp_path / 'nothing'}; give a model folder" in shown.err


def test_the_model_cannot_steer_the_terminal(monkeypatch, capsys, folder):
    evil = ["\x1b]0;title\x07", "\x1b[2Jfine\n\tnext\x9b31m \u202egnp.exe\r"]
    monkeypatch.setattr(Chat, "stream", lambda self, text: iter(evil))
    _, shown = terminal(monkeypatch, capsys, ["hello"], folder)
    assert "> ]0;title[2Jfine\n\tnext31m gnp.exe\n" in shown.out
    assert shown_by.printable("a\u200db\u4e2d") == "a\u200db\u4e2d"


def test_facts_without_text_are_none(monkeypatch, capsys, folder):
    lines = ["/facts order 7", "/facts"]
    _, shown = terminal(monkeypatch, capsys, lines, folder)
    assert "(facts: order 7)\n(facts: none; /facts TEXT sets them)" in shown.out


def test_a_cut_answer_says_so(monkeypatch, capsys, folder):
    _, shown = terminal(monkeypatch, capsys, ["hello"], folder, "--max-new-tokens", 5)
    assert "\n[cut at 5 tokens: --max-new-tokens]\n" in shown.out


def test_a_script_gets_the_answer_alone(monkeypatch, capsys, folder, assistant):
    code = main(["chat", str(folder), "-p", "where is my order", "--max_new_tokens", "5"])
    shown = capsys.readouterr()
    expected = Chat(assistant, sampling=Sampling(max_new_tokens=5)).ask("where is my order")
    assert code == 0 and shown.out == f"{shown_by.printable(expected).strip()}\n"
    assert "[cut at 5 tokens" in shown.err


def test_lines_can_be_edited(monkeypatch, capsys, folder):
    monkeypatch.delitem(sys.modules, "readline", raising=False)
    terminal(monkeypatch, capsys, [], folder)
    assert "readline" in sys.modules
