"""The shop for customers who say how they like their answers: one policy, two styles.

The scenario of a seed is the shop's scenario of that seed, and its facts also hold a preference:
for short answers or for friendly ones. A short answer is what was asked and no more; a friendly one
has a salutation with the name, a warm line and a closing. An answer is made by `shop.answer`, so
its decisions fail as there; then it is dressed in a style, which is the stated one only part of the
time. `judge` is the shop's for all that is no matter of style. `twin` gives the same question with
the other preference. All of it is deterministic from a seed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Literal

from chatlib.data import annotators, shop
from chatlib.data.schema import Dialogue, Preference
from chatlib.data.shop import RUDENESS, Score, plain
from chatlib.data.shop_text import ANSWERS, CLOSINGS, GREETING_WORDS, RAMBLES, SALUTATIONS

NAME = "personal"
TEMPERATURE = shop.TEMPERATURE  # of the annotators, who are as noisy as the shop's

Style = Literal["short", "friendly"]
STYLES: tuple[Style, ...] = ("short", "friendly")

# A preference is put in the same words for either style, so that twins differ in one word.
STATED: tuple[dict[Style, str], ...] = (
    {"short": "prefers short answers", "friendly": "prefers friendly answers"},
)
# The last one shares no telling word with the trained one: who has learned to read only from this
# corpus cannot know what it means.
HELD_OUT_STATED: tuple[dict[Style, str], ...] = (
    {"short": "likes short answers", "friendly": "likes friendly answers"},
    {"short": "short answers please", "friendly": "friendly answers please"},
    {"short": "likes it brief", "friendly": "likes it warm"},
)

# How an answer is dressed: as stated, the other way, or as the shop does without being told.
MANNERS = {"stated": 0.66, "other": 0.20, "own": 0.14}
# None of these may deliver what a question asks for ("help" is an offer to the shop's judge).
WARM_LINES = (
    "thank you for your message.",
    "thank you for asking us.",
    "I am happy to hear from you.",
    "we are always here for you.",
)


# ------------------------------------------------------------------- scenarios
@dataclass(frozen=True, kw_only=True)
class Scenario(shop.Scenario):
    """The shop's scenario of a customer who prefers a style; ``wording`` puts each style."""

    preference: Style
    wording: dict[Style, str]

    def meta(self) -> dict:
        """What `judge` needs, as plain data; ``corpus`` says whose it is."""
        stated = self.wording[self.preference]
        return {"corpus": NAME, **super().meta(), "preference": self.preference, "stated": stated}


def _other(style: Style) -> Style:
    return "friendly" if style == "short" else "short"


def _scenario(rng: Random, s: shop.Scenario, held_out: bool) -> Scenario:
    """The shop's scenario with a preference, which stands first or last among its facts."""
    preference = rng.choice(STYLES)
    wording = rng.choice(HELD_OUT_STATED if held_out else STATED)
    lines = [wording[preference], s.context]
    if rng.random() < 0.5:
        lines.reverse()
    return Scenario(
        **{**vars(s), "context": "; ".join(lines)}, preference=preference, wording=wording
    )


def scenarios(seed: int, held_out: bool = False) -> Iterator[Scenario]:
    """An endless stream: those of `shop.scenarios` of the same seed, in order.

    ``held_out`` takes names, products and phrasings never trained on, the preference's included.
    """
    rng = Random(f"preferences of customers {seed} {held_out}")
    return (_scenario(rng, s, held_out) for s in shop.scenarios(seed, held_out))


def twin(s: Scenario) -> Scenario:
    """The same scenario with the other preference, at the same place and in the same wording."""
    preference = _other(s.preference)
    context = s.context.replace(s.wording[s.preference], s.wording[preference])
    return replace(s, preference=preference, context=context)


# --------------------------------------------------------------------- answers
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")
_SALUTATION = re.compile(
    "|".join(re.escape(s).replace(re.escape("{name}"), r"[^]]*") + " " for s in SALUTATIONS)
)
# What each style takes out of an answer or mends; other flaws stay as they were drawn.
_MENDED = {
    "short": {"no_salutation", "no_closing", "rambling"},
    "friendly": {"no_salutation", "no_closing"},
}


def _capitalise(marked: str) -> str:
    """The text with its first letter as a capital; it may stand inside a span."""
    return re.sub(r"^(\[[A-Z]+\|)?(.)", lambda m: (m[1] or "") + m[2].upper(), marked)


_OF_MANNERS = {_capitalise(plain(line)) for line in CLOSINGS}
_OF_RAMBLING = {_capitalise(plain(line)) for line in RAMBLES}


def _undressed(marked: str, style: Style) -> list[str]:
    """The sentences of a shop's answer without its manners; of a short one also no rambling."""
    left_out = _OF_MANNERS | _OF_RAMBLING if style == "short" else _OF_MANNERS
    said = _SENTENCE_END.split(_SALUTATION.sub("", marked))
    return [_capitalise(s) for s in said if plain(_capitalise(s)) not in left_out]


def dressed(rng: Random, s: Scenario, said: list[str], style: Style) -> str:
    """Marked sentences as an answer in a style: alone, or with all that makes it friendly."""
    if style == "friendly":
        hail = rng.choice(SALUTATIONS).format(name=s.customer)
        said = [f"{hail} {rng.choice(WARM_LINES)}", *said, rng.choice(CLOSINGS)]
    return " ".join(map(_capitalise, said))


def answer(rng: Random, s: Scenario) -> tuple[str, dict]:
    """One annotated answer (marked) of random quality, and which decisions went wrong.

    ``style`` among the decisions is the one it was dressed in, or "own" for the shop's habit.
    """
    manner = rng.choices(list(MANNERS), list(MANNERS.values()))[0]
    marked, decisions = shop.answer(rng, s)
    if manner == "own" or "cut_off" in decisions["flaws"]:  # what was cut off cannot be undressed
        return marked, {**decisions, "style": "own"}
    style = s.preference if manner == "stated" else _other(s.preference)
    flaws = [flaw for flaw in decisions["flaws"] if flaw not in _MENDED[style]]
    text = dressed(rng, s, _undressed(marked, style), style)
    return text, {**decisions, "flaws": flaws, "style": style}


def ideal(rng: Random, s: Scenario) -> str:
    """A complete answer in the stated style: one that nothing can be said against."""
    core = rng.choice([text for kind, text in ANSWERS[s.intent] if kind == "full"])
    return plain(dressed(rng, s, [core.format(**s.facts)], s.preference))


# ----------------------------------------------------------------------- style
def _count(text: str) -> int:
    return len(re.findall(r"\w+", text))


def _longest(lines: tuple[str, ...]) -> int:
    return max(map(_count, map(plain, lines)))


# Words of the longest complete answer to each kind of question, without any manners. A product has
# two words, any other slot one.
CORE = {
    intent: _longest(tuple(t.replace("{product}", "red lamp") for k, t in said if k == "full"))
    for intent, said in ANSWERS.items()
}
LONGEST_CORE = max(CORE.values())  # words that a short answer has at most
COURTESY = sum(map(_longest, (SALUTATIONS, WARM_LINES, CLOSINGS)))  # words that are only friendly

_HAIL = rf"(?:{'|'.join(GREETING_WORDS)}|Hey|Good afternoon)\b\W*"
WARMTH = re.compile(
    r"\bthank(?:s|\s+you)\b|(?<!not )\b(?:happy|glad|delighted|pleased)\s+(?:to|that|you)\b|"
    r"\bpleasure\b|\bhere\s+for\s+you\b|\b(?:nice|good|great|lovely)\s+to\s+(?:hear|see|meet)\b",
    re.I,
)
CLOSING = re.compile(
    r"\banything else\b|\belse (?:I|we) can\b|\balways welcome\b|\byou(?:'re| are) welcome[.!]|"
    r"\b(?:have|wish you) an? \w+ (?:day|evening|week\w*)|\b(?:other|further) questions?\b",
    re.I,
)


def style(text: str, customer: str) -> Literal["short", "friendly", "neither"]:
    """The style of an answer to a customer (a name), by what a person can read off it.

    Friendly: it opens with the customer's name, mostly after a greeting word; it has a warm line
    or a closing; and nothing in it is rude. Short: at most `LONGEST_CORE` words, as many as the
    longest complete answer of the corpus has without manners; it opens with no greeting word and
    no name; it has no warm line, no closing and no rambling sentence of the shop's. An empty text
    has neither style.
    """
    text = unicodedata.normalize("NFC", text.strip())
    name = unicodedata.normalize("NFC", customer)
    named = re.match(rf"(?:{_HAIL})*{re.escape(name)}\b", text, re.I)
    kind = WARMTH.search(text) or CLOSING.search(text)
    if named and kind and not RUDENESS.search(text):
        return "friendly"
    hailed = named or re.match(_HAIL, text, re.I)
    rambles = not _OF_RAMBLING.isdisjoint(map(_capitalise, shop.sentences(text)))
    if 0 < _count(text) <= LONGEST_CORE and not (hailed or kind or rambles):
        return "short"
    return "neither"


# ----------------------------------------------------------------------- judge
NOT_OF_STYLE = (
    "facts",
    "invented",
    "leak",
    "refusal",
    "rudeness",
    "repetition",
    "unfinished",
    "fluency",
)
# Lost for a word too many. Less than the shop's .06: to a customer who prefers short answers a
# complete friendly one is still worth more than a short one that says nothing.
EXCESS = 0.04


def _preference(meta: dict) -> Style:
    """The preference that a record states. Raises `ValueError` for one of another corpus."""
    if not knows(meta):
        raise ValueError(
            f"{NAME}: a record whose `corpus` is {meta.get('corpus')!r} states no preference; "
            f"give one whose `corpus` is {NAME!r}"
        )
    return meta["preference"]


def check(meta: dict, text: str) -> bool:
    """Whether an answer has the style that its customer prefers; ``meta`` is `Scenario.meta`."""
    return style(text, meta["customer"]) == _preference(meta)


def _parts_of_the_shop(meta: dict, text: str) -> dict[str, float]:
    """The parts of the shop's gold reward that are no matter of style."""
    parts = shop.judge(meta, text).parts
    return {name: parts[name] for name in NOT_OF_STYLE if name in parts}


def gold_of_the_shop(meta: dict, text: str) -> float:
    """The gold reward without style and concision, at most 2: what the answer says.

    It is the same under either preference. ``meta`` is `Scenario.meta`.
    """
    return sum(_parts_of_the_shop(meta, text).values())


def _concision(meta: dict, text: str) -> float:
    """.5 less `EXCESS` for each word beyond those that the preferred style needs; at least -2."""
    room = CORE[meta["intent"]] + COURTESY * (_preference(meta) == "friendly")
    return max(0.5 - EXCESS * max(0, _count(text) - room), -2.0)


def judge(meta: dict, text: str) -> Score:
    """The gold reward of an answer, at most 4.

    ``meta`` is `Scenario.meta`. Parts: those of `shop.judge` that `NOT_OF_STYLE` names (facts +2
    and what is lost for faults); style +1.5 for the preferred one, -1.5 for the other, 0 for
    neither; concision +.5 less `EXCESS` a word beyond the longest complete answer to the question,
    which for a friendly one includes `COURTESY` (at least -2). An answer that delivers nothing of
    what was asked, or that the shop's fluency gate stops, gets no credit for style and concision.
    Raises `ValueError` for a record of another corpus.
    """
    preferred = _preference(meta)
    worth = {preferred: 1.5, _other(preferred): -1.5, "neither": 0.0}
    parts = _parts_of_the_shop(meta, text)
    shown = style(text, meta["customer"])
    manners = {"style": worth[shown], "concision": _concision(meta, text)}
    if parts["facts"] == 0.0:  # also where the gate is closed
        manners = {name: min(value, 0.0) for name, value in manners.items()}
    parts |= manners
    return Score(sum(parts.values()), parts, shop.well_formed(text))


def knows(meta: dict) -> bool:
    """Whether a record with this ``meta`` is of this corpus."""
    return meta.get("corpus") == NAME


# --------------------------------------------------------------------- records
def demonstration(rng: Random, s: Scenario) -> Dialogue:
    """An answered scenario with gold spans ``[message, start, end, label]`` in its meta."""
    marked, decisions = answer(rng, s)
    return annotators.annotated(s, [s.context, *s.turns, marked], decisions)


def demonstrations(n: int, seed: int = 0, held_out: bool = False) -> list[Dialogue]:
    """``n`` dialogues of mixed quality, about 60 % of them in the stated style."""
    rng, stream = Random(f"answers {seed}"), scenarios(seed, held_out)
    return [demonstration(rng, s) for s in islice(stream, n)]


def preference(rng: Random, s: Scenario) -> Preference:
    """Two different answers to one scenario, ordered by a simulated annotator."""
    return annotators.preferred(rng, s, lambda: plain(answer(rng, s)[0]), judge)


def preferences(n: int, seed: int = 0, held_out: bool = False) -> list[Preference]:
    """``n`` annotated pairs; ``meta["gold"]`` holds the gold scores of chosen and rejected."""
    rng, stream = Random(f"pairs {seed}"), scenarios(seed, held_out)
    return [preference(rng, s) for s in islice(stream, n)]
