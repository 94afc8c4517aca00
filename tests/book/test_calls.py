"""The list of what cells call: nothing left out, and every line is one of a cell."""

import ast
import json
import re

from nbformat import v4

from chatlib.book import calls, pages

ROOMS = re.findall(r"```\{calls\} (\w+)", (pages.NOTEBOOKS / "api.md").read_text(encoding="utf-8"))


def page(folder, *cells):
    path = folder / "page.ipynb"
    pages.save(v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells]), path)
    return path


def test_calls_are_found_by_whatever_name_a_cell_gives(tmp_path):
    path = page(
        tmp_path,
        "from chatlib import lab\nfrom chatlib.maths import policy as p\nimport torch",
        "from chatlib.maths.attention import causal_mask\nfor n in (2, 3):\n    x = causal_mask(n)",
        "print(torch.ones(2), lab.launch(p.gae), p.aggregate(x).sum())",
    )
    found = {one.name: one.line for one in calls.called([path])}
    third = "print(torch.ones(2), lab.launch(p.gae), p.aggregate(x).sum())"
    assert found == {
        "chatlib.maths.attention.causal_mask": "x = causal_mask(n)",
        "chatlib.launch.launcher.launch": third,
        "chatlib.maths.policy.aggregate": third,
    }


def test_a_short_line_is_preferred_to_an_earlier_long_one(tmp_path):
    long = f"first = perplexity([{', '.join(['1.0'] * 40)}])"
    path = page(tmp_path, "from chatlib.maths.likelihood import perplexity", long, "perplexity(x)")
    (one,) = calls.called([path])
    assert one.line == "perplexity(x)"


def test_the_list_of_the_book_has_every_room_and_a_sentence_for_each():
    found = calls.of_the_book()
    assert {one.room for one in found} == set(ROOMS) and len(ROOMS) == len(set(ROOMS))
    assert len(found) > 300
    assert not [one.name for one in found if len(one.says) < 12 or "\n" in one.says + one.line]


def test_every_line_of_the_list_stands_on_its_page():
    code = {path.stem: "" for path in pages.notebooks()}
    for path in pages.notebooks():
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                code[path.stem] += ast.unparse(ast.parse("".join(cell["source"]))) + "\n"
    assert not [one for one in calls.of_the_book() if one.line not in code[one.page]]
