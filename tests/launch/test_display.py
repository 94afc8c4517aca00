"""Progress: the right way for each place, and nothing left in a stored notebook."""

import sys

import nbformat
import pytest

from chatlib.lab import display

ROWS = [{"step": 1, "loss": 2.0, "kl": 0.5}, {"step": 2, "loss": 1.0, "kl": float("nan")}]


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch):
    monkeypatch.delenv("CHATLIB_PROGRESS", raising=False)
    monkeypatch.delenv("CHATLIB_PROGRESS_FILE", raising=False)


def test_a_terminal_gets_a_bar_another_stream_gets_lines(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert display.way() == "bar"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert display.way() == "plain"
    monkeypatch.setenv("CHATLIB_PROGRESS", "none")
    assert display.way() == "none"
    monkeypatch.setenv("CHATLIB_PROGRESS", "fireworks")
    with pytest.raises(ValueError, match="CHATLIB_PROGRESS is 'fireworks'; use one of bar"):
        display.way()


def test_plain_lines_are_few_and_end_with_the_last_step(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("CHATLIB_PROGRESS_FILE", str(tmp_path / "steps.txt"))
    with display.progress("sft-1", 3) as show:
        for last in ({"step": 2}, {"step": 3, "loss": 0.25}):
            show([*ROWS, last])
    expected = ["sft-1: starting", "sft-1: step 3/3  loss 0.250"]
    assert capsys.readouterr().err.splitlines() == expected
    assert (tmp_path / "steps.txt").read_text().splitlines() == expected


def test_a_bar_in_the_terminal_is_removed(monkeypatch, capsys):
    monkeypatch.setenv("CHATLIB_PROGRESS", "bar")
    with display.progress("sft-1", 2) as show:
        show(ROWS)
    text = capsys.readouterr().err
    assert "2/2" in text and "loss 1.000" in text
    assert text.split("\r")[-2].strip() == ""  # overwritten with blanks


def test_the_figure_in_a_notebook_shows_bar_numbers_and_curve():
    html = display.bar_html("<run>", 4, ROWS)
    assert '<progress max="4" value="2">' in html and "&lt;run&gt;" in html
    assert html.count("<polyline") == 1 and "loss 1.000" in html
    assert display.sparkline([1.0]) == display.sparkline([float("nan"), 2.0]) == ""


def executed(tmp_path, monkeypatch):
    """The outputs of a cell that shows progress, executed as nbconvert would, and the lines."""
    nbclient = pytest.importorskip("nbclient")
    steps = tmp_path / "steps.txt"
    monkeypatch.setenv("CHATLIB_PROGRESS_FILE", str(steps))
    source = "from chatlib.lab import display\nwith display.progress('sft-1', 2) as show:\n"
    source += "    show([{'step': 2, 'loss': 1.0}])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    return notebook.cells[0].outputs, steps.read_text().splitlines()


def test_an_executed_notebook_stores_nothing(tmp_path, monkeypatch):
    outputs, lines = executed(tmp_path, monkeypatch)
    assert outputs == []
    assert lines[-1] == "sft-1: step 2/2  loss 1.000"


def test_the_bar_of_a_live_notebook_ends_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATLIB_PROGRESS", "bar")
    outputs, _ = executed(tmp_path, monkeypatch)
    assert [output.data for output in outputs] == [{}]
