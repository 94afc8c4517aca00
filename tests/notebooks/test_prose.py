"""Numbers that were measured are glued, not typed; the exceptions are listed with their reasons."""

import re
from pathlib import Path

import pytest

from chatlib.book import pages

NOTEBOOKS = pages.notebooks()
EXCEPTIONS = Path(__file__).with_name("given_numbers.txt")  # page: words in the prose # reason
NOT_PROSE = re.compile(
    r"```\{math\}.*?```|```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\{[a-z:-]+\}|\]\([^)]*\)|^\s*\|.*$",
    flags=re.S | re.M,
)
NUMBER = (
    r"(?:\d[\d.,]*|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|half|two thirds|a third|a quarter)"
)
MEASURED = re.compile(
    r"(?<![\w.])\d+\.\d+(?![\w.]*\d)"
    r"|(?<![\w.])(?!95 %)\d+\s?%"  # 95 % is the level of all intervals
    rf"|\b(?:about|some|around|roughly|nearly|almost|over|under|up to)\s+{NUMBER}\b"
    r"|\b(?:twice|three times|four times|ten times) (?:as|more|less|the)\b"
    r"|\b(?:two thirds|three quarters|a third|a quarter|half) of the\b"
)


def typed(text):
    """Every number in a text that may have been measured, with the words around it."""
    prose = " ".join(NOT_PROSE.sub(" ", text).split())
    for match in MEASURED.finditer(prose):
        yield match[0], prose[max(0, match.start() - 30) : match.end() + 30]


def exceptions():
    """What each page may say: numbers that are given (by a source, a definition, a setting)."""
    found = {}
    for line in EXCEPTIONS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            page, _, rest = line.partition(": ")
            words, _, reason = rest.partition("  # ")
            assert reason, f"no reason: {line}"
            found.setdefault(page, []).append(words)
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_measured_numbers_are_glued(path):
    given = exceptions().get(path.stem, [])
    cells = [cell.source for cell in pages.load(path).cells if cell.cell_type == "markdown"]
    found = [around for cell in cells for _, around in typed(cell)]
    open_ = [around for around in found if not any(words in around for words in given)]
    assert not open_, "measured? then glue it; given? then list it with a reason:\n" + "\n".join(
        open_
    )


def test_no_exception_outlives_its_sentence():
    for page, lines in exceptions().items():
        cells = pages.load(pages.NOTEBOOKS / f"{page}.ipynb").cells
        found = [around for cell in cells for _, around in typed(cell.source)]
        for words in lines:
            assert any(words in around for around in found), (
                f"{page}: {words!r} is not said any more"
            )


@pytest.mark.parametrize(
    "text",
    [
        "The gain is about 1.2 points.",
        "some forty answers",
        "It is wrong in 12 % of them.",
        "two thirds of the answers",
        "It takes twice as long.",
    ],
)
def test_typed_numbers_are_found(text):
    assert list(typed(text))


@pytest.mark.parametrize(
    "text",
    [
        "The gain is {glue:text}`gain:.2f` points.",
        "with $\\beta = 0.05$ and `lr=1e-3`",
        "| 0.5 | in a table |",
        "chapter 3 has two stages",
    ],
)
def test_what_is_glued_or_given_as_mathematics_is_not(text):
    assert not list(typed(text))
