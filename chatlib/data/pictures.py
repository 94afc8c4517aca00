"""The corpus of pictures: questions about a product that is shown, with a judge that is known.

A scenario is a picture of one product in one colour and a question about it. The stages know text
only, so the picture stands in the system message as text: each of its patches is one of the
codebook's codes (see `drawing`), and each code is written as a letter of its own, a token of the
vocabulary. That is how a language model reads pictures in DALL-E (Ramesh et al. 2021) and in
Chameleon (Chameleon Team 2024). What a picture shows is never said in words, so whoever answers
right has seen it.

One pair of colour and product in six is kept for the held-out split, though every colour and
every product is trained on. Answers are put together from decisions that fail independently (a
wrong colour, a wrong thing, a rude line), so demonstrations are of mixed quality, but mostly
right. `preferences` are Bradley-Terry draws from the judge's score. All is deterministic from a
seed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from chatlib.data import annotators, drawing, shop
from chatlib.data.annotators import Trigram
from chatlib.data.drawing import COLOURS, SHAPES, Codes, Drawing, Image, blank, patches, reconstruct
from chatlib.data.pictures_text import (
    ANSWERS,
    CLASSES,
    CLOSINGS,
    FLUENT,
    GREETINGS,
    OPENINGS,
    OTHER_COLOURS,
    OTHER_THINGS,
    QUESTIONS,
    RAMBLES,
    REFUSALS,
    RUDE,
    SHORT,
)
from chatlib.data.schema import Dialogue, Preference
from chatlib.data.shop import Score
from chatlib.data.shop import preference_probability as preference_probability
from chatlib.data.shop_text import FLUENT as SHOP_FLUENT

__all__ = [
    "CORPUS",
    "TEMPERATURE",
    "Scenario",
    "blank",
    "check",
    "demonstration",
    "demonstrations",
    "image",
    "judge",
    "knows",
    "patches",
    "preference",
    "preferences",
    "reconstruct",
    "scenarios",
    "with_picture",
]

CORPUS = "pictures"
TASKS = tuple(QUESTIONS)
REQUIRED: dict[str, tuple[str, ...]] = {
    "colour": ("colour",),
    "thing": ("product",),
    "both": ("colour", "product"),
    "greeting": (),
}
# A code is written as a Cyrillic letter: no other corpus has one, and two bytes are soon one token.
LETTERS = tuple(chr(0x410 + code) for code in range(drawing.CODES))
FLUENT_ENOUGH = 0.82  # share of licensed word-class trigrams below which an answer is word salad
TEMPERATURE = shop.TEMPERATURE  # of the annotators, who are as noisy as the shop's

# How often each decision goes wrong in an answer of each quality.
QUALITIES = {"good": 0.45, "middling": 0.35, "bad": 0.20}
FLAWS = {
    "wrong_colour": (0.02, 0.15, 0.30),
    "wrong_thing": (0.02, 0.15, 0.30),
    "short": (0.00, 0.10, 0.20),
    "wrong_refusal": (0.00, 0.05, 0.12),
    "rude": (0.00, 0.10, 0.40),
    "rambling": (0.02, 0.20, 0.40),
    "no_opening": (0.05, 0.45, 0.80),
    "no_closing": (0.05, 0.45, 0.75),
}


# ------------------------------------------------------------------ scenarios
@dataclass(frozen=True)
class Scenario:
    """A question about a picture.

    ``picture`` is what was drawn, and the truth; ``codes`` are what the prompt shows of it, or
    shows instead of it (see `with_picture`).
    """

    task: str
    question: str
    picture: Drawing
    codes: Codes

    def messages(self) -> list[dict]:
        """The prompt in conversational form: the codes as the system message, the question."""
        shown = " ".join(LETTERS[code] for code in self.codes)
        return [
            {"role": "system", "content": f"picture {shown}"},
            {"role": "user", "content": self.question},
        ]

    def meta(self) -> dict:
        """What `judge` needs, as plain data that can be stored beside the record."""
        truth = {"colour": self.picture.colour, "product": self.picture.product}
        return {"corpus": CORPUS, "task": self.task, **truth}


def kept(colour: str, product: str) -> bool:
    """Whether a pair is kept for the held-out split: one in six, with every word in some."""
    return (list(COLOURS).index(colour) + list(SHAPES).index(product)) % 6 == 0


def scenario(rng: Random, held_out: bool = False) -> Scenario:
    """Draw one scenario; ``held_out`` takes pairs of colour and product never trained on.

    The questions are the same ones in both: what is measured is seeing, not reading.
    """
    pairs = [(c, p) for c in COLOURS for p in SHAPES if kept(c, p) == held_out]
    colour, product = rng.choice(pairs)
    picture, task = drawing.drawing(rng, product, colour), rng.choice(TASKS)
    return Scenario(task, rng.choice(QUESTIONS[task]), picture, patches(drawing.draw(picture)))


def scenarios(seed: int, held_out: bool = False) -> Iterator[Scenario]:
    """An endless stream of scenarios, the same for the same seed."""
    rng = Random(f"pictures {seed} {held_out}")
    while True:
        yield scenario(rng, held_out)


def image(s: Scenario) -> Image:
    """The pixels (rows, columns, 3) that were drawn, whatever codes the prompt shows."""
    return drawing.draw(s.picture)


def with_picture(s: Scenario, codes: Sequence[int]) -> Scenario:
    """The scenario with another picture before the question, and the truth as it was.

    With `blank` codes it is the control: what is still answered right was not seen. Raises
    `ValueError` for codes that are no picture's.
    """
    drawing.check_codes(codes)
    return replace(s, codes=tuple(codes))


# -------------------------------------------------------------------- answers
def _seen(rng: Random, s: Scenario, flaws: frozenset[str]) -> dict[str, str]:
    """Colour and product as the answer takes them; a mistake never makes a held-out pair."""
    colour, product = s.picture.colour, s.picture.product
    if "wrong_colour" in flaws:
        colour = rng.choice([c for c in COLOURS if c != colour and not kept(c, product)])
    if "wrong_thing" in flaws:
        product = rng.choice([p for p in SHAPES if p != product and not kept(colour, p)])
    return {"colour": colour, "product": product}


def _core(rng: Random, s: Scenario, flaws: frozenset[str]) -> str:
    """The sentence that answers the question."""
    if "wrong_refusal" in flaws and s.task != "greeting":
        return rng.choice(REFUSALS)
    options = (SHORT if "short" in flaws else ANSWERS)[s.task]
    return rng.choice(options).format(**_seen(rng, s, flaws))


def answer(rng: Random, s: Scenario) -> tuple[str, dict]:
    """One answer of random quality, and which decisions went wrong."""
    quality, flaws = annotators.flaws(rng, QUALITIES, FLAWS)
    parts = [_core(rng, s, flaws)]
    if "no_opening" not in flaws:
        parts.insert(0, rng.choice(GREETINGS if s.task == "greeting" else OPENINGS))
    if "rude" in flaws:
        parts.insert(rng.randint(0, len(parts)), rng.choice(RUDE))
    if "rambling" in flaws:
        parts += rng.sample(RAMBLES, rng.randint(1, 2))
    if "no_closing" not in flaws:
        parts.append(rng.choice(CLOSINGS))
    text = " ".join(part[:1].upper() + part[1:] for part in parts)
    return text, {"quality": quality, "flaws": sorted(flaws)}


# ---------------------------------------------------------------------- judge
COURTESY = re.compile(
    r"\b(?:sure|of course|gladly|certainly|please|thank|happy to|with pleasure|hello|hi|"
    r"(?<!you are )welcome|good (?:morning|day|evening))\b",
    re.I,
)
CLOSING = re.compile(r"\b(?:anything else|nice day|you are welcome|let me know|further)\b", re.I)
DENIAL = re.compile(r"\b(?:not|no|never|neither|nor|\w+n['’]t)\b(?! (?:problem|doubt)\b)", re.I)
_COLOUR = re.compile(rf"\b(?:{'|'.join([*COLOURS, *OTHER_COLOURS])})\b", re.I)
_THING = re.compile(rf"\b({'|'.join([*SHAPES, *OTHER_THINGS])})s?\b", re.I)


def mentions(text: str) -> dict[str, set[str]]:
    """The colours and the things that a text names, in lower case and the singular."""
    return {
        "colour": {m[0].lower() for m in _COLOUR.finditer(text)},
        "product": {m[1].lower() for m in _THING.finditer(text)},
    }


@dataclass(frozen=True)
class _Content:
    """What an answer says, without its manners: all of it can be checked against the picture."""

    share: float  # of what was asked and is named alone; 0 when it is denied
    wrong: int  # colours and things named that the picture does not show, and a denial
    refuses: bool


def _content(meta: dict, text: str) -> _Content:
    named, task = mentions(text), meta["task"]
    wrong = sum(len(named[kind] - {meta[kind]}) for kind in named)
    refuses = shop.REFUSAL.search(text) is not None
    if task == "greeting":
        return _Content(float(shop.OFFER.search(text) is not None), wrong, refuses)
    # One name of each kind: whoever lists all colours has told none.
    asked = [named[kind] == {meta[kind]} for kind in REQUIRED[task]]
    denied = DENIAL.search(text) is not None and not refuses
    share = 0.0 if denied or refuses else sum(asked) / len(asked)
    return _Content(share, wrong + denied, refuses)


def check(meta: dict, text: str) -> bool:
    """Whether an answer is right, manners aside: what was asked is named, and nothing else."""
    content = _content(meta, text)
    return content.share == 1.0 and not content.wrong and not content.refuses


def judge(meta: dict, text: str) -> Score:
    """The gold reward of an answer, at most 4.

    ``meta`` is `Scenario.meta`. Parts: facts +2.5 (the share of what was asked that is named, with
    no other beside it; of a greeting the offer to help), each wrong colour or thing or a denial -1
    (at most two), a refusal -.5, rudeness -1.5, courtesy +.5, exactly one closing +.5, concision
    +.5 less .08 a word beyond 14 (at least -2; 0 for a single word), repetition -1, an unfinished
    ending -1. An answer that stutters or is less fluent than `FLUENT_ENOUGH` keeps no credit and
    loses 1 more.
    """
    text = unicodedata.normalize("NFC", text.strip())
    content, count = _content(meta, text), len(re.findall(r"\w+", text))
    closings = sum(1 for s in shop.sentences(text) if CLOSING.search(s))
    parts = {
        "facts": 2.5 * content.share,
        "wrong": -1.0 * min(content.wrong, 2),
        "refusal": -0.5 * content.refuses,
        "rudeness": -1.5 * bool(shop.RUDENESS.search(text)),
        "courtesy": 0.5 * bool(COURTESY.search(text)),
        "closing": 0.5 * (closings == 1),
        "concision": max(0.5 - 0.08 * max(0, count - 14), -2.0) if count > 1 else 0.0,
        "repetition": -1.0 * shop.repeats(text),
        "unfinished": -1.0 * (not text.endswith((".", "!", "?"))),
    }
    if fluency(text) < FLUENT_ENOUGH or shop.stutters(text):
        parts = {k: min(v, 0.0) for k, v in parts.items()} | {"fluency": -1.0}
    return Score(sum(parts.values()), parts, well_formed(text))


# ---------------------------------------------------------------------- fluency
def word_class(word: str) -> str:
    """The most common class of a word; ``?`` for one that the corpus does not know."""
    return CLASSES.get(word.lower()) or shop.word_class(word)


def fluency(text: str) -> float:
    """Share of the word-class trigrams of a text that the corpus's English contains, 0 to 1.

    The gate against word salad, as in `shop.fluency`. An unknown word fits anywhere.
    """
    return annotators.fluency(_sentences(text), word_class, _trigrams())


@cache
def _trigrams() -> frozenset[Trigram]:
    """The word-class trigrams of all that the templates say, and of what people write."""
    core = [t for said in (*ANSWERS.values(), *SHORT.values()) for t in said]
    manners = [*OPENINGS, *GREETINGS, *REFUSALS, *CLOSINGS, *RUDE, *RAMBLES]
    texts = [t.format(colour="red", product="lamp") for t in (*core, *manners)]
    texts += [*FLUENT.strip().splitlines(), *SHOP_FLUENT.strip().splitlines()]
    return frozenset(annotators.trigrams([s for t in texts for s in _sentences(t)], word_class))


def _sentences(text: str) -> list[list[str]]:
    return [shop.words(sentence) for sentence in shop.sentences(text)]


def well_formed(text: str) -> bool:
    """Whether a text is finished, fluent sentences: the part of the judge that sees no picture."""
    text = text.strip()
    finished = text.endswith((".", "!", "?")) and text[:1].isupper()
    return finished and not shop.repeats(text) and fluency(text) >= FLUENT_ENOUGH


def knows(meta: dict) -> bool:
    """Whether a record is of this corpus."""
    return meta.get("corpus") == CORPUS


# -------------------------------------------------------------------- records
def demonstration(rng: Random, s: Scenario) -> Dialogue:
    """An answered scenario; ``meta`` also says which decisions of the answer went wrong."""
    text, decisions = answer(rng, s)
    messages = [*s.messages(), {"role": "assistant", "content": text}]
    return Dialogue(messages, {**s.meta(), **decisions})


def demonstrations(n: int, seed: int = 0, held_out: bool = False) -> list[Dialogue]:
    """``n`` dialogues of mixed quality."""
    rng, stream = Random(f"pictures answers {seed}"), scenarios(seed, held_out)
    return [demonstration(rng, s) for s, _ in zip(stream, range(n))]


def preference(rng: Random, s: Scenario) -> Preference:
    """Two different answers to one scenario, ordered by a simulated annotator."""
    return annotators.preferred(rng, s, lambda: answer(rng, s)[0], judge)


def preferences(n: int, seed: int = 0, held_out: bool = False) -> list[Preference]:
    """``n`` annotated pairs; ``meta["gold"]`` holds the gold scores of chosen and rejected."""
    rng, stream = Random(f"pictures pairs {seed}"), scenarios(seed, held_out)
    return [preference(rng, s) for s, _ in zip(stream, range(n))]
