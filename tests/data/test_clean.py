"""Cleaning: each step on cases by hand, then its laws on arbitrary text."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data import clean, shop
from chatlib.data.readers import read
from chatlib.data.schema import Dialogue, Preference

text = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<p>Dear Ana,<br/>it&#39;s <b>due</b>.</p>", "\nDear Ana,\nit's due.\n"),
        ("if a < b and c > d: List<int>", "if a < b and c > d: List<int>"),
        ("&lt;b&gt; is bold &amp; <i>this</i> slanted", "<b> is bold & this slanted"),
        ("<script>alert('x < y')</script>Hi<!-- no -->", "Hi"),
        ('<a href="x?a=1&amp;b=2">link</a>', "link"),
    ],
)
def test_markup(raw, expected):
    assert clean.strip_markup(raw) == expected


def test_normal_form_and_width_differ_on_chinese_punctuation():
    assert clean.normal_form("Chloe\u0301") == "Chloé"
    assert clean.fold_width("订单１２３，ＯＫ。") == "订单123，OK。"
    assert clean.normal_form("订单１２３，ＯＫ。", "NFKC") == "订单123,OK。"
    assert clean.normal_form("x²", "NFKC") == "x2"


def test_whitespace():
    raw = " a\u00a0 b\r\n\r\n\r\n\tc\u200b\x07d \n"
    assert clean.whitespace(raw) == "a b\n\ncd"
    family = "👨\u200d👩\u200d👧"
    assert clean.whitespace(family) == family


@pytest.mark.parametrize(
    ("raw", "dropped", "named"),
    [
        ("ok 🙏", "ok ", "ok :person with folded hands:"),
        ("👨\u200d👩\u200d👧!", "!", ":man:!"),
        ("👍🏽 👍", " ", ":thumbs up sign: :thumbs up sign:"),
        ("🇩🇪 1️⃣", " ", ":regional indicator symbol letter d: :digit one:"),
        ("© 2024 ™ #1 *", "© 2024 ™ #1 *", "© 2024 ™ #1 *"),
    ],
)
def test_emoji(raw, dropped, named):
    assert clean.emoji(raw) == dropped
    assert clean.emoji(raw, "name") == named
    assert clean.emoji(raw, "keep") == raw


def test_an_unknown_emoji_policy_is_refused():
    with pytest.raises(ValueError, match="'hide' is unknown; use keep, drop or name"):
        clean.emoji("x", "hide")


@pytest.mark.parametrize(
    "number",
    [
        "+49 30 123 4567",
        "(030) 123-4567",
        "030/1234567",
        "+1 212-555-0123",
        "13812345678",
        "0171 234 56 78",
        "212.555.0123",
        "+4930123456",
    ],
)
def test_telephone_numbers_are_redacted(number):
    assert clean.redact(f"Call {number}, please.") == "Call [PHONE], please."


@pytest.mark.parametrize(
    "kept",
    [
        "order 314",
        "2024-05-17",
        "17.05.2024",
        "192.168.100.200",
        "1 234 567 euros",
        "12.345.678",
        "pi is 3.14159265",
        "order 12345678",
        "from 9 to 17",
        "589 656",
        "v1.2.3",
        "a 10/20 b",
    ],
)
def test_other_numbers_are_not(kept):
    assert clean.redact(kept) == kept


def test_email_addresses_are_redacted():
    said = "Write to ana.li+shop@mail.example.org. Not @ana, not a@b."
    assert clean.redact(said) == "Write to [EMAIL]. Not @ana, not a@b."


def test_signature():
    assert clean.strip_signature("Hi.\n-- \nAna\n+49 30 1") == "Hi."
    assert clean.strip_signature("a -- b\n--- \nc") == "a -- b\n--- \nc"


@pytest.mark.parametrize("name", clean.STEPS)
@given(text)
def test_steps_are_total_and_keep_plain_sentences(name, junk):
    step = clean.STEPS[name]
    assert isinstance(step(junk), str)
    plain = "Dear Ana, order 314 is due on Monday."
    assert step(plain) == plain


@pytest.mark.parametrize("name", [n for n in clean.STEPS if n != "markup"])
@given(text)
def test_steps_done_twice_are_done_once(name, junk):
    step = clean.STEPS[name]
    assert step(step(junk)) == step(junk)


@given(text)
def test_normal_form_is_unicode_s(junk):
    assert unicodedata.is_normalized("NFC", clean.normal_form(junk))


# --- duplicates

words = st.lists(st.sampled_from("abcdefgh"), min_size=20, max_size=60).map("".join)


@settings(max_examples=30, deadline=None)
@given(words, words)
def test_minhash_estimates_jaccard(a, b):
    a, b = clean.shingles(a, 3), clean.shingles(b, 3)
    truth, n = clean.jaccard(a, b), 2048
    estimate = np.mean(clean.minhash(a, n) == clean.minhash(b, n))
    # 5 standard deviations of a mean of n draws, and a little for the hashes' dependence
    assert abs(estimate - truth) < 5 * (truth * (1 - truth) / n) ** 0.5 + 0.02


def test_candidate_probability_is_what_banding_does():
    rng = np.random.default_rng(0)
    agree = rng.random((20_000, 8, 4)) < 0.7
    assert abs(agree.all(2).any(1).mean() - clean.candidate_probability(0.7, 8, 4)) < 0.015
    assert clean.candidate_probability(1) == 1 and clean.candidate_probability(0) == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(words, min_size=2, max_size=12))
def test_near_duplicates_are_those_of_all_pairs(texts):
    found = clean.near_duplicates(texts, 0.9)
    sets = [clean.shingles(t) for t in texts]
    kept = []
    for i, items in enumerate(sets):
        first = next((j for j in kept if clean.jaccard(items, sets[j]) >= 0.9), None)
        assert found.get(i) == first
        if first is None:
            kept.append(i)


def test_shingles_of_short_and_chinese_text():
    assert clean.shingles("Hi!") == {"hi"}
    assert clean.shingles("订单还没到吗？") == {"订单还没到", "单还没到吗"}
    assert clean.jaccard(set(), set()) == 1


# --- the pipeline


def said(*texts):
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": t} for i, t in enumerate(texts)]
    return Dialogue(turns, {"spans": [(0, 0, 1, "NAME")], "kind": "test"})


def test_every_change_is_counted():
    records = [
        said("Hi", "Hello <b>you</b>."),
        said("Hi", "Hello you."),
        said("When does order 314 arrive?", "Order 314 arrives on Monday morning."),
        said("When does order 314 arrive?", "Order 314 arrives on Monday morning. ok"),
        said("Hi", "🙏"),
    ]
    kept, table = clean.clean(records)
    assert [r.answer for r in kept] == ["Hello you.", "Order 314 arrives on Monday morning."]
    rows = table.set_index("step")
    assert rows["changed"].to_dict() == {
        **dict.fromkeys(rows.index, 0),
        "markup": 1,
        "emoji": 1,
    }
    dropped = rows["dropped"]
    assert (dropped["empty"], dropped["exact duplicate"], dropped["near duplicate"]) == (1, 1, 1)
    assert len(records) - dropped.sum() == len(kept)
    assert "spans" not in kept[0].meta and kept[0].meta["kind"] == "test"
    assert "spans" in kept[1].meta


def test_preferences_that_become_equal_are_dropped():
    prompt = [{"role": "user", "content": "q"}]
    records = [Preference(prompt, "a", "<b>a</b>"), Preference(prompt, "a", "b")]
    kept, table = clean.clean(records, near=None)
    assert kept == records[1:]
    assert table.set_index("step")["dropped"]["empty"] == 1


def test_the_shop_s_mess_is_undone():
    """Whatever was done to a text, its words come back (line breaks may differ from spaces)."""
    items = [r for r in shop.raw(600) if not any("duplicate" in m for m in r["mess"])]
    for item in items:
        for messy, wanted in zip(item["messages"], item["clean"]):
            assert clean.clean_text(messy["content"]).split() == wanted["content"].split()


def test_real_files_survive_cleaning(real):
    records = read(real / "alpaca_zh_demo.json").records
    kept, table = clean.clean(records)
    assert len(records) - table["dropped"].sum() == len(kept) > 950
