"""Progress: the right way for each place, and nothing left in a stored notebook."""

import os
import re
from types import SimpleNamespace

import nbformat
import pytest

from chatlib.lab import display

ROWS = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
PPO_ROWS = [
    {"step": step, "score": score, "kl": 0.1 * step, "gold": 0.5 - 0.01 * step, "beta": 0.1}
    for step, score in ((1, -1.0), (2, 0.25), (3, 1.5))
]
EVALUATION = {"step": 3, "held_out_accuracy": 0.75}


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch):
    monkeypatch.delenv("CHATLIB_PROGRESS", raising=False)
    monkeypatch.delenv("CHATLIB_PROGRESS_FILE", raising=False)


def test_terminals_and_other_streams_get_lines(monkeypatch):
    assert display.way() == "plain"
    monkeypatch.setenv("CHATLIB_PROGRESS", "none")
    assert display.way() == "none" and display.displays("sft-1", 3) == []
    monkeypatch.setenv("CHATLIB_PROGRESS", "bar")  # there is no notebook to draw it in
    assert [type(shown) for shown in display.displays("sft-1", 3)] == [display.Lines]
    monkeypatch.setenv("CHATLIB_PROGRESS", "fireworks")
    with pytest.raises(ValueError, match="CHATLIB_PROGRESS is 'fireworks'; use one of bar"):
        display.way()


@pytest.mark.parametrize("input_is_allowed, way", [(True, "bar"), (False, "plain")])
def test_a_notebook_gets_a_bar_when_a_person_is_there(monkeypatch, input_is_allowed, way):
    kernel = SimpleNamespace(_allow_stdin=input_is_allowed)
    monkeypatch.setattr(display, "_kernel", lambda: kernel)
    assert display.way() == way


def test_plain_lines_are_few_and_end_with_the_last_step(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("CHATLIB_PROGRESS_FILE", str(tmp_path / "steps.txt"))
    with display.progress("sft-1", 3) as show:
        for last in ({"step": 2}, {"step": 3, "loss": 0.25}):
            show([*ROWS, last])
    expected = ["sft-1: starting", "sft-1: step 3/3  loss 0.250"]
    assert capsys.readouterr().err.splitlines() == expected
    assert (tmp_path / "steps.txt").read_text().splitlines() == expected


def test_a_line_has_the_newest_value_of_each_figure_and_an_evaluation_repeats_none(capsys):
    with display.progress("ppo-1", 3) as show:
        show(PPO_ROWS)
        show([*PPO_ROWS, EVALUATION])
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == ["ppo-1: step 3/3  score 1.500  kl 0.300  gold 0.470"]
    assert display.newest([*PPO_ROWS, EVALUATION]) == display.newest(PPO_ROWS)


def test_the_data_report_is_said_once_and_not_where_nothing_is_to_be_said(monkeypatch, capsys):
    report = ["a.jsonl: 3 of 4 rows read", "2 cut"]
    with display.progress("sft-1", 3) as show:
        show([], report)
        show(ROWS, report)
    assert capsys.readouterr().err.splitlines()[1:] == [f"sft-1: {line}" for line in report]
    monkeypatch.setenv("CHATLIB_PROGRESS", "none")
    with display.progress("sft-1", 3) as show:
        show([], report)
    assert capsys.readouterr().err == ""


def test_the_figure_in_a_notebook_shows_bar_number_and_curve():
    html = display.bar_html("<run>", 4, ROWS)
    assert '<progress max="4" value="2">' in html and "&lt;run&gt;" in html
    assert html.count("<polyline") == 1 and "loss 1.000" in html
    assert display.sparkline([1.0], "") == display.sparkline([float("nan"), 2.0], "") == ""


def test_ppo_has_three_curves_also_when_an_evaluation_came_last():
    html = display.bar_html("ppo-1", 9, PPO_ROWS)
    labels = re.findall(r'<code>(\w+) (\S+)</code> <svg [^>]*aria-label="(\w+) so far"', html)
    assert labels == [
        ("score", "1.500", "score"),
        ("kl", "0.300", "kl"),
        ("gold", "0.470", "gold"),
    ]
    assert display.bar_html("ppo-1", 9, [*PPO_ROWS, EVALUATION]) == html
    without_gold = [{k: v for k, v in row.items() if k != "gold"} for row in PPO_ROWS]
    assert display.bar_html("ppo-1", 9, without_gold).count("<polyline") == 2


def executed(tmp_path, monkeypatch):
    """The outputs of a cell that shows progress, executed as nbconvert would, and the lines."""
    nbclient = pytest.importorskip("nbclient")
    steps = tmp_path / "steps.txt"
    monkeypatch.setenv("CHATLIB_PROGRESS_FILE", str(steps))
    source = "from chatlib.lab import display\nwith display.progress('sft-1', 2) as show:\n"
    source += "    show([{'step': 2, 'loss': 1.0}])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3")
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    client.execute(env=outside)  # within pytest a kernel would leave its descriptors alone
    return notebook.cells[0].outputs, steps.read_text().splitlines()


def test_an_executed_notebook_stores_nothing_and_says_lines_on_the_terminal(
    tmp_path, monkeypatch, capfd
):
    outputs, lines = executed(tmp_path, monkeypatch)
    assert outputs == []
    assert lines == ["sft-1: starting", "sft-1: step 2/2  loss 1.000"]
    printed = capfd.readouterr().err.splitlines()
    assert [line for line in printed if line.startswith("sft-1")] == lines


def test_the_bar_of_a_live_notebook_ends_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATLIB_PROGRESS", "bar")
    outputs, _ = executed(tmp_path, monkeypatch)
    assert [output.data for output in outputs] == [{}]
