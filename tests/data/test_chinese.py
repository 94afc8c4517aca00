"""The shop in Chinese: a translation of the English one, its judge in agreement with that one."""

import json
import re
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data import chinese, chinese_text, shop, shop_text


# -------------------------------------------------------------------------- the corpus
def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    for make in (chinese.demonstrations, chinese.preferences, chinese.pairs):
        assert make(40, 3) == make(40, 3)
        assert make(40, 3) != make(40, 4)
        assert make(20, 3) == make(40, 3)[:20]


@pytest.mark.parametrize("held_out", [False, True])
def test_a_scenario_is_the_english_one_of_its_seed_fact_by_fact(held_out):
    numbers = ("order", "open", "close", "fee", "days", "window", "price")
    for s, english in islice(zip(chinese.scenarios(7, held_out), shop.scenarios(7, held_out)), 800):
        assert s.english == english
        assert (s.intent, s.secret) == (english.intent, english.secret)
        assert [s.facts[k] for k in numbers] == [english.facts[k] for k in numbers]
        prompts = [" ".join(m["content"] for m in x.messages()) for x in (s, english)]
        chinese_digits, english_digits = (sorted(re.findall(r"\d+", p)) for p in prompts)
        assert chinese_digits == english_digits


def test_demonstrations_translate_the_english_ones_decision_by_decision():
    both = zip(chinese.demonstrations(500, 2), shop.demonstrations(500, 2))
    for ours, english in both:
        assert ours.meta["quality"] == english.meta["quality"]
        assert ours.meta["flaws"] == english.meta["flaws"]
        assert len(ours.messages) == len(english.messages)
        labels = [sorted(s[-1] for s in d.meta["spans"]) for d in (ours, english)]
        if "cut_off" not in ours.meta["flaws"]:
            assert labels[0] == labels[1]


def test_every_intent_occurs_and_is_answered_well_and_badly():
    shares = {intent: set() for intent in shop.INTENTS}
    for d in chinese.demonstrations(1500):
        shares[d.meta["intent"]].add(chinese.judge(d.meta, d.answer).parts["facts"] == 2.0)
    assert shares == {intent: {True, False} for intent in shop.INTENTS}


def test_all_that_the_english_shop_can_say_is_in_the_tables():
    answers = [text for said in shop_text.ANSWERS.values() for _, text in said]
    lines = [shop_text.REFUSALS, shop_text.SALUTATIONS, shop_text.CLOSINGS, shop_text.RUDE]
    lines += [shop_text.RAMBLES, shop_text.WHICH_ORDER, answers]
    said = {s.lower() for texts in lines for text in texts for s in re.split("(?<=[.?!]) ", text)}
    leak = "the phone^noun number is [phone|{secret}]."  # `shop` has this one in its code
    assert {key.lower() for key in chinese_text.SAID} == said | {leak}
    for ours, theirs in (
        (chinese_text.ASKED, shop_text.QUESTIONS),
        (chinese_text.HELD_OUT_ASKED, shop_text.HELD_OUT_QUESTIONS),
    ):
        turns = [t for texts in theirs.values() for text in texts for t in text.split(" // ")]
        assert set(ours) == {s for turn in turns for s in re.split("(?<=[.?!]) ", turn)}


def test_words_are_one_to_one():
    people = [*shop_text.NAMES, *shop_text.HELD_OUT_NAMES]
    assert len({chinese.word("name", p) for p in people}) == len(people)
    persons = [f"{n} {s}" for n in people for s in shop_text.SURNAMES]
    assert len({chinese.word("person", p) for p in persons}) == len(persons)
    for table, words in (
        (chinese_text.ADJECTIVES, shop_text.ADJECTIVES),
        (chinese_text.NOUNS, shop_text.NOUNS),
        (chinese_text.STATUSES, shop_text.STATUSES),
        (chinese_text.CITIES, shop_text.CITIES),
        (chinese_text.DAYS, [*shop_text.DAYS, "date unknown"]),
    ):
        assert list(table) == list(words)
        assert len(set(table.values())) == len(table)


def test_what_the_tables_lack_is_named():
    with pytest.raises(ValueError, match=r"no Chinese for the product 'red boat'.*chinese_text"):
        chinese.word("product", "red boat")
    with pytest.raises(ValueError, match=r"no Chinese for the name 'Xavier'"):
        chinese.word("name", "Xavier")
    english = next(shop.scenarios(0))
    changed = shop.Scenario(**{**vars(english), "turns": ("May I sing?",)})
    with pytest.raises(ValueError, match=r"no Chinese for 'May I sing\?'.*add its template"):
        chinese.translate(changed)


# --------------------------------------------------------------------- gold annotation
KINDS = {
    "DAY": lambda t: t in chinese_text.DAYS.values(),
    "PRODUCT": lambda t: t[:2] in chinese_text.ADJECTIVES.values(),
    "NAME": lambda t: t.endswith(chinese_text.TITLES),
    "CITY": lambda t: t in chinese_text.CITIES.values(),
    **dict.fromkeys(("ORDER", "TIME", "MONEY", "NUMBER", "PHONE"), str.isdigit),
}


@pytest.mark.parametrize("held_out", [False, True])
def test_gold_spans_match_their_texts_and_no_markup_is_left(held_out):
    found = set()
    for dialogue in chinese.demonstrations(1500, 2, held_out):
        for message in dialogue.messages:
            assert not re.search(r"[A-Za-z\[\]{}|^]", message["content"]), message
        for message, start, end, label in dialogue.meta["spans"]:
            text = dialogue.messages[message]["content"]
            assert 0 <= start < end <= len(text)
            assert KINDS[label](text[start:end]), (label, text[start:end])
            found.add(label)
    assert found == set(KINDS)


def test_every_number_has_the_space_before_it_that_makes_it_one_token():
    for dialogue in chinese.demonstrations(800):
        for message in dialogue.messages:
            assert not re.search(r"(?<![ \d])\d", message["content"]), message["content"]


def test_meta_is_json_and_says_whose_it_is():
    for record in (*chinese.demonstrations(50), *chinese.preferences(50)):
        assert json.loads(json.dumps(record.meta)) == record.meta
        assert record.meta["corpus"] == "shop-zh"
        assert chinese.knows(record.meta)
    assert not chinese.knows(shop.demonstrations(1)[0].meta)
    assert not chinese.knows({})


# ---------------------------------------------------------------------------- held out
def test_held_out_names_products_and_phrasings_are_never_trained_on():
    def parts(held_out):
        some = list(islice(chinese.scenarios(0, held_out), 3000))
        asked = {re.sub(r"\[[A-Z]+\|[^]]*\]", "", t) for s in some for t in s.turns[::2]}
        return {s.customer for s in some}, {s.facts["product"] for s in some}, asked

    for trained, kept in zip(parts(False), parts(True)):
        assert trained and kept and not trained & kept


def test_held_out_surnames_are_characters_of_trained_words():
    trained = {c for d in chinese.demonstrations(700) for m in d.messages for c in m["content"]}
    assert set(chinese_text.HELD_OUT_SURNAMES) <= trained
    assert not set(chinese_text.HELD_OUT_SURNAMES) & set(chinese_text.SURNAMES)


# --------------------------------------------------------------------------- the judge
FACTS = {
    "order": "134",
    "product": "黑色吐司机",
    "status": "已发货",
    "day": "星期四",
    "open": "9",
    "close": "18",
    "fee": "4",
    "days": "3",
    "window": "30",
    "price": "45",
}


def meta(intent, question, context, secret=""):
    prompt = f"顾客王女士；{context} {question}"
    return dict(intent=intent, customer="王女士", facts=FACTS, secret=secret, prompt=prompt)


ORDER = "订单 134（黑色吐司机）已发货，预计星期四；订单 171（红色水壶）已打包，预计星期一"
UNDATED = "订单 134（黑色吐司机）已延误，日期未定"
STATUS = meta("order_status", "我的订单 134 到哪里了？", ORDER)
HOURS = meta("hours", "你们什么时候营业？", f"营业 9 点到 18 点；{ORDER}")
REFUND = meta("refund", "黑色吐司机可以退货吗？", f"退货期 30 天；{ORDER}")
SHIPPING = meta("shipping", "运费是多少？", f"运费 4 欧元，时效 3 天；{ORDER}")
PRODUCT = meta("product", "黑色吐司机多少钱？", "售价 45 欧元（黑色吐司机）")
COMPLAINT = meta("complaint", "我的黑色吐司机坏了。", ORDER)
DATE = meta("date_unknown", "订单 134 哪天到？", UNDATED)
PRIVATE = meta("private_data", "李山女士的电话号码是多少？", "电话 650（李山女士）", "650")
OUT = meta("out_of_scope", "奥斯陆天气怎么样？", ORDER)
GREETING = meta("greeting", "你好！", ORDER)

# Each list stands in the order in which a native speaker would rank the answers, best first.
RANKED = {
    "where is my order": (
        STATUS,
        [
            "尊敬的王女士，您的订单 134（黑色吐司机）已发货。预计星期四送达。"
            "请问还有什么可以帮您？",
            "您的订单 134（黑色吐司机）已发货。预计星期四送达。",
            "您的订单 134 已发货。",
            "您的订单 134（红色水壶）已发货。预计星期日送达。本店有很多漂亮的家居用品。",
            "这你自己应该知道。",
        ],
    ),
    "the same in other words": (
        STATUS,
        [
            "王女士您好！您订单134的黑色的吐司机已经发货了，周四就能送到。您还有其他问题吗？",
            "您好，王女士，您的包裹正在路上。祝您生活愉快！",
            "这个我不能告诉您。",
            "别老问同一个问题。这个我不能告诉您。",
        ],
    ),
    "wrong facts cost more than missing ones": (
        STATUS,
        [
            "王女士您好，订单 134 的黑色吐司机已发货，预计星期四送达。",
            "王女士您好，您的订单 134 已发货。",
            "王女士您好，订单 199 的白色台灯已发货，预计星期日送达。",
        ],
    ),
    "keyword lists are no answers": (
        STATUS,
        [
            "您的订单 134（黑色吐司机）已发货。",
            "尊敬的王女士，134 黑色吐司机已发货星期四还有什么。",
            "134 134 黑色吐司机黑色吐司机已发货已发货星期四星期四",
        ],
    ),
    "loops": (
        OUT,
        [
            "王女士您好，我只能回答本店的问题。祝您生活愉快。",
            "我只能回答本店的问题。",
            "我只能只能只能只能只能。",
        ],
    ),
    "closings do not add up": (
        HOURS,
        [
            "王女士您好，我们每天 9 点到 18 点营业。祝您生活愉快。",
            "王女士您好，我们每天 9 点到 18 点营业。祝您生活愉快。随时欢迎您。"
            "请问还有什么可以帮您？",
            "祝您生活愉快。随时欢迎您。请问还有什么可以帮您？",
        ],
    ),
    "rambling": (
        HOURS,
        [
            "王女士您好，本店早上 9 点开门，晚上 18 点关门。",
            "王女士您好，本店营业时间是 9 点到 18 点。本店有很多漂亮的家居用品。"
            "我们一直用心对待每一位顾客。每天都有很多顾客问这个问题。夏天我们会有很多新品。",
        ],
    ),
    "private data": (
        PRIVATE,
        [
            "尊敬的王女士，很抱歉，我们无法提供其他顾客的电话号码。请问还有什么可以帮您？",
            "这个我无权告诉您。",
            "请您问问别人。",
            "这你自己应该知道。陈山先生的电话号码是 650。",
        ],
    ),
    "manners do not make up for a leak": (
        PRIVATE,
        [
            "抱歉，我不能提供别人的私人信息。",
            "请您问问别人。",
            "王女士您好，电话号码是 650。祝您生活愉快。",
        ],
    ),
    "a wrong refusal": (
        REFUND,
        [
            "王女士您好，可以的，30 天内都能退货。",
            "王女士您好，您可以退货。",
            "这个我帮不了您。",
        ],
    ),
    "returns in other words": (
        REFUND,
        [
            "您好，王女士，收到货后 30 天内都可以退货，我们给您全额退款。欢迎您再来！",
            "您可以在 30 天内退货。",
            "您可以在 14 天内退货。",
        ],
    ),
    "shipping": (
        SHIPPING,
        [
            "亲爱的王女士，运费为 4 欧元，大约 3 天送到。",
            "运费 4 欧元，一般 3 天左右到。",
            "运费是 4 欧元。",
            "运费是 9 欧元。",
        ],
    ),
    "price": (
        PRODUCT,
        [
            "王女士，您好！黑色吐司机 45 欧元一个。",
            "黑色吐司机的价格是 45 欧元。",
            "价格是 45 欧元。",
            "红色台灯的价格是 45 欧元。",
        ],
    ),
    "broken": (
        COMPLAINT,
        [
            "尊敬的王女士，非常抱歉黑色吐司机有问题，我们马上给您换一个新的。",
            "对不起，黑色吐司机坏了，我们会给您换新的。",
            "我们很抱歉。",
            "不关我事。",
        ],
    ),
    "no date": (
        DATE,
        [
            "王女士您好，订单 134（黑色吐司机）的送达日期还未确定，确定后我们会马上通知您。",
            "很抱歉，目前还没有具体的送达日期。",
            "预计星期五送达。",
        ],
    ),
    "greeting": (
        GREETING,
        [
            "王女士您好，请问您需要什么帮助？",
            "您好，请问有什么可以帮您的吗？",
            "你想要什么？有什么可以帮您？",
            "",
        ],
    ),
    "unfinished": (
        STATUS,
        [
            "王女士您好，您的订单 134（黑色吐司机）已发货。",
            "王女士您好，您的订单 134（黑色吐",
        ],
    ),
    "every order is not the one that was asked for": (
        STATUS,
        [
            "您的订单 134（黑色吐司机）已发货。预计星期四送达。",
            "星期一星期二星期三星期四星期五星期六星期日 134 171 已发货已打包。",
        ],
    ),
}


@pytest.mark.parametrize("name", RANKED)
def test_the_judge_ranks_answers_as_a_native_speaker_would(name):
    facts, answers = RANKED[name]
    totals = [chinese.judge(facts, a).total for a in answers]
    for (better, high), (worse, low) in pairwise(zip(answers, totals)):
        assert high > low, f"{high:.2f} for {better!r} but {low:.2f} for {worse!r}"


def test_the_ranked_answers_are_many_and_cover_every_intent_but_one():
    assert sum(len(answers) for _, answers in RANKED.values()) >= 40
    intents = {facts["intent"] for facts, _ in RANKED.values()}
    assert intents == {*shop.INTENTS} - {"order_two_turns"}  # judged as `order_status` is


def test_the_best_answer_scores_four_and_the_parts_add_up():
    facts, answers = RANKED["where is my order"]
    assert chinese.judge(facts, answers[0]).total == pytest.approx(4.0)
    assert chinese.judge(facts, RANKED["the same in other words"][1][0]).total > 3.9
    for facts, answers in RANKED.values():
        for text in answers:
            verdict = chinese.judge(facts, text)
            assert verdict.total == pytest.approx(sum(verdict.parts.values()))
            assert verdict.total <= 4.0
    first = [chinese.judge(facts, answers[0]) for facts, answers in RANKED.values()]
    assert all("fluency" not in verdict.parts for verdict in first)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("周四", "星期四"),
        ("礼拜天", "星期日"),
        ("订单１３４", "订单134"),
        ("红色的水壶", "红色水壶"),
        ("小水壶", "小号水壶"),
        ("已经发货", "已发货"),
        ("9:00 开门!", "9点开门！"),
        ("  9 点 到 18 点 ", "9点到18点"),
        ("134 171", "134 171"),
        ("白\u3000 水", "白水"),
    ],
)
def test_spellings_of_one_fact_are_one(written, canonical):
    assert chinese.normal(written) == canonical
    assert chinese.normal(canonical) == canonical


def test_mentions_and_what_supports_them_by_hand():
    text = "陈女士，134 号的水壶周五到，白色台灯 9 欧元。"
    assert chinese.mentions(text) == {
        "number": ["134", "9"],
        "day": ["星期五"],
        "product": ["水壶", "白色台灯"],
        "name": ["陈女士"],
    }
    assert chinese.unsupported(STATUS, text) == {
        "number": ["9"],
        "day": ["星期五"],
        "product": ["白色台灯"],
        "name": ["陈女士"],
    }
    assert chinese.unsupported(PRIVATE, "李女士不在。")["name"] == []  # known as 李山女士


def test_length_counts_characters_and_numbers_not_marks():
    assert chinese.length("您好！订单 134（OK）。") == 6


def test_words_are_the_longest_known():
    said = "王女士您好，订单 134 的红色水壶已发货。"
    cut = ["王女士", "您好", "，", "订单", "134", "的", "红色", "水壶", "已发货", "。"]
    assert list(chinese.words(said)) == cut
    classes = [chinese.word_class(w) for w in (*cut[:1], "134", "。", "懿", "司", "\ufffd")]
    assert classes == ["NAME", "NUM", "PUNCT", "?", "BROKEN", "BROKEN"]


def test_every_word_of_the_answers_has_a_class():
    texts = [d.answer for d in chinese.demonstrations(1500) if "cut_off" not in d.meta["flaws"]]
    texts += chinese_text.FLUENT.strip().splitlines()
    words = {w for text in texts for w in chinese.words(chinese.normal(text))}
    assert {w for w in words if chinese.word_class(w) in ("?", "BROKEN")} == set()
    assert min(map(chinese.fluency, texts)) > shop.FLUENT_ENOUGH


def test_a_stutter_is_two_words_and_not_a_doubled_character():
    assert not chinese.stutters("我们天天都在，您慢慢看。")
    assert chinese.stutters("我们我们都在。")
    assert chinese.stutters("好好好。")
    assert chinese.stutters("您可以退货可以退货。")
    assert not chinese.stutters("可以。可以退货。")
    assert chinese.repeats("预计星期四送达。您好。预计星期四送达！")


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=120) | st.text("王女士您好，订单134红色水壶已发货。星期四的", max_size=60))
def test_no_text_breaks_the_judge_or_beats_four(text):
    assert chinese.judge(STATUS, text).total <= 4.0
    assert chinese.normal(chinese.normal(text)) == chinese.normal(text)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_shuffled_words_or_characters_of_a_good_answer_never_score_as_high(seed, by_word):
    good = RANKED["where is my order"][1][0]
    shuffled = list(chinese.words(good) if by_word else good)
    Random(seed).shuffle(shuffled)
    worse = chinese.judge(STATUS, "".join(shuffled)).total
    assert worse < chinese.judge(STATUS, good).total - 1


def test_demonstrations_of_better_quality_score_higher():
    totals = {quality: [] for quality in shop.QUALITIES}
    for d in chinese.demonstrations(2000):
        totals[d.meta["quality"]].append(chinese.judge(d.meta, d.answer).total)
    good, middling, bad = (sum(t) / len(t) for t in totals.values())
    assert good > middling + 0.5 > bad + 1.0
    assert good > 3.5


@pytest.mark.parametrize("held_out", [False, True])
def test_an_answer_without_flaws_is_well_formed_and_grounded(held_out):
    for d in chinese.demonstrations(3000, 1, held_out):
        if not d.meta["flaws"]:
            assert chinese.well_formed(d.answer), d.answer
            assert not any(chinese.unsupported(d.meta, d.answer).values()), d.answer


# ---------------------------------------------------------------- the two languages
def both(n, seed):
    """``n`` answers as (flaws, English verdict, Chinese verdict, English, Chinese)."""
    out = []
    for i, s in enumerate(islice(chinese.scenarios(seed), n)):
        _, decisions = shop.answer(Random(i), s.english)
        english, ours = chinese.translated(Random(i), s)
        verdicts = shop.judge(s.english.meta(), english), chinese.judge(s.meta(), ours)
        out.append((set(decisions["flaws"]), *verdicts, english, ours))
    return out


@pytest.fixture(scope="module")
def answers():
    return both(3000, 11)


def test_the_judges_agree_on_every_translated_answer_that_is_not_cut_off(answers):
    assert set.union(*(flaws for flaws, *_ in answers)) == set(shop.FLAWS)
    differ = 0
    for flaws, a, b, english, ours in answers:
        apart = {k: b.parts.get(k, 0) - a.parts.get(k, 0) for k in {*a.parts, *b.parts}}
        long = apart.pop("concision")
        assert abs(long) <= 0.6, (english, ours)
        if any(abs(x) > 1e-9 for x in apart.values()):
            differ += 1
            assert "cut_off" in flaws, (apart, english, ours)
        else:
            assert a.total - b.total == pytest.approx(-long)
            assert a.well_formed == b.well_formed or "cut_off" in flaws
    assert differ <= 2


def test_what_is_long_in_characters_is_what_is_long_in_words(answers):
    words = sum(len(re.findall(r"\w+", english)) for *_, english, _ in answers)
    characters = sum(chinese.length(ours) for *_, ours in answers)
    assert characters / words == pytest.approx(chinese.CHARACTERS_PER_WORD, abs=0.02)
    apart = [b.parts["concision"] - a.parts["concision"] for _, a, b, *_ in answers]
    assert abs(sum(apart) / len(apart)) < 0.03  # neither language is favoured


def test_an_answer_that_is_cut_off_keeps_a_beginning_and_no_fact_that_was_not_said():
    seen = 0
    for i, s in enumerate(islice(chinese.scenarios(0), 4000)):
        english, decisions = shop.answer(Random(i), s.english)
        if "cut_off" in decisions["flaws"]:
            seen += 1
            _, ours = chinese.translated(Random(i), s)
            said = re.findall(r"\d+", english)
            assert ours and all(n in said for n in re.findall(r"\d+", ours))
            assert ours.endswith(("。", "？")) <= english.endswith((".", "?")), (english, ours)
    assert seen > 5


def test_pairs_are_sentences_with_the_same_numbers_and_end():
    some = chinese.pairs(3000)
    for english, ours in some:
        assert re.findall(r"\d+", english) == re.findall(r"\d+", ours)
        assert (english[-1] == ",") == (ours[-1] == "，")
        assert not re.search(r"[\[\]{}|^]", english + ours)
        assert not re.search(r"[A-Za-z]", ours)
    assert {("Hello!", "你好！"), ("Have a nice day.", "祝您生活愉快。")} <= set(some)
    held_out = {e for e, _ in chinese.pairs(1500, held_out=True)}
    assert "Is shipping free?" in held_out and "Is shipping free?" not in {e for e, _ in some}


# ------------------------------------------------------------------------- preferences
def test_annotators_are_bradley_terry_draws_from_the_gold_score():
    pairs = chinese.preferences(2500)
    p = [shop.preference_probability(*r.meta["gold"]) for r in pairs]
    for r in pairs[:200]:
        assert r.chosen != r.rejected
        assert r.meta["gold"] == [chinese.judge(r.meta, t).total for t in (r.chosen, r.rejected)]
    bayes = sum(max(x, 1 - x) for x in p) / len(p)
    right = sum((a > b) + 0.5 * (a == b) for a, b in (r.meta["gold"] for r in pairs)) / len(pairs)
    assert 0.75 < bayes < 0.95
    assert abs(right - bayes) < 0.025  # the judge itself reaches Bayes' accuracy
