"""The tour of the museum: where a mistake shows, by numbers whose answer is known."""

import pytest

from chatlib.book import museum, museum_guide, pages
from chatlib.book.museum_guide import ANSWERS, AT_ONCE, LATER, NEVER, Patient

LEVELS = (1.0, 1.2, 0.9, 1.1)


def run(level=1.0, late=0.0, gold=2.0):
    """A run whose one curve stays at a level, and moves at its end."""
    return {"curves": {"kl": [level] * 10 + [level + late] * 10}, "after": {"gold": gold}}


HEALTHY = [run(level, gold=1 + level) for level in LEVELS]


def patient(sick):
    return Patient("A", museum.EXHIBITS[0], sick, HEALTHY)


@pytest.mark.parametrize(
    ("sick", "seen"),
    [
        (run(), NEVER),
        (run(level=9.0), AT_ONCE),
        (run(late=9.0), LATER),
        (run(gold=-9.0), ANSWERS),
        (run(late=9.0, gold=-9.0), LATER),
    ],
)
def test_where_a_mistake_shows(sick, seen):
    assert patient(sick).seen == seen


def test_what_nobody_looks_at_tells_nothing():
    sick = patient(run(level=9.0))
    assert sick.strange and not museum_guide.without(sick, "kl")


def test_healthy_runs_that_look_strange_are_counted():
    odd = [*HEALTHY, run(level=50.0)]
    assert museum_guide.false_alarms({"healthy": {"sft": HEALTHY}}) == (0, 4)
    assert museum_guide.false_alarms({"healthy": {"sft": odd}}) == (1, 5)


def test_suspects_are_listed_by_symptom_and_direction():
    found = [patient(run(level=9.0)), patient(run(late=-9.0))]
    table = museum_guide.suspects(found)
    assert set(table["symptom"]) >= {"SFT: kl, early, high", "SFT: kl, late, low"}


@pytest.mark.parametrize("exhibit", museum.EXHIBITS, ids=lambda one: one.name)
def test_a_plaque_fits_a_page_and_names_line_and_test(exhibit):
    text = museum_guide.plaque(Patient("A", exhibit, run(), HEALTHY))
    lines = text.splitlines()
    assert len(lines) <= 20 and max(map(len, lines)) <= 79
    assert exhibit.test.split("::")[1][:40] in text and "\n+ " in text


def test_every_exhibit_has_a_letter():
    figures = {
        "mutant": {one.name: run() for one in museum.EXHIBITS},
        "healthy": dict.fromkeys(museum.SHORT, HEALTHY),
    }
    found = museum_guide.patients(figures)
    assert [one.exhibit for one in found] == [*museum.EXHIBITS]
    assert len({one.letter for one in found}) == len(found)


def test_a_case_letters_its_runs_in_the_order_named():
    figures = {"mutant": {}, "healthy": {}}
    for one in museum.EXHIBITS:
        figures["mutant"][one.name] = run(gold=0.5)
        figures["healthy"][one.recipe] = HEALTHY
    ward = museum_guide.case(figures, "kl-sign", "advantage-sign")
    assert [(p.letter, p.exhibit.name) for p in ward] == [("A", "kl-sign"), ("B", "advantage-sign")]
    with pytest.raises(ValueError, match="no exhibit 'kl'"):
        museum_guide.case(figures, "kl")
    table = museum_guide.answers(ward)
    assert list(table.index) == [f"healthy {i}" for i in range(len(HEALTHY))] + ["A", "B"]
    assert table.loc["A", "gold"] == 0.5 and table.loc["healthy 0", "gold"] == 2.0


def test_the_exercises_of_other_chapters_draw_on_the_collection():
    """At least one on each of the pages 03 to 10."""
    for page in pages.notebooks():
        if "03" <= page.name[:2] <= "10":
            assert "guide.case(" in page.read_text(encoding="utf-8"), page.name
