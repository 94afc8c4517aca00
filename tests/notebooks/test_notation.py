"""Every letter in a page's formulas stands on the page of notation, under its chapter."""

import re

import pytest

from chatlib.book import pages

GREEK = set(
    "alpha beta gamma delta epsilon varepsilon eta theta lambda mu nu xi pi rho sigma tau phi psi "
    "omega Psi Phi Omega Sigma Delta Gamma Lambda Theta".split()
)
MATH = re.compile(r"```\{math\}(.*?)```|\$\$(.*?)\$\$|(?<![\\\w])\$([^$\n]+(?:\n[^$\n]+)?)\$", re.S)
WORDS = re.compile(
    r"\\(?:text\w*|math(?:rm|tt|it)|operatorname|label|begin|end|tag)\*?\s*\{[^{}]*\}"
)
CHAPTERS = [path for path in pages.notebooks() if path.stem[0].isdigit()]


def letters(text):
    """The Latin and Greek letters of all formulas in a text; words set in a formula are none."""
    found = set()
    for match in MATH.finditer(text):
        formula = next(part for part in match.groups() if part is not None)
        formula = WORDS.sub(" ", re.sub(r":label:.*", " ", formula))
        found |= {f"\\{name}" for name in re.findall(r"\\([A-Za-z]+)", formula) if name in GREEK}
        found |= set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))
    return found


def listed(text, chapter):
    """The letters that the page of notation explains for a chapter."""
    common, _, rest = text.partition("## Chapter by chapter")
    rows = [line for line in common.splitlines() if line.startswith("| $")]
    known = {
        letter
        for row in rows
        if str(chapter) in re.findall(r"\d+", row.rstrip("| ").rpartition("|")[2])
        for letter in letters(row.split("|")[1])
    }
    own = re.search(rf"^### Chapter {chapter}\n(.*?)(?=^##|\Z)", rest, flags=re.S | re.M)
    return known | letters(own[1] if own else "")


def test_letters_are_read_from_formulas_alone():
    text = "A word $x_t$ and\n$$\\mathrm{KL}(p) + \\beta$$\n```{math}\n:label: eq-q\nW\n```\n"
    assert letters(text) == {"x", "t", "p", "\\beta", "W"}


def test_a_letter_counts_for_the_chapters_that_its_row_names():
    text = "| $A$ | `a` | advantage | | 1, 5 |\n## Chapter by chapter\n### Chapter 2\n| $q$ | x |\n"
    assert [listed(text, n) for n in (1, 2, 5)] == [{"A"}, {"q"}, {"A"}]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_letter_of_a_page_is_listed(path):
    text = (pages.NOTEBOOKS / "notation.md").read_text(encoding="utf-8")
    cells = [cell.source for cell in pages.load(path).cells if cell.cell_type == "markdown"]
    used = set().union(*map(letters, cells))
    missing = used - listed(text, int(path.stem[:2]))
    assert not missing, f"list in notation.md, Chapter {int(path.stem[:2])}: {sorted(missing)}"
