"""Pages are executed for real: progress is shown, failures are named, outputs repeat."""

import io
import time

import nbformat
import pytest

from chatlib.book import execute, pages
from chatlib.book.progress import Progress


def page(folder, *sources, name="01_page"):
    """A stored notebook with these code cells."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    path = folder / f"{name}.ipynb"
    pages.save(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_two_executions_give_equal_bytes(tmp_path):
    source = (
        "import sys, time\nfor i in range(3):\n    print(i); sys.stdout.flush(); time.sleep(.05)"
    )
    path = page(tmp_path, source, "{'b': 2, 'a': 1}")
    execute.execute([path], tmp_path)
    first = path.read_bytes()
    execute.execute([path], tmp_path)
    assert path.read_bytes() == first
    cells = pages.load(path).cells
    assert [cell.execution_count for cell in cells] == [1, 2]
    assert cells[0].outputs[0].text == "0\n1\n2\n"
    assert len(cells[0].outputs) == 1


def test_a_failing_cell_is_named_and_the_page_stays_as_it_was(tmp_path, capsys):
    path = page(tmp_path, "a = 1", "b = 2\na / 0", "c = 3")
    before = path.read_bytes()
    with pytest.raises(execute.PageFailed) as failure:
        execute.execute([path], tmp_path)
    message = str(failure.value)
    assert message.startswith("01_page.ipynb, code cell 2 of 3:\n    | b = 2\n    | a / 0")
    assert "ZeroDivisionError" in message and "\x1b" not in message
    assert path.read_bytes() == before


def test_a_page_sees_where_figures_and_runs_belong(tmp_path):
    source = "import os\nprint(os.environ['CHATLIB_RUNS'], os.environ['CHATLIB_RESULTS'])"
    path = page(tmp_path, source)
    execute.execute([path], tmp_path / "work")
    printed = pages.load(path).cells[0].outputs[0].text.split()
    assert printed == [str(tmp_path / "work" / "runs"), str(tmp_path / "work" / "results.json")]


def test_pages_run_in_order_and_each_gets_its_seconds(tmp_path, capsys):
    paths = [page(tmp_path, "1 + 1", name="01_one"), page(tmp_path, "2 + 2", name="02_two")]
    assert list(execute.execute(paths, tmp_path)) == ["01_one", "02_two"]
    shown = capsys.readouterr().out
    assert shown.index("[1/2] 01_one") < shown.index("[2/2] 02_two")


def test_progress_shows_page_cell_and_the_step_a_launch_is_at(tmp_path):
    stream, steps = io.StringIO(), tmp_path / "progress.txt"
    with Progress(steps, stream, every=0.02) as progress:
        progress.at("03_sft", 2, 7)
        steps.write_text("sft step 10/400\nsft step 20/400\n")
        time.sleep(0.2)
    assert "03_sft  cell 2/7  sft step 20/400" in stream.getvalue().splitlines()[-1]


def test_progress_of_one_cell_is_not_shown_at_the_next(tmp_path):
    steps = tmp_path / "progress.txt"
    progress = Progress(steps, io.StringIO())
    steps.write_text("sft step 400/400")
    progress.at("03_sft", 3, 7)
    assert progress.line().endswith("03_sft  cell 3/7")


def test_the_time_left_is_what_the_pages_took_last(tmp_path):
    took = {"01_a": 60.0, "02_b": 180.0}
    rest = [tmp_path / "02_b.ipynb", tmp_path / "03_new.ipynb"]
    assert execute.time_left(rest, took) == 180 + 120
    assert execute.time_left(rest, {}) == 0
    progress = Progress(tmp_path / "steps.txt", io.StringIO())
    progress.at("02_b", 1, 7)
    assert "left" not in progress.line()
    progress.expect(300.0)
    assert "5 min left  02_b  cell 1/7" in progress.line()
    progress.told -= 130
    assert "3 min left" in progress.line()
    assert execute.last_durations(tmp_path / "none.json") == {}


def test_an_unknown_page_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no notebook 'nonsense' in _toc\.yml; there are"):
        execute._chosen(pages.NOTEBOOKS, ["nonsense"])
