import pytest

from chatlib.data import shop
from chatlib.evaluate import errors

FACTS = {"open": "9", "close": "17"}
META = {
    "intent": "hours",
    "customer": "Ada",
    "facts": FACTS,
    "secret": "",
    "prompt": "customer Ada; open 9 to 17 When are you open?",
}
GOOD = "Dear Ada, the shop is open from 9 to 17. Can I help with anything else?"
GREETING = {**META, "intent": "greeting", "facts": {}, "prompt": "customer Ada; Hello!"}


def found(text, meta=META):
    """The errors found in one answer."""
    row = errors.errors(errors.judged([meta], [text])).iloc[0]
    return {name for name, is_error in row.items() if is_error}


def test_a_good_answer_has_no_error():
    assert found(GOOD) == set()
    assert errors.judged([META], [GOOD])["gold"][0] == 4.0


@pytest.mark.parametrize(
    "text, expected",
    [
        (GOOD.replace("from 9 to 17", "from 9 to 18"), {"incomplete", "invented fact"}),
        (GOOD.replace("Dear Ada, t", "T"), {"no salutation"}),
        (GOOD.replace(" Can I help with anything else?", ""), {"no closing"}),
        (GOOD.replace(" Can I", " You should know that. Can I"), {"rude"}),
    ],
)
def test_one_change_is_one_error(text, expected):
    assert found(text) == expected


def test_a_gated_answer_is_not_fluent_and_nothing_else():
    salad = "I can only can only can only can only."
    assert shop.fluency(salad) < shop.FLUENT_ENOUGH
    assert found(salad) == {errors.NOT_FLUENT}


def test_table_has_shares_counts_and_an_overall_row():
    texts = [GOOD, GOOD.replace("Dear Ada, t", "T"), "Dear Ada, how can I help you?"]
    table = errors.error_table(errors.judged([META, META, GREETING], texts))
    assert table.loc["hours", "no salutation"] == 0.5
    assert table.loc["greeting", "no salutation"] == 0.0
    assert table.loc["all", "no salutation"] == pytest.approx(1 / 3)
    assert table["n"].to_dict() == {"hours": 2, "greeting": 1, "all": 3}


def test_every_part_of_the_judge_is_an_error_type_and_parts_add_up():
    """A part added to the judge without an error type would go unseen in the table."""
    records = shop.demonstrations(200, seed=5)
    answers = [record.answer for record in records[:-1]] + ["order order order is is the."]
    verdicts = errors.judged([record.meta for record in records], answers)
    parts = set(shop.judge(META, GOOD).parts)
    assert parts == {part for part, _ in errors.ERRORS.values()}
    assert errors.components(verdicts).sum() == pytest.approx(verdicts["gold"].mean())


def test_the_flaws_put_into_the_corpus_are_found():
    """Gold annotation against the table: rudeness and a missing salutation, answer by answer."""
    drawn = shop.demonstrations(300, seed=6)
    records = [r for r in drawn if "cut_off" not in r.meta["flaws"]]  # the cut may take them away
    verdicts = errors.judged([r.meta for r in records], [r.answer for r in records])
    table = errors.errors(verdicts)
    for flaw, error in {"rude": "rude", "no_salutation": "no salutation"}.items():
        made = [flaw in r.meta["flaws"] for r in records]
        # a rude line before the salutation also hides it: recall is exact, precision nearly
        assert all(table[error][i] for i, m in enumerate(made) if m)
        assert sum(table[error]) <= 1.15 * sum(made)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="1 prompts but 2 answers"):
        errors.judged([META], ["a", "b"])
