"""Every stored page keeps the page contract, as far as a program can tell (CONTRIBUTING.md)."""

import ast
import json
import re
from itertools import pairwise

import pytest

from chatlib.book import pages

NOTEBOOKS = pages.notebooks()
UNCOMPARED = "nbval-ignore-output"
PLACES = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|usr|var|opt|mnt)/\w|[A-Z]:\\\\Users")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def notebook(request):
    return pages.load(request.param)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """What a cell shows as text, one string an output."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        elif "text/plain" in output.get("data", {}) and "image/png" not in output.data:
            yield output.data["text/plain"]


def short(cell):
    return " / ".join(cell.source.splitlines()[:2])


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


def test_is_stored_as_refresh_stores_it(notebook):
    assert notebook == pages.normalise(notebook), "run `make refresh` on this page"


def test_all_cells_are_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_nothing_was_written_to_stderr_and_no_cell_failed(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error", short(cell)
            assert output.get("name") != "stderr", f"{short(cell)}: {output.get('text', '')[:200]}"


def test_no_output_is_a_warning_a_place_or_an_address(notebook):
    for cell in code_cells(notebook):
        shown = "\n".join(texts(cell))
        assert not re.search(r"Warning: |\[WARNING\]", shown), short(cell)
        assert not PLACES.search(shown), f"{short(cell)}: {PLACES.search(shown)[0]}"
        assert not ADDRESS.search(shown), short(cell)
        assert not PLACES.search(cell.source), short(cell)


def test_cells_are_short_and_narrow(notebook):
    cells = code_cells(notebook)
    for cell in cells:
        lines = cell.source.splitlines()
        assert len(lines) <= 14, f"{short(cell)}: {len(lines)} lines"
        assert max(map(len, lines), default=0) <= 79, short(cell)
    long = [short(cell) for cell in cells if len(cell.source.splitlines()) > 12]
    assert len(long) <= len(cells) / 10, f"more than 12 lines: {long}"


def test_no_cell_ends_with_a_semicolon(notebook):
    for cell in code_cells(notebook):
        assert not cell.source.rstrip().endswith(";"), f"{short(cell)}: nbval shows it; use _ ="


def test_outputs_are_short_and_narrow(notebook):
    for cell in code_cells(notebook):
        lines = [line for text in texts(cell) for line in text.splitlines()]
        assert len(lines) <= 20, f"{short(cell)}: {len(lines)} lines"
        assert max(map(len, lines), default=0) <= 79, f"{short(cell)}: {max(lines, key=len)}"


def test_outputs_that_are_not_compared_have_a_reason_and_an_assertion(notebook):
    for cell in code_cells(notebook):
        if tagged(cell, UNCOMPARED):
            first = cell.source.splitlines()[0]
            assert re.match(r"# not compared: \S+ \S+", first), short(cell)
            asserts = [node for node in ast.walk(ast.parse(cell.source)) if is_assert(node)]
            assert asserts, short(cell)


def is_assert(node):
    return isinstance(node, ast.Assert)


def test_no_cell_is_skipped_by_nbval(notebook):
    for cell in code_cells(notebook):
        assert not tagged(cell, "nbval-skip"), short(cell)
        assert not re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE)", cell.source), short(cell)


def test_every_figure_has_a_caption_and_an_alternative_text(notebook):
    for cell in code_cells(notebook):
        images = [o for o in cell.outputs if any("image" in kind for kind in o.get("data", {}))]
        if images and not tagged(cell, "remove-output"):
            shown = cell.metadata.get("mystnb", {})
            assert len(shown.get("image", {}).get("alt", "")) > 20, short(cell)
            assert shown.get("figure", {}).get("caption"), short(cell)
            assert len(images) == 1, f"{short(cell)}: one figure a cell"


def test_pictures_in_the_text_have_an_alternative_text(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"!\[\s*\]\(", cell.source), short(cell)


def test_one_title_and_headings_that_skip_no_level(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    text = re.sub(r"^(`{3,}).*?^\1\s*$", "", text, flags=re.M | re.S)
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", text, flags=re.M)]
    assert levels[:1] == [1] and levels.count(1) == 1, levels
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


def test_the_first_cell_holds_the_title(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("path", sorted(pages.NOTEBOOKS.glob("*.md")), ids=lambda path: path.name)
def test_written_pages_name_no_place(path):
    assert not PLACES.search(path.read_text(encoding="utf-8"))


def test_the_contents_name_every_page_once_and_no_other():
    there = {path.stem for path in pages.NOTEBOOKS.iterdir() if path.suffix in (".md", ".ipynb")}
    named = pages.in_order()
    assert sorted(named) == sorted(there)


def test_chapters_come_in_the_order_of_their_numbers():
    numbers = [int(name[:2]) for name in pages.in_order() if name[:2].isdigit()]
    assert numbers == sorted(numbers)


def test_notebooks_are_json_with_one_space_of_indentation():
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n" == text, path.name
