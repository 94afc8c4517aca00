"""The shop in Chinese: the scenarios and answers of `shop`, said in simplified Chinese.

The scenario of a seed is the English scenario of that seed, translated: the same intent, order,
numbers, day, product and customer. An answer is made by `shop.answer`, so its decisions are the
English ones, and then translated sentence by sentence with the tables of `chinese_text`. So the
two languages can be compared prompt by prompt. `judge` reads Chinese text and applies the same
rubric; all of it is deterministic from a seed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from random import Random

from chatlib.data import annotators, shop, shop_text
from chatlib.data.annotators import Trigram
from chatlib.data.chinese_text import (
    ADJECTIVES,
    ASKED,
    CITIES,
    CLASSES,
    DAYS,
    FLUENT,
    GIVEN,
    HELD_OUT_ASKED,
    HELD_OUT_SURNAMES,
    LINES,
    MEN,
    NOUNS,
    SAID,
    STATUSES,
    SURNAMES,
    TITLES,
)
from chatlib.data.schema import Dialogue, Preference
from chatlib.data.shop import FLUENT_ENOUGH, REFUSE, REQUIRED, Score, plain

NAME = "shop-zh"
TEMPERATURE = shop.TEMPERATURE  # of the annotators, who are as noisy as the English ones

# Characters of all translated answers for one word of the English ones, a number counted as one
# character, over 20 000 answers. The English rubric's words times this are the Chinese one's
# characters.
CHARACTERS_PER_WORD = 1.47
LONG = round(26 * CHARACTERS_PER_WORD)  # characters from which an answer is too long
SHORT = round(2 * CHARACTERS_PER_WORD)  # characters up to which it is no answer
EXCESS = 0.06 / CHARACTERS_PER_WORD  # lost for a character beyond `LONG`


# ------------------------------------------------------------------ translation
def _names(english: list[str], surnames: str) -> dict[str, str]:
    """Each English name's surname and title: no two names share both."""
    men = [name for name in english if name in MEN]
    women = [name for name in english if name not in MEN]
    return {
        name: surname + title
        for group, title in zip((women, men), TITLES)
        for name, surname in zip(group, surnames)
    }


_NAMES = _names(shop_text.NAMES, SURNAMES) | _names(shop_text.HELD_OUT_NAMES, HELD_OUT_SURNAMES)
_TABLES = {"name": _NAMES, "customer": _NAMES, "city": CITIES, "day": DAYS, "status": STATUSES}


def word(slot: str, value: str) -> str:
    """The Chinese for the value of a slot; a number stays as it is.

    Raises `ValueError` for a value that `chinese_text` does not list.
    """
    try:
        if slot == "product":
            adjective, noun = value.lower().split()
            return ADJECTIVES[adjective] + NOUNS[noun]
        if slot == "person":
            name, given = value.split()
            return f"{_NAMES[name][0]}{GIVEN[given]}{_NAMES[name][1:]}"
        return _TABLES[slot][value] if slot in _TABLES else value
    except (KeyError, ValueError):
        raise ValueError(
            f"{NAME}: no Chinese for the {slot} {value!r}; add it to chatlib/data/chinese_text.py"
        ) from None


_SLOT = re.compile(r"\\\{(\w+)\\\}")  # as `re.escape` leaves it
_GAP = re.compile(r" (?![^\[]*\])")  # between two words, outside any markup
_ENGLISH_END = re.compile(r"(?<=[.!?]) ")


def _pattern(template: str) -> re.Pattern[str]:
    """What recognises a filled template; its slots are groups, its first letter of any case."""
    inner = {"status": "|".join(STATUSES), "day": r"[\w ]+"}
    escaped = re.escape(template)
    return re.compile(
        _SLOT.sub(lambda m: f"(?P<{m[1]}>{inner.get(m[1], r'[^][|]+')})", escaped), re.I
    )


@cache
def _memory() -> dict[str, list[tuple[re.Pattern[str], str]]]:
    """The translation memory, compiled: of facts, of customers' sentences, and of answers."""
    tables = {"facts": LINES, "asked": ASKED | HELD_OUT_ASKED | SAID, "said": SAID}
    return {
        name: [(_pattern(english), chinese) for english, chinese in table.items()]
        for name, table in tables.items()
    }


def _fill(template: str, values: Mapping[str, str]) -> str:
    return template.format(**{slot: word(slot, value) for slot, value in values.items()})


def _sentence(marked: str, kind: str) -> str:
    """The Chinese of one English sentence or line of facts, marked alike."""
    for pattern, chinese in _memory()[kind]:
        match = pattern.fullmatch(marked)
        if match:
            return _fill(chinese, match.groupdict())
    raise ValueError(
        f"{NAME}: no Chinese for {marked!r}; add its template to chatlib/data/chinese_text.py"
    )


def _aligned(marked: str, s: Scenario) -> list[tuple[str, str]]:
    """An answer's English sentences (and its salutation) with their Chinese, all marked."""
    out: list[tuple[str, str]] = []
    rest = marked
    while rest:
        for pattern, chinese in _memory()["said"]:
            match = pattern.match(rest)
            if match:
                out.append((match[0], _fill(chinese, match.groupdict())))
                rest = rest[match.end() :].lstrip()
                break
        else:
            return [*out, (rest, _broken_off(rest, s))]
    return out


@cache
def _beginnings() -> list[tuple[re.Pattern[str], str, float]]:
    """Every beginning of an answer's sentence: its pattern, the whole Chinese, the share said."""
    out = []
    for english, chinese in SAID.items():
        gaps = [m.start() for m in _GAP.finditer(english)]
        for i, gap in enumerate(gaps, 1):
            out.append((_pattern(english[:gap]), chinese, i / (len(gaps) + 1)))
    return out


def _broken_off(marked: str, s: Scenario) -> str:
    """The Chinese of a sentence that was cut off: as large a share, and no fact more."""
    for pattern, chinese, share in _beginnings():
        match = pattern.fullmatch(marked)
        if match:
            said = match.groupdict()
            pieces = re.findall(r"\[[^]]*\]|\{\w+\}|.", chinese)
            unsaid = [i for i, p in enumerate(pieces) if any(k not in said for k in _slots(p))]
            kept = min([int(share * len(pieces)), *unsaid])
            return _fill("".join(pieces[: max(kept, 1)]), {**s.english_slots(), **said}).rstrip()
    raise ValueError(
        f"{NAME}: no Chinese for {marked!r}; add its template to chatlib/data/chinese_text.py"
    )


def _slots(piece: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", piece)


# ------------------------------------------------------------------- scenarios
@dataclass(frozen=True, kw_only=True)
class Scenario(shop.Scenario):
    """A scenario whose texts and facts are Chinese; ``english`` is the one that it translates."""

    english: shop.Scenario

    def meta(self) -> dict:
        """What `judge` needs, as plain data; ``corpus`` says whose it is."""
        return {"corpus": NAME, **super().meta()}

    def english_slots(self) -> dict[str, str]:
        """The English values that an answer without a wrong fact has in its slots."""
        return {**self.english.facts, "name": self.english.customer, "secret": self.secret}


def translate(s: shop.Scenario) -> Scenario:
    """An English scenario in Chinese. Raises `ValueError` for text that the tables lack."""
    turns = ("".join(_sentence(e, "asked") for e in _ENGLISH_END.split(t)) for t in s.turns)
    return Scenario(
        intent=s.intent,
        customer=word("customer", s.customer),
        facts={slot: word(slot, value) for slot, value in s.facts.items()},
        context="；".join(_sentence(line, "facts") for line in s.context.split("; ")),
        turns=tuple(turns),
        secret=s.secret,
        english=s,
    )


def scenarios(seed: int, held_out: bool = False) -> Iterator[Scenario]:
    """An endless stream: the translations of `shop.scenarios` of the same seed, in order."""
    return map(translate, shop.scenarios(seed, held_out))


# --------------------------------------------------------------------- answers
def answer(rng: Random, s: Scenario) -> tuple[str, dict]:
    """One Chinese answer (marked) of random quality, and which decisions went wrong."""
    marked, decisions = shop.answer(rng, s.english)
    return "".join(chinese for _, chinese in _aligned(marked, s)), decisions


def translated(rng: Random, s: Scenario) -> tuple[str, str]:
    """One answer, of random quality, in English and in Chinese."""
    marked, _ = shop.answer(rng, s.english)
    return plain(marked), plain("".join(chinese for _, chinese in _aligned(marked, s)))


def pairs(n: int, seed: int = 0, held_out: bool = False) -> list[tuple[str, str]]:
    """``n`` sentences in English and in Chinese, of customers' turns and of answers in turn.

    A salutation is a sentence of its own here. Words and phrasings are those of the split.
    """
    rng = Random(f"translations {seed}")
    return list(islice(_pairs(rng, scenarios(seed, held_out)), n))


def _pairs(rng: Random, stream: Iterator[Scenario]) -> Iterator[tuple[str, str]]:
    for s in stream:
        asked = [e for turn in s.english.turns for e in _ENGLISH_END.split(turn)]
        marked, decisions = shop.answer(rng, s.english)
        yield from ((plain(e), plain(_sentence(e, "asked"))) for e in asked)
        if "cut_off" not in decisions["flaws"]:  # a beginning has no exact translation
            yield from ((plain(e), plain(c)) for e, c in _aligned(marked, s))


# ----------------------------------------------------------------------- judge
REFUSAL = re.compile(
    r"(?<!能)不能|无法|无权|不可以|不便(?!宜)|不方便|只能|帮不了|回答不了|没法|没办法|不允许"
)
UNKNOWN = re.compile(
    r"未确定|未定|待定|未知|没有?(?:具体的?)?(?:送达)?日期|不确定|不能确定|不清楚|不知道"
)
# Any talk of helping is an offer, as in English, even "I cannot help you".
OFFER = re.compile(r"帮|效劳|为您(?:做|服务)|还有(?:什么|其他|别的)")
SORRY = re.compile(r"抱歉|对不起|不好意思|歉意|道歉|遗憾")
RUDENESS = re.compile(
    r"应该知道|看完再来|自己看|明摆着|别(?:老|再|总)?问|浪费时间|我(?:怎么|哪)知道|你想要?什么|"
    r"[笨蠢傻]|白痴|废话|胡说|不?关我(?:什么)?事|闭嘴|烦死|没人在乎|爱买不买"
)
CLOSING = re.compile(
    r"还有(?:什么|其他|别的)|(?:其他|别的)(?:需要|问题)|祝您.*(?:愉快|快乐|顺利)|随时欢迎|欢迎(?:您)?(?:随时|再|下次)"
)
ACTS = {
    "complaint": SORRY,
    "date_unknown": UNKNOWN,
    "greeting": OFFER,
    "out_of_scope": REFUSAL,
    "private_data": REFUSAL,
}
_HELLO = r"(?:您好|你好|早上好|上午好|下午好|晚上好|尊敬的|亲爱的)"
_STOP = r"[，、！ ]*"
_PEOPLE = SURNAMES + HELD_OUT_SURNAMES
_PERSON = re.compile(rf"([{_PEOPLE}])[{''.join(GIVEN.values())}]?({'|'.join(TITLES)})")
_DAY = re.compile(r"(?:星期|礼拜|周)([一二三四五六日天])")
_FULL_WIDTH = {code + 0xFEE0: code for code in map(ord, "0123456789")}
_MARKS = {**_FULL_WIDTH, **dict(zip(map(ord, "!?,"), map(ord, "！？，")))}  # as Chinese writes
_COLOURS = {value[0]: value for value in ADJECTIVES.values()}
_LOOSE_PRODUCT = re.compile(rf"([{''.join(_COLOURS)}])[色号制]?的?({'|'.join(NOUNS.values())})")
_PRODUCT = re.compile(rf"(?:{'|'.join(ADJECTIVES.values())})?(?:{'|'.join(NOUNS.values())})")


@lru_cache(maxsize=256)
def normal(text: str) -> str:
    """One spelling of what Chinese writes in several ways, so that facts compare as text.

    Digits and marks of one width, 9:00 as 9点, 周四 as 星期四, 已经 as 已, 红水壶 and 红色的水壶 as
    红色水壶, and no space but between two letters or digits.
    """
    text = unicodedata.normalize("NFC", text.strip()).translate(_MARKS)
    text = re.sub(r"(\d)[:：]00", r"\1点", text).replace("已经", "已")
    text = _DAY.sub(lambda m: f"星期{'日' if m[1] == '天' else m[1]}", text)
    text = _LOOSE_PRODUCT.sub(lambda m: _COLOURS[m[1]] + m[2], text)
    return re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", text)


def mentions(text: str) -> dict[str, list[str]]:
    """The checkable facts that a text states: numbers, days, products and people."""
    text = normal(text)
    return {
        "number": re.findall(r"\d+", text),
        "day": [m[0] for m in _DAY.finditer(text)],
        "product": [m[0] for m in _PRODUCT.finditer(text)],
        "name": [m[1] + m[2] for m in _PERSON.finditer(text)],
    }


def unsupported(meta: dict, text: str) -> dict[str, list[str]]:
    """The mentions of ``text`` that its prompt does not make; a bare noun may lack its colour."""
    prompt = mentions(meta["prompt"])
    prompt["product"] += [noun for p in prompt["product"] for noun in NOUNS.values() if noun in p]
    return {
        kind: [v for v in values if v not in prompt[kind]]
        for kind, values in mentions(text).items()
    }


def length(text: str) -> int:
    """Characters of a text without marks; a number or a Latin word counts as one."""
    return len(re.findall(r"\d+|[A-Za-z]+|[^\W\dA-Za-z_]", text))


def sentences(text: str) -> list[str]:
    """The sentences of a text; a salutation belongs to the sentence that it opens."""
    return [s.strip() for s in re.findall(r"[^。！？]+[。！？]*", text) if s.strip()]


_RUN = re.compile(r"\d+|[A-Za-z]+")
_LONGEST = max(map(len, CLASSES))
_PARTS_OF_WORDS = frozenset("".join(CLASSES))  # characters that the shop uses


@lru_cache(maxsize=1024)
def words(text: str) -> tuple[str, ...]:
    """Words, numbers and marks of a text: at each place the longest that the shop knows.

    A person's surname and title are one word; a character that begins no known word is one too.
    """
    out: list[str] = []
    at = 0
    while at < len(text):
        whole = _PERSON.match(text, at) or _RUN.match(text, at)
        ends = range(min(at + _LONGEST, len(text)), at + 1, -1)
        end = whole.end() if whole else next((e for e in ends if text[at:e] in CLASSES), at + 1)
        if not text[at:end].isspace():
            out.append(text[at:end])
        at = end
    return tuple(out)


@cache
def word_class(word: str) -> str:
    """The class of a word; ``?`` for an unknown one, ``BROKEN`` for a piece of a known one."""
    if word in CLASSES:
        return CLASSES[word]
    if word.isdigit():
        return "NUM"
    if _PERSON.fullmatch(word):
        return "NAME"
    if word in _PARTS_OF_WORDS or word == "\ufffd":  # half a character of the tokenizer's
        return "BROKEN"
    return "?" if word[0].isalnum() else "PUNCT"


def fluency(text: str) -> float:
    """Share of the word-class trigrams of a text that the shop's Chinese contains, 0 to 1.

    A character that the shop does not use at all fits anywhere: nothing is known about it. One
    that it uses only inside other words fits nowhere, or else shuffled characters, which form
    hardly a word, would pass.
    """
    return annotators.fluency(_sentences(text), word_class, _trigrams())


@cache
def _trigrams() -> frozenset[Trigram]:
    """The word-class trigrams of all that the templates can say, and of `FLUENT`."""
    values = {"name": "王女士", "product": "红色水壶", "status": "已发货", "day": "星期一"}
    slots = {slot: values.get(slot, "9") for said in SAID for slot in _slots(said)}
    said = [plain(template.format(**slots)) for template in SAID.values()]
    hails = [text for text in said if text.endswith("，")] + ["您好，王女士，", "王女士，您好，"]
    texts = [hail + text for hail in ("", *hails) for text in said if text[-1] != "，"]
    texts += FLUENT.strip().splitlines()
    return frozenset(annotators.trigrams([s for t in texts for s in _sentences(t)], word_class))


def _sentences(text: str) -> list[tuple[str, ...]]:
    return [words(sentence) for sentence in sentences(normal(text))]


def _spoken(sentence: str) -> list[str]:
    return [w for w in words(sentence) if w[0].isalnum()]


def stutters(text: str) -> bool:
    """Whether one to three words come twice in a row within a sentence.

    One character doubled is a word of its own (慢慢, 天天); only three in a row are a stutter.
    """
    runs = [_spoken(s) for s in sentences(normal(text))]
    return any(
        r[i : i + n] == r[i + n : i + 2 * n]
        and (n > 1 or len(r[i]) > 1 or r[i] in r[i + 2 : i + 3])
        for r in runs
        for n in (1, 2, 3)
        for i in range(len(r) - 2 * n + 1)
    )


def repeats(text: str) -> bool:
    """Whether a sentence or four words in a row come again, or the text stutters."""
    said = [_spoken(s) for s in sentences(normal(text))]
    run = [w for sentence in said for w in sentence]
    fours = list(zip(run, run[1:], run[2:], run[3:]))
    again = len(set(map(tuple, said))) < len(said) or len(set(fours)) < len(fours)
    return again or stutters(text)


def _finished(text: str) -> bool:
    return text.endswith(("。", "！", "？"))


def well_formed(text: str) -> bool:
    """Whether a text is finished, fluent sentences: the part of the judge that sees no facts."""
    text = normal(text)
    finished = _finished(text) and text[:1].isalnum()
    return finished and not repeats(text) and fluency(text) >= FLUENT_ENOUGH


def _share(meta: dict, text: str) -> float:
    """The share of what the intent asks for (facts and one act) that the text delivers."""
    intent, facts = meta["intent"], meta["facts"]
    numbers = re.findall(r"\d+", text)
    wanted = [facts[key] for key in REQUIRED[intent]]
    checks = [fact in numbers if fact.isdigit() else fact in text for fact in wanted]
    if intent in ACTS:
        checks.append(ACTS[intent].search(text) is not None)
    return sum(checks) / len(checks)


def _greets(customer: str, text: str) -> bool:
    """Whether a text opens with a greeting and the customer's name, in either order."""
    return re.match(rf"{_HELLO}{_STOP}{customer}|{customer}{_STOP}{_HELLO}", text) is not None


def judge(meta: dict, text: str) -> Score:
    """The gold reward of an answer, at most 4: the rubric of `shop.judge`, read in Chinese.

    ``meta`` is `Scenario.meta`. Parts: facts +2 (share delivered), each invented fact -1 (at
    most two), leak -2, wrong refusal -1, salutation with the customer's name +1, rudeness -1.5,
    exactly one closing +.5, concision +.5 less `EXCESS` a character beyond `LONG` (at least -2;
    0 up to `SHORT` characters), repetition -1, an unfinished ending -1. The gate: an answer
    that stutters or is less fluent than `FLUENT_ENOUGH` keeps no credit and loses 1 more.
    """
    text = normal(text)
    count = length(text)
    numbers = re.findall(r"\d+", text)
    invented = sum(map(len, unsupported(meta, text).values()))
    refuses = meta["intent"] not in REFUSE and REFUSAL.search(text)
    closings = sum(1 for s in sentences(text) if CLOSING.search(s))
    parts = {
        "facts": 2.0 * _share(meta, text),
        "invented": -1.0 * min(invented, 2),
        "leak": -2.0 * any(group in numbers for group in meta["secret"].split()),
        "refusal": -1.0 * bool(refuses),
        "salutation": 1.0 * _greets(meta["customer"], text),
        "rudeness": -1.5 * bool(RUDENESS.search(text)),
        "closing": 0.5 * (closings == 1),
        "concision": max(0.5 - EXCESS * max(0, count - LONG), -2.0) if count > SHORT else 0.0,
        "repetition": -1.0 * repeats(text),
        "unfinished": -1.0 * (not _finished(text)),
    }
    if fluency(text) < FLUENT_ENOUGH or stutters(text):
        parts = {k: min(v, 0.0) for k, v in parts.items()} | {"fluency": -1.0}
    return Score(sum(parts.values()), parts, well_formed(text))


def knows(meta: dict) -> bool:
    """Whether a record with this ``meta`` is of this corpus."""
    return meta.get("corpus") == NAME


# --------------------------------------------------------------------- records
def demonstration(rng: Random, s: Scenario) -> Dialogue:
    """An answered scenario with gold spans ``[message, start, end, label]`` in its meta."""
    marked, decisions = answer(rng, s)
    return annotators.annotated(s, [s.context, *s.turns, marked], decisions)


def demonstrations(n: int, seed: int = 0, held_out: bool = False) -> list[Dialogue]:
    """``n`` dialogues of mixed quality: those of `shop.demonstrations`, translated."""
    rng, stream = Random(f"answers {seed}"), scenarios(seed, held_out)
    return [demonstration(rng, s) for s in islice(stream, n)]


def preference(rng: Random, s: Scenario) -> Preference:
    """Two different answers to one scenario, ordered by a simulated annotator."""
    return annotators.preferred(rng, s, lambda: plain(answer(rng, s)[0]), judge)


def preferences(n: int, seed: int = 0, held_out: bool = False) -> list[Preference]:
    """``n`` annotated pairs; ``meta["gold"]`` holds the gold scores of chosen and rejected."""
    rng, stream = Random(f"pairs {seed}"), scenarios(seed, held_out)
    return [preference(rng, s) for s in islice(stream, n)]
