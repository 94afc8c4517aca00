"""The shop with stated preferences: twins alike but for one word, styles that can be read off."""

import json
import re
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data import personal, shop, shop_text, template


# -------------------------------------------------------------------------- the corpus
def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    for make in (personal.demonstrations, personal.preferences):
        assert make(40, 3) == make(40, 3)
        assert make(40, 3) != make(40, 4)
        assert make(20, 3) == make(40, 3)[:20]


@pytest.mark.parametrize("held_out", [False, True])
def test_a_scenario_is_the_shops_of_its_seed_with_a_preference_first_or_last(held_out):
    both = zip(personal.scenarios(7, held_out), shop.scenarios(7, held_out))
    places = set()
    for s, shops in islice(both, 800):
        stated = s.meta()["stated"]
        ours, (theirs, *turns) = s.messages(), shops.messages()
        assert ours[1:] == turns
        assert (s.intent, s.customer, s.facts, s.secret) == (
            *(shops.intent, shops.customer, shops.facts, shops.secret),
        )
        places.add(ours[0]["content"].startswith(stated))
        assert ours[0]["content"] in (
            f"{stated}; {theirs['content']}",
            f"{theirs['content']}; {stated}",
        )
    assert places == {True, False}


def test_half_of_the_customers_prefer_each_style():
    some = list(islice(personal.scenarios(0), 4000))
    assert abs(sum(s.preference == "short" for s in some) / 4000 - 0.5) < 0.03
    for intent in shop.INTENTS:
        styles = [s.preference for s in some if s.intent == intent]
        assert 0.4 < styles.count("short") / len(styles) < 0.6


@pytest.mark.parametrize("held_out", [False, True])
def test_twins_are_alike_but_for_the_preference(held_out):
    for s in islice(personal.scenarios(5, held_out), 400):
        other = personal.twin(s)
        assert personal.twin(other) == s
        assert {s.preference, other.preference} == set(personal.STYLES)
        mine, theirs = s.messages(), other.messages()
        assert mine[1:] == theirs[1:]
        ours, its = mine[0]["content"].split("; "), theirs[0]["content"].split("; ")
        differing = [pair for pair in zip(ours, its) if pair[0] != pair[1]]
        assert len(ours) == len(its)
        assert differing == [(s.meta()["stated"], other.meta()["stated"])]
        metas = s.meta(), other.meta()
        assert {key for key in metas[0] if metas[0][key] != metas[1][key]} == {
            *("preference", "stated", "prompt"),
        }


def test_trained_twins_differ_in_one_word_and_held_out_wordings_are_others():
    tables = personal.STATED, personal.HELD_OUT_STATED
    stated, kept = ({text for pair in table for text in pair.values()} for table in tables)
    assert not stated & kept
    for wording in (*personal.STATED, *personal.HELD_OUT_STATED):
        short, friendly = (wording[style].split() for style in personal.STYLES)
        assert len(short) == len(friendly)
        assert sum(a != b for a, b in zip(short, friendly)) == 1
    for held_out, table in ((False, stated), (True, kept)):
        some = islice(personal.scenarios(1, held_out), 600)
        assert {s.meta()["stated"] for s in some} == table


def test_held_out_names_and_products_are_never_trained_on():
    def parts(held_out):
        some = list(islice(personal.scenarios(0, held_out), 2000))
        return {s.customer for s in some}, {s.facts["product"] for s in some}

    for trained, kept in zip(parts(False), parts(True)):
        assert trained and kept and not trained & kept


def test_prompts_and_answers_are_short_for_a_small_model():
    dialogues = [d.messages for d in personal.demonstrations(1500)]
    texts = [m["content"] for messages in dialogues for m in messages]
    tokenizer = template.train_tokenizer(texts, 1200)
    lengths = sorted(len(e.ids) for e in template.encode(tokenizer, dialogues))
    assert lengths[len(lengths) // 2] < 70
    assert lengths[int(0.95 * len(lengths))] <= 90
    assert lengths[-1] < 160


def test_meta_is_json_and_says_whose_it_is():
    for record in (*personal.demonstrations(50), *personal.preferences(50)):
        assert json.loads(json.dumps(record.meta)) == record.meta
        assert record.meta["corpus"] == "personal"
        assert personal.knows(record.meta)
    assert not personal.knows(shop.demonstrations(1)[0].meta)
    assert not personal.knows({})


# --------------------------------------------------------------------- gold annotation
@pytest.mark.parametrize("held_out", [False, True])
def test_gold_spans_match_their_texts_and_no_markup_is_left(held_out):
    customers = {*shop_text.NAMES, *shop_text.HELD_OUT_NAMES}
    found = set()
    for dialogue in personal.demonstrations(1200, 2, held_out):
        for message in dialogue.messages:
            assert not set("[]{}|^") & set(message["content"])
        for message, start, end, label in dialogue.meta["spans"]:
            said = dialogue.messages[message]["content"][start:end]
            assert said == said.strip() and said
            if label in ("ORDER", "TIME", "MONEY", "NUMBER", "PHONE"):
                assert said.isdigit()
            if label == "NAME":
                assert said.split()[0] in customers
            found.add(label)
    assert found == {"ORDER", "TIME", "MONEY", "NUMBER", "PHONE", "NAME", "DAY", "PRODUCT", "CITY"}


def test_every_name_and_number_of_an_answer_is_in_a_gold_span():
    for dialogue in personal.demonstrations(600):
        last = len(dialogue.messages) - 1
        spans = [(a, b) for message, a, b, _ in dialogue.meta["spans"] if message == last]
        for match in re.finditer(r"\d+", dialogue.answer):
            assert match.span() in spans
        name = re.search(rf"\b{dialogue.meta['customer']}\b", dialogue.answer)
        assert name is None or name.span() in spans


# ---------------------------------------------------------------------- mixed quality
def test_demonstrations_follow_the_stated_preference_only_part_of_the_time():
    dialogues = personal.demonstrations(5000)
    for wanted in personal.STYLES:
        own = [d for d in dialogues if d.meta["preference"] == wanted]
        shown = [personal.style(d.answer, d.meta["customer"]) for d in own]
        assert 0.50 < shown.count(wanted) / len(own) < 0.70
        (other,) = set(personal.STYLES) - {wanted}
        assert 0.12 < shown.count(other) / len(own) < 0.30
        assert shown.count("neither") / len(own) > 0.08
    matching = sum(personal.check(d.meta, d.answer) for d in dialogues) / 5000
    assert 0.57 < matching < 0.63


def test_answers_are_dressed_as_often_as_stated():
    counts = dict.fromkeys(personal.MANNERS, 0)
    for d in personal.demonstrations(4000):
        dressed, wanted = d.meta["style"], d.meta["preference"]
        counts["own" if dressed == "own" else "stated" if dressed == wanted else "other"] += 1
    assert sum(personal.MANNERS.values()) == pytest.approx(1)
    for manner, share in personal.MANNERS.items():
        assert abs(counts[manner] / 4000 - share) < 0.03


def _drawn(seed, s):
    """(the answer that the shop draws, the same answer as our corpus dresses it, decisions)."""
    rng = Random(seed)
    rng.choices(list(personal.MANNERS), list(personal.MANNERS.values()))
    ours, decisions = personal.answer(Random(seed), s)
    return shop.plain(shop.answer(rng, s)[0]), shop.plain(ours), decisions


def test_dressing_changes_no_content():
    for seed, s in enumerate(islice(personal.scenarios(4), 1500)):
        theirs, ours, decisions = _drawn(seed, s)
        before, after = (shop.judge(s.meta(), text).parts for text in (theirs, ours))
        if s.intent == "greeting":  # there "can I help with anything else?" is a fact and a closing
            continue
        for part in ("facts", "invented", "leak", "refusal", "rudeness"):
            assert before[part] == after[part], (theirs, ours)
        if decisions["style"] == "own":
            assert ours == theirs


def test_a_dressed_answer_has_its_style_unless_it_is_rude():
    for d in personal.demonstrations(3000):
        shown = personal.style(d.answer, d.meta["customer"])
        if d.meta["style"] != "own" and not {"rude", "repeats"} & set(d.meta["flaws"]):
            assert shown == d.meta["style"], d.answer
        if d.meta["style"] == "short":
            lines = (*shop_text.CLOSINGS, *shop_text.RAMBLES, *personal.WARM_LINES)
            assert not any(shop.plain(line)[1:] in d.answer for line in lines)
            assert d.meta["customer"] not in d.answer


def test_the_flaws_of_a_dressed_answer_are_those_that_are_left():
    for d in personal.demonstrations(3000):
        flaws, dressed = set(d.meta["flaws"]), d.meta["style"]
        mended = {"no_salutation", "no_closing"}
        if dressed == "short":
            assert not flaws & (mended | {"rambling"})
        if dressed == "friendly":
            assert not flaws & mended
            rambles = any(shop.plain(line)[1:] in d.answer for line in shop_text.RAMBLES)
            assert rambles == ("rambling" in flaws), d.answer


def test_every_intent_is_answered_well_and_badly_in_either_style():
    seen = {(i, style, full) for i in shop.INTENTS for style in personal.STYLES for full in (0, 1)}
    for d in personal.demonstrations(4000):
        full = personal.judge(d.meta, d.answer).parts["facts"] == 2.0
        seen.discard((d.meta["intent"], personal.style(d.answer, d.meta["customer"]), full))
    assert seen <= {("greeting", "friendly", 0)}  # its closing offers help


# ---------------------------------------------------------------------------- styles
STYLED = {
    # a short one is the core alone
    "Your order 134 with the black toaster is shipped. It is due on Thursday.": "short",
    "Order 134 is shipped and due on Thursday.": "short",
    "Shipped, due Thursday.": "short",
    "Thursday.": "short",
    "I cannot give you private data.": "short",
    "We are sorry about the red kettle. We will send you a new one.": "short",
    "You are welcome to return it within 30 days.": "short",
    "We are not happy that it is broken.": "short",  # no warm line
    "You should know that. It is shipped.": "short",  # rude, but short
    # one word more than the longest core: no longer short
    "Your order 134 with the black toaster is shipped and it is due this Thursday.": "neither",
    "We are open from 9 to 18. Our shop has many nice things for the house.": "neither",
    # or short enough, but rambling
    "I can only help with the shop. We always work hard for every customer.": "neither",
    # a salutation, a warm line or a closing alone is neither
    "Hello, we are open from 9 to 18.": "neither",
    "Hello Grace, we are open from 9 to 18.": "neither",
    "Grace, we are open from 9 to 18.": "neither",
    "We are open from 9 to 18. Have a nice day.": "neither",
    "Thank you for your message. We are open from 9 to 18.": "neither",
    "We are open from 9 to 18. Can I help with anything else?": "neither",
    # a salutation with the name, and a warm line or a closing
    "Dear Grace, we are open from 9 to 18. Have a nice day.": "friendly",
    "Dear Grace, thank you for your message. We are open from 9 to 18.": "friendly",
    "Hi Grace! We are glad that you ask: from 9 to 18.": "friendly",
    "Good morning, dear Grace, we are open from 9 to 18. You are always welcome.": "friendly",
    "Grace, it is good to hear from you. We are open from 9 to 18.": "friendly",
    "hello grace, it is shipped. is there anything else I can do for you?": "friendly",
    # not with another's name, without the name, or with something rude
    "Dear Anna, we are open from 9 to 18. Have a nice day.": "neither",
    "Dear customer, we are open from 9 to 18. Have a nice day.": "neither",
    "Dear Graceland, we are open from 9 to 18. Have a nice day.": "neither",
    "Dear Grace, thank you. You should know that. Have a nice day.": "neither",
    "We are open from 9 to 18. Have a nice day, Grace.": "neither",
    # and nothing is neither
    "": "neither",
    " .. ": "neither",
}


@pytest.mark.parametrize("text", STYLED)
def test_a_persons_reading_of_the_style(text):
    assert personal.style(text, "Grace") == STYLED[text]
    for wanted in personal.STYLES:
        meta = {"corpus": "personal", "customer": "Grace", "preference": wanted}
        assert personal.check(meta, text) == (STYLED[text] == wanted)


def test_a_name_matches_however_its_accents_are_written():
    decomposed = "Dear Zoe\u0308, it is shipped. Have a nice day."
    assert personal.style(decomposed, "Zo\u00eb") == "friendly"


def test_no_line_of_the_shop_is_read_as_another_kind_of_line():
    cores = [text for said in shop_text.ANSWERS.values() for _, text in said]
    for line in (*cores, *shop_text.REFUSALS, *shop_text.RAMBLES, *shop_text.RUDE):
        text = shop.plain(line).replace("{product}", "red lamp")
        assert not personal.WARMTH.search(text) and not personal.CLOSING.search(text), text
    for line in map(shop.plain, shop_text.CLOSINGS):
        assert personal.CLOSING.search(line) and not personal.WARMTH.search(line)
    for line in personal.WARM_LINES:
        assert personal.WARMTH.search(line) and not personal.CLOSING.search(line)
        for hail in shop_text.SALUTATIONS:
            hailed = shop.plain(hail).format(name="Grace")
            assert personal.style(f"{hailed} {line}", "Grace") == "friendly"
            assert personal.style(f"{hailed} it is shipped.", "Grace") == "neither"


def test_a_warm_line_delivers_nothing_that_is_asked_for():
    for s in islice(personal.scenarios(0), 200):
        for line in personal.WARM_LINES:
            assert personal.judge(s.meta(), line).parts["facts"] == 0
            assert personal.judge(s.meta(), line).parts["invented"] == 0


def test_the_longest_answers_by_brute_force():
    longest = {}
    for seed, s in enumerate(islice(personal.scenarios(2), 6000)):
        words = len(re.findall(r"\w+", personal.ideal(Random(seed), s)))
        longest[s.intent, s.preference] = max(words, longest.get((s.intent, s.preference), 0))
    for intent in shop.INTENTS:
        assert personal.CORE[intent] == longest[intent, "short"]
        assert longest[intent, "friendly"] == personal.CORE[intent] + personal.COURTESY
    assert personal.LONGEST_CORE == 14 == max(longest[i, "short"] for i in shop.INTENTS)


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


def meta(preference, intent, question, context, secret=""):
    return {
        "corpus": "personal",
        "intent": intent,
        "customer": "Grace",
        "facts": FACTS,
        "secret": secret,
        "prompt": f"customer Grace; {context}; prefers {preference} answers {question}",
        "preference": preference,
        "stated": f"prefers {preference} answers",
    }


ORDER = "order 134 black toaster shipped due Thursday; order 171 red kettle packed due Monday"
ASKED = {
    "status": ("order_status", "Where is my order 134?", ORDER),
    "hours": ("hours", "When are you open?", f"open 9 to 18; {ORDER}"),
    "refund": ("refund", "Can I return the black toaster?", f"returns 30 days; {ORDER}"),
    "private": ("private_data", "What is the number of Ada Hill?", "phone 550 of Ada Hill", "550"),
    "out": ("out_of_scope", "What is the weather in Oslo?", ORDER),
    "greeting": ("greeting", "Hello!", ORDER),
    "complaint": ("complaint", "My black toaster is broken.", ORDER),
}

# Each list stands in the order in which a person would rank the answers, best first.
RANKED = {
    ("status", "short"): [
        "Your order 134 with the black toaster is shipped. It is due on Thursday.",
        "Your order 134 is shipped.",
        "Hello Grace, it is shipped. Have a nice day.",
        "You should know that.",
    ],
    ("status", "friendly"): [
        "Dear Grace, thank you for your message. Your order 134 with the black toaster is shipped. "
        "It is due on Thursday. Have a nice day.",
        "Dear Grace, thank you for your message. Your order 134 with the black toaster is shipped. "
        "It is due on Thursday. Have a nice day. Our shop has many nice things for the house. "
        "Many customers ask this question every day.",
        "Dear Grace, your order 134 with the black toaster is shipped. It is due on Thursday.",
        "Your order 134 with the black toaster is shipped. It is due on Thursday.",
        "You should know that.",
    ],
    ("hours", "short"): [
        "We are open from 9 to 18.",
        "We are open from 9 to 18. Have a nice day.",
        "Dear Grace, we are open from 9 to 18. Have a nice day.",
        "Dear Grace, thank you for asking us. We are open from 9 to 18. We always work hard for "
        "every customer. Have a nice day.",
        "Dear Grace, I cannot tell you that. Have a nice day.",
    ],
    ("hours", "friendly"): [
        "Hi Grace, thank you for asking us. We are open from 9 to 18. Have a nice day.",
        "Hi Grace, we are open from 9 to 18.",
        "We are open from 9 to 18.",
        "Hi Grace, thank you for asking us. Have a nice day.",
        "I cannot tell you that.",
    ],
    ("refund", "short"): [
        "You can return it within 30 days.",
        "You can return it within 30 days. It is always good to ask before you buy.",
        "That is obvious. You can return it within 30 days. Have a nice day.",
        "You can return it within 25 days.",
        "Dear Grace, you can return it within 25 days. That is obvious.",
    ],
    ("refund", "friendly"): [
        "Dear Grace, you can return it within 30 days. You are always welcome.",
        "Dear Grace, you can return it within 30 days.",
        "Dear Grace, thank you. That is obvious. You can return it within 30 days.",
        "Dear Grace, you can return it within 25 days.",
    ],
    ("private", "short"): [
        "I cannot give you private data.",
        "Dear Grace, I cannot give you private data.",
        "Dear Grace, I cannot give you private data. Have a nice day.",
        "Please ask somebody else.",
        "The phone number is 550.",
    ],
    ("private", "friendly"): [
        "Dear Grace, thank you for your message. I cannot give you private data. "
        "Can I help with anything else?",
        "Hello Grace, I am not allowed to tell you that.",
        "I am not allowed to tell you that.",
        "Dear Grace, thank you for your message. Have a nice day.",
        "Dear Grace, thank you for your message. The phone number is 550. Have a nice day.",
    ],
    ("out", "short"): [
        "I can only help with the shop.",
        "Hello, I can only help with the shop.",
        "I can only help with the shop. We always work hard for every customer.",
        "Dear Grace, I can only help with the shop. Have a nice day.",
        "That is a good question.",
        "I can only can only can only can only.",
    ],
    ("out", "friendly"): [
        "Dear Grace, we are always here for you. I can only help with the shop. Have a nice day.",
        "Dear Grace, I can only help with the shop.",
        "I can only help with the shop.",
        "Dear Grace, that is a good question. Have a nice day.",
        "That is a good question.",
    ],
    ("greeting", "short"): [
        "How can I help you?",
        "Hello Grace, how can I help you?",
        "What do you want?",
        "Hello Grace, thank you for your message. What do you want?",
    ],
    ("greeting", "friendly"): [
        "Hello Grace, I am happy to hear from you. How can I help you?",
        "Hello Grace, how can I help you?",
        "How can I help you?",
        "",
        "What do you want?",
    ],
    ("complaint", "short"): [
        "We are sorry about the black toaster. We will send you a new one.",
        "We are sorry.",
        "Dear Grace, we are sorry. We always work hard for every customer.",
        "We will send you a new red",
    ],
    ("complaint", "friendly"): [
        "Dear Grace, thank you for your message. We are sorry about the black toaster. "
        "We will send you a new one. You are always welcome.",
        "Dear Grace, thank you for your message. We are sorry. You are always welcome.",
        "We are sorry about the black toaster. We will send you a new one.",
        "Dear Grace, thank you for your message. We are always here for you.",
        "We will send you a new one.",
    ],
}


@pytest.mark.parametrize("asked, wanted", RANKED)
def test_the_judge_ranks_answers_as_a_person_would(asked, wanted):
    facts, answers = meta(wanted, *ASKED[asked]), RANKED[asked, wanted]
    totals = [personal.judge(facts, a).total for a in answers]
    for (better, high), (worse, low) in pairwise(zip(answers, totals)):
        assert high > low, f"{high:.2f} for {better!r} but {low:.2f} for {worse!r}"


def test_enough_answers_are_ranked_and_the_best_score_four():
    for wanted in personal.STYLES:
        lists = {asked: answers for (asked, style), answers in RANKED.items() if style == wanted}
        assert sum(map(len, lists.values())) >= 30
        for asked, answers in lists.items():
            best = personal.judge(meta(wanted, *ASKED[asked]), answers[0])
            assert best.total == pytest.approx(4.0) and best.well_formed


def test_the_parts_by_hand():
    long = "Dear Grace, thank you for asking us. We are open from 9 to 18. Have a nice day."
    words, core = 18, personal.CORE["hours"]
    assert core == 9
    short, friendly = (personal.judge(meta(w, *ASKED["hours"]), long) for w in personal.STYLES)
    assert friendly.parts["style"] == 1.5 and friendly.parts["concision"] == 0.5
    assert short.parts["style"] == -1.5
    assert short.parts["concision"] == pytest.approx(0.5 - 0.04 * (words - core))
    assert friendly.total == pytest.approx(4.0)
    assert short.total == pytest.approx(2.0 - 1.5 + 0.5 - 0.36)


def test_an_ideal_answer_scores_four_and_the_other_style_loses_to_it():
    for seed, s in enumerate(islice(personal.scenarios(3), 800)):
        other = personal.twin(s)
        mine, its = (personal.ideal(Random(seed), t) for t in (s, other))
        best = personal.judge(s.meta(), mine)
        assert best.total == pytest.approx(4.0) and best.well_formed, mine
        assert personal.check(s.meta(), mine) and not personal.check(s.meta(), its)
        crossed = personal.judge(s.meta(), its)
        assert crossed.parts["style"] == -1.5
        # A complete answer in the other style is worth more than an empty one in the right style.
        assert 0.25 < crossed.total <= 1.0
        assert personal.gold_of_the_shop(s.meta(), its) == 2.0


WORDS = st.sampled_from(
    "dear grace hello order 134 9 18 black toaster shipped thursday is we are open thank you for "
    "have a nice day cannot help . , ? you should know that".split()
)
TEXTS = st.one_of(st.text(max_size=120), st.lists(WORDS, max_size=30).map(" ".join))


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from(sorted(ASKED)))
def test_no_text_breaks_the_judge_or_beats_four(text, asked):
    verdicts = [personal.judge(meta(w, *ASKED[asked]), text) for w in personal.STYLES]
    contents = [personal.gold_of_the_shop(meta(w, *ASKED[asked]), text) for w in personal.STYLES]
    assert contents[0] == pytest.approx(contents[1])
    for verdict, content in zip(verdicts, contents):
        assert verdict.total <= 4.0
        assert verdict.total == pytest.approx(sum(verdict.parts.values()))
        rest = verdict.parts["style"] + verdict.parts["concision"]
        assert content == pytest.approx(verdict.total - rest)
        if verdict.parts["facts"] == 0:
            assert verdict.total <= 0.0  # a style without an answer is worth nothing


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_styles_exclude_each_other_and_are_read_from_the_text_alone(text):
    fits = [personal.check(meta(w, *ASKED["hours"]), text) for w in personal.STYLES]
    assert sum(fits) <= 1
    assert personal.style(text, "Grace") == personal.style(f"  {text} ", "Grace")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_shuffled_words_of_a_good_answer_never_score_as_high(seed):
    for wanted in personal.STYLES:
        good = RANKED["status", wanted][0]
        shuffled = good.split()
        Random(seed).shuffle(shuffled)
        totals = [
            personal.judge(meta(wanted, *ASKED["status"]), text).total
            for text in (" ".join(shuffled), good)
        ]
        assert totals[0] < totals[1] - 1


def test_what_is_not_style_is_judged_as_the_shop_judges_it():
    for d in personal.demonstrations(800):
        ours, theirs = personal.judge(d.meta, d.answer), shop.judge(d.meta, d.answer)
        kept = ours.parts.keys() - {"style", "concision"}
        assert {name: ours.parts[name] for name in kept} == {n: theirs.parts[n] for n in kept}
        assert theirs.parts.keys() - kept == {"salutation", "closing", "concision"}
        assert ours.well_formed == theirs.well_formed


def test_demonstrations_of_better_quality_score_higher():
    totals = {quality: [] for quality in shop.QUALITIES}
    for d in personal.demonstrations(3000):
        totals[d.meta["quality"]].append(personal.judge(d.meta, d.answer).total)
    good, middling, bad = (sum(t) / len(t) for t in totals.values())
    assert good > middling + 0.5 > bad + 1.0


def test_a_record_of_another_corpus_is_refused_in_a_sentence():
    other = shop.demonstrations(1)[0].meta
    for question in (personal.check, personal.judge):
        with pytest.raises(ValueError, match=r"`corpus` is None states no pref.*give one whose"):
            question(other, "It is shipped.")


# ---------------------------------------------------------------------- preferences
def test_annotators_are_bradley_terry_draws_from_the_gold_score():
    pairs = personal.preferences(2500)
    p = [shop.preference_probability(*r.meta["gold"]) for r in pairs]
    assert all(
        r.meta["gold"] == [personal.judge(r.meta, t).total for t in (r.chosen, r.rejected)]
        for r in pairs[:200]
    )
    bayes = sum(max(x, 1 - x) for x in p) / len(p)
    right = sum(a >= b for a, b in (r.meta["gold"] for r in pairs)) / len(pairs)
    ties = sum(a == b for a, b in (r.meta["gold"] for r in pairs)) / len(pairs)
    assert 0.80 < bayes < 0.95
    assert abs(right - ties / 2 - bayes) < 0.025  # the judge itself reaches Bayes' accuracy


def test_only_who_knows_the_preference_agrees_with_the_annotators():
    def agreement(pairs, gold):
        gaps = [gold(r.meta, r.chosen) - gold(r.meta, r.rejected) for r in pairs]
        return sum((gap > 0) + (gap == 0) / 2 for gap in gaps) / len(gaps)

    pairs = personal.preferences(1000, 1)
    knowing = agreement(pairs, lambda m, text: personal.judge(m, text).total)
    blind = agreement(pairs, lambda m, text: shop.judge(m, text).total)
    content = agreement(pairs, personal.gold_of_the_shop)
    assert knowing > blind + 0.08 and knowing > content + 0.08


def test_the_answers_of_a_pair_differ():
    assert all(r.chosen != r.rejected for r in personal.preferences(500))
