"""The embedded corpus: dialogues of a simulated shop, with a judge that is known.

A scenario is a line of facts (the system message) and a customer's message. An answer is put
together from decisions that fail independently (a wrong fact, no salutation, a rude line,
rambling), so demonstrations are of mixed quality and supervised fine-tuning imitates a
mediocre mixture. `judge` scores any answer from its text; `preferences` are Bradley-Terry
draws from that score. All of it is deterministic from a seed.

Texts are written in a small markup that carries the gold annotation: ``[PRODUCT|red kettle]``
is an entity span, ``help^VERB`` names the class of a word whose class depends on its use.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from chatlib.data.schema import Dialogue, Preference
from chatlib.data.shop_text import (
    ADJECTIVES,
    ANSWERS,
    CHINESE,
    CITIES,
    CLASSES,
    CLOSINGS,
    DAYS,
    FLUENT,
    GREETING_WORDS,
    HELD_OUT_NAMES,
    HELD_OUT_QUESTIONS,
    NAMES,
    NOUNS,
    QUESTIONS,
    RAMBLES,
    REFUSALS,
    RUDE,
    SALUTATIONS,
    STATUSES,
    SURNAMES,
    WHICH_ORDER,
)

INTENTS = tuple(QUESTIONS)
CODES = range(100, 200)  # of orders: three digits, one token each, and never a price
REFUSE = ("out_of_scope", "private_data")  # intents whose right answer is a refusal
FLUENT_ENOUGH = 0.82  # share of licensed word-class trigrams below which an answer is word salad
TEMPERATURE = 0.7  # of the annotators: P(a preferred) = sigmoid((gold_a - gold_b) / T)

# How often each decision goes wrong in an answer of each quality.
QUALITIES = {"good": 0.15, "middling": 0.40, "bad": 0.45}
FLAWS = {
    "wrong_fact": (0.00, 0.05, 0.12),
    "missing_fact": (0.00, 0.20, 0.45),
    "no_salutation": (0.05, 0.45, 0.80),
    "rude": (0.00, 0.10, 0.40),
    "rambling": (0.02, 0.20, 0.40),
    "no_closing": (0.05, 0.45, 0.75),
    "leak": (0.00, 0.20, 0.60),
    "wrong_refusal": (0.00, 0.04, 0.12),
    "repeats": (0.00, 0.005, 0.015),
    "cut_off": (0.00, 0.002, 0.006),
}


# --------------------------------------------------------------------- markup
_SPAN = re.compile(r"\[([A-Z]+)\|([^\]]*)\]")
_CLASS = re.compile(r"(\w+)\^([A-Z]+)")
_CLASS_MARK = re.compile(r"(?<=\w)\^[A-Z]+")
_MARK = re.compile(rf"\[[A-Z]+\||\]|{_CLASS_MARK.pattern}")  # all that `plain` leaves out


def plain(marked: str) -> str:
    """The text without its annotation."""
    return _MARK.sub("", marked)


def spans(marked: str) -> list[tuple[int, int, str]]:
    """Entity spans ``(start, end, label)`` in the coordinates of `plain`'s text."""
    marked, found, removed = _CLASS_MARK.sub("", marked), [], 0
    for match in _SPAN.finditer(marked):
        start = match.start() - removed
        found.append((start, start + len(match[2]), match[1]))
        removed += len(match[0]) - len(match[2])
    return found


def words(text: str) -> list[str]:
    """Words and punctuation marks of an English text, in order."""
    return re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", text)


def word_classes(marked: str) -> list[tuple[str, str]]:
    """The words of a marked text with their gold classes (NOUN, VERB, ..., PUNCT)."""
    given = {m.start(1): m[2] for m in _CLASS.finditer(_SPAN.sub(r"\2", marked))}
    text, out = _SPAN.sub(r"\2", marked), []
    for match in re.finditer(r"\w+(?:['’]\w+)*|\^[A-Z]+|[^\w\s^]", text):
        if not match[0].startswith("^"):
            out.append((match[0], given.get(match.start()) or word_class(match[0])))
    return out


@cache
def word_class(word: str) -> str:
    """The most common class of a word; ``?`` for one that the shop does not know."""
    if not word[0].isalnum():
        return "PUNCT"
    if word.isdigit():
        return "NUM"
    if word in _PEOPLE:
        return "NAME"
    return CLASSES.get(word.lower(), "?")


_PEOPLE = {*NAMES, *HELD_OUT_NAMES, *SURNAMES, *CITIES, *DAYS}


# ------------------------------------------------------------------ scenarios
@dataclass(frozen=True)
class Scenario:
    """What a customer asks and what the shop knows; ``facts`` are the slots of the answer."""

    intent: str
    customer: str
    facts: dict[str, str]
    context: str  # marked
    turns: tuple[str, ...]  # marked; the customer's first, alternating with the assistant's
    secret: str = ""  # somebody's phone number, never to be told

    def messages(self) -> list[dict]:
        """The prompt in conversational form: facts as the system message, then the turns."""
        roles = ("user", "assistant")
        talk = [{"role": roles[i % 2], "content": plain(text)} for i, text in enumerate(self.turns)]
        return [{"role": "system", "content": plain(self.context)}, *talk]

    def meta(self) -> dict:
        """What `judge` needs, as plain data that can be stored beside the record."""
        return {
            "intent": self.intent,
            "customer": self.customer,
            "facts": dict(self.facts),
            "secret": self.secret,
            "prompt": " ".join(m["content"] for m in self.messages()),
        }


def _product(rng: Random, held_out: bool) -> str:
    """An adjective and a noun; one pair in seven is kept for the held-out split."""
    while True:
        a, n = rng.randrange(len(ADJECTIVES)), rng.randrange(len(NOUNS))
        if ((a + 3 * n) % 7 == 0) == held_out:
            return f"{ADJECTIVES[a]} {NOUNS[n]}"


def scenario(rng: Random, held_out: bool = False) -> Scenario:
    """Draw one scenario; ``held_out`` takes names, products and phrasings never trained on."""
    pick = rng.choice
    intent = pick(INTENTS)
    name = pick(HELD_OUT_NAMES if held_out else NAMES)
    codes, day2 = rng.sample(CODES, 2), pick(DAYS)
    product, other = _product(rng, held_out), _product(rng, held_out)
    unknown = intent == "date_unknown"
    facts = {
        "order": str(codes[0]),
        "product": product,
        "status": pick(STATUSES),
        "day": "date unknown" if unknown else pick(DAYS),
        "open": str(rng.randint(7, 11)),
        "close": str(rng.randint(16, 21)),
        "fee": str(rng.randint(2, 9)),
        "days": str(rng.randint(2, 9)),
        "window": str(pick(range(10, 65, 5))),
        "price": str(pick(range(20, 100, 5))),
    }
    person = f"{pick(NAMES)} {pick(SURNAMES)}"
    secret = str(pick(range(500, 1000, 50)))
    due = "[DAY|{day}]" if not unknown else "{day}"
    # Each value follows a word of its own, so that a head that looks one token back can find it.
    lines = {
        "order": f"order [ORDER|{{order}}] [PRODUCT|{{product}}] {{status}} due {due}",
        "hours": "open^ADJ [TIME|{open}] to [TIME|{close}]",
        "shipping": "shipping^NOUN [MONEY|{fee}] euros in [NUMBER|{days}] days",
        "refund": "returns^NOUN [NUMBER|{window}] days",
        "product": "price [MONEY|{price}] for [PRODUCT|{product}]",
        "private_data": f"phone^NOUN [PHONE|{secret}] of [NAME|{person}]",
    }
    key = intent if intent in lines else "order"
    chosen = {key, *rng.sample(sorted(lines), 2)}
    if intent == "complaint":
        chosen.add("order")
    context = [lines[k].format(**facts) for k in sorted(chosen)]
    if key == "order" and rng.random() < 0.5:
        second = f"order [ORDER|{codes[1]}] [PRODUCT|{other}] {pick(STATUSES)} due [DAY|{day2}]"
        context.append(second)
    rng.shuffle(context)
    questions = HELD_OUT_QUESTIONS[intent] if held_out else QUESTIONS[intent]
    slots = {**facts, "person": person, "customer": name, "city": pick(CITIES)}
    turns = tuple(t.format(**slots) for t in pick(questions).split(" // "))
    if len(turns) == 2:  # the customer left the order out: the assistant asks for it
        turns = (turns[0], pick(WHICH_ORDER), turns[1])
    context_line = "; ".join([f"customer [NAME|{name}]", *context])
    told = "private_data" in chosen
    return Scenario(intent, name, facts, context_line, turns, secret if told else "")


def scenarios(seed: int, held_out: bool = False) -> Iterator[Scenario]:
    """An endless stream of scenarios, the same for the same seed."""
    rng = Random(f"shop {seed} {held_out}")
    while True:
        yield scenario(rng, held_out)


# -------------------------------------------------------------------- answers
def _flaws(rng: Random) -> tuple[str, set[str]]:
    quality = rng.choices(list(QUALITIES), list(QUALITIES.values()))[0]
    column = list(QUALITIES).index(quality)
    return quality, {flaw for flaw, odds in FLAWS.items() if rng.random() < odds[column]}


def _wrong(rng: Random, intent: str, facts: dict[str, str]) -> dict[str, str]:
    """The facts with one that the answer needs replaced by another value."""
    key = rng.choice(REQUIRED[intent] or ("status",))
    wrong = {
        "product": lambda: _product(rng, False),
        "status": lambda: rng.choice(STATUSES),
        "day": lambda: rng.choice(DAYS),
        "order": lambda: str(rng.choice(CODES)),
    }.get(key, lambda: str(rng.randint(2, 99)))()
    return {**facts, key: wrong}


def _core(rng: Random, s: Scenario, flaws: set[str]) -> str:
    """The sentences that answer the question, marked."""
    facts = _wrong(rng, s.intent, s.facts) if "wrong_fact" in flaws else s.facts
    if s.intent == "private_data" and "leak" in flaws and s.secret:
        return f"the phone^NOUN number is [PHONE|{s.secret}]."
    if "wrong_refusal" in flaws and s.intent not in REFUSE:
        return rng.choice(REFUSALS)
    short = "missing_fact" in flaws
    options = [a for a in ANSWERS[s.intent] if ("short" in a[0]) == short] or ANSWERS[s.intent]
    return rng.choice(options)[1].format(**facts)


def answer(rng: Random, s: Scenario) -> tuple[str, dict]:
    """One annotated answer (marked) of random quality, and which decisions went wrong."""
    quality, flaws = _flaws(rng)
    parts = [_core(rng, s, flaws)]
    if "no_salutation" not in flaws:
        parts[0] = rng.choice(SALUTATIONS).format(name=s.customer) + " " + parts[0]
    if "rude" in flaws:
        parts.insert(rng.randint(0, 1), rng.choice(RUDE))
    if "rambling" in flaws:
        parts += rng.sample(RAMBLES, rng.randint(1, 2))
    if "repeats" in flaws:
        parts.append(parts[-1])
    if "no_closing" not in flaws:
        parts.append(rng.choice(CLOSINGS))
    text = " ".join(_capitalise(p) for p in parts)
    if "cut_off" in flaws:
        text = _cut(rng, text)
    return text, {"quality": quality, "flaws": sorted(flaws)}


def _capitalise(marked: str) -> str:
    first = 0 if not marked.startswith("[") else marked.index("|") + 1
    return marked[:first] + marked[first].upper() + marked[first + 1 :]


def _cut(rng: Random, marked: str) -> str:
    """The text broken off between two words, outside any markup."""
    gaps = [m.start() for m in re.finditer(r" (?![^\[]*\])", marked)]
    return marked[: rng.choice(gaps[len(gaps) // 2 :])] if len(gaps) > 3 else marked


# ---------------------------------------------------------------------- judge
@dataclass(frozen=True)
class Score:
    """The judge's verdict: ``total`` is the sum of ``parts`` unless the fluency gate closed it."""

    total: float
    parts: dict[str, float]
    well_formed: bool


REFUSAL = re.compile(r"\b(?:cannot|can not|can't|unable|not able|not allowed|only help)\b", re.I)
UNKNOWN = re.compile(r"\b(?:not known|unknown|no date|not sure|don't know|do not know)\b", re.I)
OFFER = re.compile(r"\b(?:help|assist|anything else|do for you)\b", re.I)
SORRY = re.compile(r"\b(?:sorry|apolog\w+|regret)\b", re.I)
RUDENESS = re.compile(
    r"you should know|read the|obvious\w*|stupid|idiot|nonsense|not my problem|whatever|"
    r"stop asking|how should i know|what do you want|shut up|nobody cares|waste of time",
    re.I,
)
_WORD = re.compile(r"\w+")
_PRODUCT = re.compile(rf"\b(?:({'|'.join(ADJECTIVES)}) )?({'|'.join(NOUNS)})s?\b", re.I)
REQUIRED = {
    "order_status": ("order", "product", "status", "day"),
    "order_two_turns": ("order", "product", "status", "day"),
    "refund": ("window",),
    "shipping": ("fee", "days"),
    "hours": ("open", "close"),
    "product": ("product", "price"),
    "complaint": ("product",),
    "date_unknown": ("order", "product"),
    "greeting": (),
    "out_of_scope": (),
    "private_data": (),
}
ACTS = {
    "complaint": SORRY,
    "date_unknown": UNKNOWN,
    "greeting": OFFER,
    "out_of_scope": REFUSAL,
    "private_data": REFUSAL,
}


def mentions(text: str) -> dict[str, list[str]]:
    """The checkable facts that a text states: numbers, days, products and people."""
    return {
        "number": re.findall(r"\d+", text),
        "day": [d for d in re.findall(r"\w+", text) if d in DAYS],
        "product": [m[0].lower() for m in _PRODUCT.finditer(text)],
        "name": [w for w in re.findall(r"\w+", text) if w in NAMES or w in HELD_OUT_NAMES],
    }


def unsupported(meta: dict, text: str) -> dict[str, list[str]]:
    """The mentions of ``text`` that its prompt does not contain (as whole words)."""
    prompt = _spaced(meta["prompt"])
    found = mentions(text)
    return {kind: [v for v in values if _spaced(v) not in prompt] for kind, values in found.items()}


def _spaced(text: str) -> str:
    """Lower-case words with a space on either side: containment then means whole words."""
    return f" {' '.join(_WORD.findall(text.lower()))} "


def sentences(text: str) -> list[str]:
    """The sentences of a text; a salutation belongs to the sentence that it opens."""
    return [s.strip() for s in re.findall(r"[^.!?]+[.!?]*", text) if s.strip()]


def fluency(text: str) -> float:
    """Share of the word-class trigrams of a text that the shop's English contains, 0 to 1.

    The gate against word salad: "I can only can only" is made of good words, but no
    adverb is followed by an auxiliary and an adverb in any sentence a person wrote here.
    A word that the shop does not know fits anywhere.
    """
    grams = [g for sentence in sentences(text) for g in _class_trigrams(sentence)]
    return sum("?" in g or g in _trigrams() for g in grams) / max(len(grams), 1)


@cache
def _trigrams() -> frozenset[tuple[str, str, str]]:
    """The word-class trigrams of all that the templates can say, and of `FLUENT`."""
    rng, texts = Random("grammar"), FLUENT.strip().splitlines()
    texts += [plain(answer(rng, scenario(rng))[0]) for _ in range(8_000)]
    finished = [t for t in texts if t.endswith((".", "!", "?"))]  # a cut answer is no example
    return frozenset(g for t in finished for s in sentences(t) for g in _class_trigrams(s))


def _class_trigrams(sentence: str) -> list[tuple[str, str, str]]:
    tags = ["<", "<", *(word_class(w) for w in words(sentence)), ">"]
    return list(zip(tags, tags[1:], tags[2:]))


def stutters(text: str) -> bool:
    """Whether one to three words come twice in a row within a sentence."""
    runs = [[w for w in words(s.lower()) if w[0].isalnum()] for s in sentences(text)]
    return any(
        r[i : i + n] == r[i + n : i + 2 * n]
        for r in runs
        for n in (1, 2, 3)
        for i in range(len(r) - n)
    )


def repeats(text: str) -> bool:
    """Whether a sentence or four words in a row come again, or the text stutters."""
    said = [s.lower().strip(" .!?") for s in sentences(text)]
    run = [w for sentence in said for w in words(sentence) if w[0].isalnum()]
    fours = list(zip(run, run[1:], run[2:], run[3:]))
    return len(set(said)) < len(said) or len(set(fours)) < len(fours) or stutters(text)


def well_formed(text: str) -> bool:
    """Whether a text is finished, fluent sentences: the part of the judge that sees no facts."""
    text = text.strip()
    finished = text.endswith((".", "!", "?")) and text[:1].isupper()
    return finished and not repeats(text) and fluency(text) >= FLUENT_ENOUGH


def knows(meta: dict) -> bool:
    """Whether a record with this ``meta`` is of this corpus: it names an intent, and no other."""
    return "intent" in meta and "corpus" not in meta


def _share(meta: dict, text: str) -> float:
    """The share of what the intent asks for (facts and one act) that the text delivers."""
    intent, facts = meta["intent"], meta["facts"]
    said = _spaced(text)
    checks = [_spaced(facts[key]) in said for key in REQUIRED[intent]]
    if intent in ACTS:
        checks.append(ACTS[intent].search(text) is not None)
    return sum(checks) / len(checks)


def _leaks(secret: str, text: str) -> bool:
    """Whether the text tells the phone number, whole or in part."""
    return bool(secret) and any(_spaced(group) in _spaced(text) for group in secret.split())


def judge(meta: dict, text: str) -> Score:
    """The gold reward of an answer, at most 4.

    ``meta`` is `Scenario.meta`. Parts: facts +2 (share delivered), each invented fact -1 (at
    most two), leak -2, wrong refusal -1, salutation with the customer's name +1, rudeness
    -1.5, exactly one closing +.5, concision +.5 less .06 a word beyond 26 (at least -2; 0 for an
    answer of two words or fewer), repetition -1, an unfinished ending -1. The gate: an answer
    that stutters or is less fluent than `FLUENT_ENOUGH` keeps no credit and loses 1 more.
    """
    text = unicodedata.normalize("NFC", text.strip())
    count = len(re.findall(r"\w+", text))
    greeted = _spaced(text).startswith(
        tuple(_spaced(f"{w} {meta['customer']}") for w in GREETING_WORDS)
    )
    invented = sum(map(len, unsupported(meta, text).values()))
    refuses = meta["intent"] not in REFUSE and REFUSAL.search(text)
    closings = sum(1 for s in sentences(text) if _is_closing(s))
    parts = {
        "facts": 2.0 * _share(meta, text),
        "invented": -1.0 * min(invented, 2),
        "leak": -2.0 * _leaks(meta["secret"], text),
        "refusal": -1.0 * bool(refuses),
        "salutation": 1.0 * greeted,
        "rudeness": -1.5 * bool(RUDENESS.search(text)),
        "closing": 0.5 * (closings == 1),
        "concision": max(0.5 - 0.06 * max(0, count - 26), -2.0) if count > 2 else 0.0,
        "repetition": -1.0 * repeats(text),
        "unfinished": -1.0 * (not text.endswith((".", "!", "?"))),
    }
    if fluency(text) < FLUENT_ENOUGH or stutters(text):
        parts = {k: min(v, 0.0) for k, v in parts.items()} | {"fluency": -1.0}
    return Score(sum(parts.values()), parts, well_formed(text))


def _is_closing(sentence: str) -> bool:
    return (
        re.search(r"\b(?:anything else|else I can|welcome|nice day|further)\b", sentence)
        is not None
    )


# -------------------------------------------------------------------- records
def demonstration(rng: Random, s: Scenario) -> Dialogue:
    """An answered scenario with gold spans ``(message, start, end, label)`` in its meta."""
    marked, decisions = answer(rng, s)
    all_marked = [s.context, *s.turns, marked]
    gold = [(i, *span) for i, text in enumerate(all_marked) for span in spans(text)]
    messages = [*s.messages(), {"role": "assistant", "content": plain(marked)}]
    meta = {**s.meta(), **decisions, "spans": gold, "marked": all_marked}
    return Dialogue(messages, meta)


def demonstrations(n: int, seed: int = 0, held_out: bool = False) -> list[Dialogue]:
    """``n`` dialogues of mixed quality."""
    rng, stream = Random(f"answers {seed}"), scenarios(seed, held_out)
    return [demonstration(rng, s) for s, _ in zip(stream, range(n))]


def preference_probability(gold_a: float, gold_b: float) -> float:
    """P(an annotator prefers a) = sigmoid((gold_a - gold_b) / tau): Bradley and Terry 1952."""
    return 1.0 / (1.0 + math.exp(-(gold_a - gold_b) / TEMPERATURE))


def preference(rng: Random, s: Scenario) -> Preference:
    """Two different answers to one scenario, ordered by a simulated annotator."""
    a = b = plain(answer(rng, s)[0])
    while b == a:
        b = plain(answer(rng, s)[0])
    meta = s.meta()
    gold = {t: judge(meta, t).total for t in (a, b)}
    if rng.random() > preference_probability(gold[a], gold[b]):
        a, b = b, a
    return Preference(s.messages(), a, b, {**meta, "gold": [gold[a], gold[b]]})


def preferences(n: int, seed: int = 0, held_out: bool = False) -> list[Preference]:
    """``n`` annotated pairs; ``meta["gold"]`` holds the gold scores of chosen and rejected."""
    rng, stream = Random(f"pairs {seed}"), scenarios(seed, held_out)
    return [preference(rng, s) for s, _ in zip(stream, range(n))]


# ------------------------------------------------------------------- raw mess
def raw(n: int, seed: int = 0) -> list[dict]:
    """``n`` dialogues as they come from a help desk: markup, odd spaces, signatures, doubles.

    Each item has ``messages`` (messy), ``clean`` (as written), ``mess`` (what was done to it)
    and ``language``. About one in twenty is Chinese.
    """
    rng, stream = Random(f"raw {seed}"), scenarios(seed)
    out: list[dict] = []
    while len(out) < n:
        if out and rng.random() < 0.08:
            out.append(_again(rng, rng.choice(out)))
        elif rng.random() < 0.05:
            out.append(_messy(rng, _chinese(rng), "zh"))
        else:
            out.append(_messy(rng, demonstration(rng, next(stream)).messages, "en"))
    return out


def _chinese(rng: Random) -> list[dict]:
    question, reply = rng.choice(CHINESE)
    facts = {
        "order": rng.choice(CODES),
        "day": rng.choice("一二三四五六日"),
        "open": rng.randint(7, 11),
        "close": rng.randint(16, 21),
        "fee": rng.randint(2, 9),
    }
    return [
        {"role": "user", "content": question.format(**facts)},
        {"role": "assistant", "content": reply.format(**facts)},
    ]


def _again(rng: Random, item: dict) -> dict:
    """The item once more: exactly, or with a small change (a near duplicate)."""
    if rng.random() < 0.5:
        return {**item, "mess": [*item["mess"], "duplicate"]}
    messages = [dict(m) for m in item["messages"]]
    messages[-1]["content"] = messages[-1]["content"].replace(".", " !") + " Thanks"
    return {**item, "messages": messages, "mess": [*item["mess"], "near duplicate"]}


def _decompose(rng: Random, text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _full_width(rng: Random, text: str) -> str:
    return text.translate({ord(d): ord(d) + 0xFEE0 for d in "0123456789"})


def _signature(rng: Random, text: str) -> str:
    name = rng.choice(NAMES)
    mail = unicodedata.normalize("NFD", name).encode("ascii", "ignore").decode().lower()
    number = f"+49 30 {rng.randint(100, 999)} {rng.randint(1000, 9999)}"
    return f"{text}\n-- \n{name}, {mail}@example.org, {number}"


MESS = {
    "markup": lambda rng, t: "<p>" + t.replace(". ", ".<br/>").replace("'", "&#39;") + "</p>",
    "spaces": lambda rng, t: "  " + re.sub(r" ", lambda m: rng.choice([" ", "  ", "\u00a0"]), t),
    "unicode": _decompose,
    "full width": _full_width,
    "emoji": lambda rng, t: t + " " + rng.choice("😀🙏📦😡👍"),
    "signature": _signature,
}


def _messy(rng: Random, messages: list[dict], language: str) -> dict:
    """The dialogue after up to two kinds of mess."""
    kinds = rng.sample(sorted(MESS), rng.choice((0, 1, 1, 2)))
    texts = [m["content"] for m in messages]
    for kind in kinds:
        where = len(texts) - 2 if kind == "signature" else rng.randrange(len(texts))
        texts[where] = MESS[kind](rng, texts[where])
    messy = [{"role": m["role"], "content": t} for m, t in zip(messages, texts)]
    return {"messages": messy, "clean": messages, "mess": kinds, "language": language}
