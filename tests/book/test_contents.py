"""The front page's table is read off the pages."""

import nbformat
import pytest

from chatlib.book import contents


def page(folder, *cells):
    notebook = nbformat.v4.new_notebook()
    for kind, source in cells:
        make = nbformat.v4.new_markdown_cell if kind == "text" else nbformat.v4.new_code_cell
        notebook.cells.append(make(source))
    path = folder / "06_evaluation.ipynb"
    nbformat.write(notebook, path)
    return path


def test_a_chapter_names_its_question_and_whose_models_it_uses(tmp_path):
    text = "# Evaluation\n\n**Question.** Which ruler\nis right?\n\n" + "word " * 400
    code = 'sft, rm = lab.trained("sft"), trained("reward")\nx = trained("overoptimised")'
    found = contents.chapter(page(tmp_path, ("text", text), ("code", code)))
    assert found.title == "Evaluation" and found.question == "Which ruler is right?"
    assert found.needs == ("03_sft", "04_reward") and found.minutes == 2
    row = contents.table([found]).splitlines()[-1]
    assert "[3](03_sft.html), [4](04_reward.html) | 2 |" in row


def test_a_page_without_a_question_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"06_evaluation.ipynb has no title or no \*\*Question"):
        contents.chapter(page(tmp_path, ("text", "# Evaluation\n\nHello.")))
