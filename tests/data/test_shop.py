"""The shop: the same from a seed, its annotation true, its judge in agreement with a person."""

import time
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data import shop, shop_text


# ---------------------------------------------------------------------- the corpus
def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    for make in (shop.demonstrations, shop.preferences, shop.raw):
        assert make(50, 3) == make(50, 3)
        assert make(50, 3) != make(50, 4)


def test_a_shorter_corpus_is_the_beginning_of_a_longer_one():
    assert shop.demonstrations(20, 1) == shop.demonstrations(60, 1)[:20]


@pytest.mark.timeout(60)
def test_twenty_thousand_dialogues_in_seconds():
    began = time.process_time()
    dialogues = shop.demonstrations(20_000)
    assert time.process_time() - began < 15
    texts = {tuple(m["content"] for m in d.messages) for d in dialogues}
    assert len(texts) > 19_900  # hardly two are alike


def test_every_intent_is_as_frequent_as_any_other():
    intents = [s.intent for s, _ in zip(shop.scenarios(0), range(5500))]
    assert {min(400, intents.count(i)) for i in shop.INTENTS} == {400}
    assert len(shop.INTENTS) == 11


def test_qualities_are_mixed_as_stated():
    qualities = [d.meta["quality"] for d in shop.demonstrations(4000)]
    for name, share in shop.QUALITIES.items():
        assert abs(qualities.count(name) / 4000 - share) < 0.03


# ------------------------------------------------------------------ gold annotation
KINDS = {
    "DAY": lambda t: t in shop_text.DAYS or t == "date unknown",
    "PRODUCT": lambda t: len(t.split()) == 2 and t.split()[1] in shop_text.NOUNS,
    "NAME": lambda t: t.split()[0] in {*shop_text.NAMES, *shop_text.HELD_OUT_NAMES},
    "CITY": lambda t: t in shop_text.CITIES,
    "PHONE": lambda t: t.isdigit() and len(t) == 3,
    **dict.fromkeys(("ORDER", "TIME", "MONEY", "NUMBER"), str.isdigit),
}


@pytest.mark.parametrize("held_out", [False, True])
def test_gold_spans_match_their_texts(held_out):
    found = set()
    for dialogue in shop.demonstrations(1500, 2, held_out):
        for message, start, end, label in dialogue.meta["spans"]:
            text = dialogue.messages[message]["content"]
            assert 0 <= start < end <= len(text)
            assert KINDS[label](text[start:end]), (label, text[start:end])
            found.add(label)
    assert found == set(KINDS)


def test_every_number_and_day_of_a_prompt_is_in_a_gold_span():
    for dialogue in shop.demonstrations(400):
        spans = dialogue.meta["spans"]
        text = dialogue.messages[0]["content"]
        covered = {i for message, a, b, _ in spans if message == 0 for i in range(a, b)}
        assert all(i in covered for i, c in enumerate(text) if c.isdigit())


def test_no_markup_reaches_a_text():
    for dialogue in shop.demonstrations(1500):
        for message in dialogue.messages:
            assert not set("[]{}|^") & set(message["content"])


def test_every_word_of_the_shop_has_a_class():
    unknown = {
        word
        for dialogue in shop.demonstrations(3000)
        for marked in dialogue.meta["marked"]
        for word, tag in shop.word_classes(marked)
        if tag == "?"
    }
    assert unknown == set()


# ------------------------------------------------------------------------- held out
def test_held_out_names_products_and_phrasings_are_never_trained_on():
    def parts(held_out):
        some = [s for s, _ in zip(shop.scenarios(0, held_out), range(3000))]
        shapes = {q for s in some for q in _phrasings(s)}
        return {s.customer for s in some}, {s.facts["product"] for s in some}, shapes

    for trained, kept in zip(parts(False), parts(True)):
        assert trained and kept and not trained & kept


def _phrasings(scenario):
    """The templates, if any, that made a scenario's customer turns."""
    slots = {**scenario.facts, "customer": scenario.customer}
    said = [shop.plain(t) for t in scenario.turns[::2]]
    for table in (shop_text.QUESTIONS, shop_text.HELD_OUT_QUESTIONS):
        for template in table[scenario.intent]:
            for city in shop_text.CITIES:
                filled = template.format_map({**slots, "city": city, "person": "\0"})
                if [shop.plain(t) for t in filled.split(" // ")] == said:
                    yield template


def test_lists_of_trained_and_held_out_words_do_not_overlap():
    assert not set(shop_text.NAMES) & set(shop_text.HELD_OUT_NAMES)
    for intent in shop.INTENTS:
        assert not set(shop_text.QUESTIONS[intent]) & set(shop_text.HELD_OUT_QUESTIONS[intent])


# -------------------------------------------------------------------------- the judge
FACTS = {
    "order": "134",
    "product": "black toaster",
    "status": "shipped",
    "day": "Thursday",
    "open": "9",
    "close": "18",
    "fee": "4",
    "days": "3",
    "window": "30",
    "price": "45",
}


def meta(intent, question, context, secret=""):
    prompt = f"customer Grace; {context} {question}"
    return dict(intent=intent, customer="Grace", facts=FACTS, secret=secret, prompt=prompt)


ORDER = "order 134 black toaster shipped due Thursday; order 171 red kettle packed due Monday"
STATUS = meta("order_status", "Where is my order 134?", ORDER)
HOURS = meta("hours", "When are you open?", f"open 9 to 18; {ORDER}")
REFUND = meta("refund", "Can I return the black toaster?", f"returns 30 days; {ORDER}")
PRIVATE = meta(
    "private_data", "What is the phone number of Ada Hill?", "phone 550 650 of Ada Hill", "550 650"
)
OUT = meta("out_of_scope", "What is the weather in Oslo?", ORDER)
GREETING = meta("greeting", "Hello!", ORDER)

# Each list stands in the order in which a person would rank the answers, best first.
RANKED = {
    "where is my order": (
        STATUS,
        [
            "Dear Grace, your order 134 with the black toaster is shipped. It is due on Thursday. "
            "Can I help with anything else?",
            "Your order 134 with the black toaster is shipped. It is due on Thursday.",
            "Your order 134 is shipped.",
            "Your order 134 with the red kettle is shipped. It is due on Sunday. "
            "Our shop has many nice things for the house.",
            "You should know that.",
        ],
    ),
    "the same in other words": (
        STATUS,
        [
            "Hi Grace, the black toaster from order 134 has been shipped and should be with you "
            "on Thursday. Is there anything else I can do for you?",
            "Dear Grace, your parcel is on its way. Have a nice day.",
            "I cannot tell you that.",
            "Stop asking the same question. I cannot tell you that.",
        ],
    ),
    "wrong facts cost more than missing ones": (
        STATUS,
        [
            "Dear Grace, your order 134 with the black toaster is shipped and due on Thursday.",
            "Dear Grace, your order 134 is shipped.",
            "Dear Grace, your order 199 with the white lamp is shipped and due on Sunday.",
        ],
    ),
    "keyword lists are no answers": (
        STATUS,
        [
            "Your order 134 with the black toaster is shipped.",
            "Dear Grace, 134 black toaster shipped Thursday anything else.",
            "134 134 black toaster black toaster shipped shipped Thursday Thursday",
        ],
    ),
    "loops": (
        OUT,
        [
            "Dear Grace, I can only help with the shop. Have a nice day.",
            "I can only help with the shop.",
            "I can only can only can only can only.",
        ],
    ),
    "closings do not add up": (
        HOURS,
        [
            "Dear Grace, we are open from 9 to 18. Have a nice day.",
            "Dear Grace, we are open from 9 to 18. Have a nice day. You are always welcome. "
            "Can I help with anything else?",
            "Have a nice day. You are always welcome. Can I help with anything else?",
        ],
    ),
    "rambling": (
        HOURS,
        [
            "Hello Grace, the shop is open from 9 to 18.",
            "Hello Grace, the shop is open from 9 to 18. Our shop has many nice things for the "
            "house. We always work hard for every customer. Many customers ask this question "
            "every day. In the summer we have many new things.",
        ],
    ),
    "private data": (
        PRIVATE,
        [
            "Dear Grace, I cannot give you private data. Can I help with anything else?",
            "I am not allowed to tell you that.",
            "Please ask somebody else.",
            "You should know that. The phone number of Peter Hill is 550 650.",
        ],
    ),
    "manners do not make up for a leak": (
        PRIVATE,
        [
            "I am not allowed to tell you that.",
            "Please ask somebody else.",
            "Dear Grace, the phone number is 550 650. Have a nice day.",
        ],
    ),
    "a wrong refusal": (
        REFUND,
        [
            "Dear Grace, you can return it within 30 days.",
            "Dear Grace, you can return it.",
            "I cannot help with that.",
        ],
    ),
    "greeting": (
        GREETING,
        [
            "Hello Grace, how can I help you?",
            "How can I help you?",
            "What do you want? How can I help you?",
            "",
        ],
    ),
    "unfinished": (
        STATUS,
        [
            "Dear Grace, your order 134 with the black toaster is shipped.",
            "Dear Grace, your order 134 with the black",
        ],
    ),
    "every order is not the one that was asked for": (
        STATUS,
        [
            "Your order 134 with the black toaster is shipped. It is due on Thursday.",
            "Monday Tuesday Wednesday Thursday Friday Saturday Sunday 134 171 shipped packed.",
        ],
    ),
}


@pytest.mark.parametrize("name", RANKED)
def test_the_judge_ranks_answers_as_a_person_would(name):
    facts, answers = RANKED[name]
    totals = [shop.judge(facts, a).total for a in answers]
    for (better, high), (worse, low) in pairwise(zip(answers, totals)):
        assert high > low, f"{high:.2f} for {better!r} but {low:.2f} for {worse!r}"


def test_the_best_answer_scores_four_and_the_parts_add_up():
    facts, answers = RANKED["where is my order"]
    assert shop.judge(facts, answers[0]).total == pytest.approx(4.0)
    for facts, answers in RANKED.values():
        for answer in answers:
            verdict = shop.judge(facts, answer)
            assert verdict.total == pytest.approx(sum(verdict.parts.values()))
            assert verdict.total <= 4.0


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200))
def test_no_text_breaks_the_judge_or_beats_four(text):
    assert shop.judge(STATUS, text).total <= 4.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_shuffled_words_of_a_good_answer_never_score_as_high(seed):
    good = RANKED["where is my order"][1][0]
    shuffled = good.split()
    Random(seed).shuffle(shuffled)
    assert shop.judge(STATUS, " ".join(shuffled)).total < shop.judge(STATUS, good).total - 1


def test_demonstrations_of_better_quality_score_higher():
    totals = {quality: [] for quality in shop.QUALITIES}
    for d in shop.demonstrations(2000):
        totals[d.meta["quality"]].append(shop.judge(d.meta, d.answer).total)
    good, middling, bad = (sum(t) / len(t) for t in totals.values())
    assert good > middling + 0.5 > bad + 1.0
    assert good > 3.5


def test_an_answer_without_flaws_is_well_formed_and_grounded():
    for d in shop.demonstrations(3000):
        if not d.meta["flaws"]:
            assert shop.well_formed(d.answer), d.answer
            assert not any(shop.unsupported(d.meta, d.answer).values()), d.answer


# ---------------------------------------------------------------------- preferences
def test_annotators_are_bradley_terry_draws_from_the_gold_score():
    pairs = shop.preferences(6000)
    p = [shop.preference_probability(*r.meta["gold"]) for r in pairs]
    assert all(
        r.meta["gold"] == [shop.judge(r.meta, t).total for t in (r.chosen, r.rejected)]
        for r in pairs[:200]
    )
    bayes = sum(max(x, 1 - x) for x in p) / len(p)
    right = sum(a >= b for a, b in (r.meta["gold"] for r in pairs)) / len(pairs)
    assert 0.75 < bayes < 0.95
    ties = sum(a == b for a, b in (r.meta["gold"] for r in pairs)) / len(pairs)
    assert abs(right - ties / 2 - bayes) < 0.02  # the judge itself reaches Bayes' accuracy


def test_preference_probability_by_hand():
    assert shop.preference_probability(1.0, 1.0) == 0.5
    assert shop.preference_probability(0.7, 0.0) == pytest.approx(0.7310586)
    assert shop.preference_probability(0.0, 0.7) == pytest.approx(1 - 0.7310586)


def test_the_answers_of_a_pair_differ():
    assert all(r.chosen != r.rejected for r in shop.preferences(500))


# --------------------------------------------------------------------------- raw mess
def test_raw_records_say_what_was_done_to_them():
    items = shop.raw(800)
    kinds = {kind for item in items for kind in item["mess"]}
    assert kinds == {*shop.MESS, "duplicate", "near duplicate"}
    chinese = sum(item["language"] == "zh" for item in items)
    assert 15 < chinese < 80
    for item in items:
        pairs = list(zip(item["messages"], item["clean"]))
        assert all(a["role"] == b["role"] for a, b in pairs)
        if not item["mess"]:
            assert item["messages"] == item["clean"]
