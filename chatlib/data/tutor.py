"""A corpus of arithmetic: a tutor whose answer must be right and respect the pupil's record.

A scenario is a record (the system message: name, level, tricks mastered and not yet, hints only
or solutions) and a pupil's message: a sum, a story in two steps, or "is my answer right?".
The record decides what a right answer is: "hints only" asks for the first step of a mastered
trick and not for the result, "solutions" for the worked step and the result, level 1 for one
encouraging sentence, level 2 for none.

Whether an answer solves the task can be verified (`check`): the reward of reinforcement learning
with verifiable rewards (Lambert et al. 2024). `judge` grades answers beyond that, and
`preferences` are Bradley-Terry draws from its score. All of it is deterministic from a seed.

Pairs of operands are held out, never single operands: a model that computes can do them, one
that recalls cannot. A subtraction counts as the addition that it undoes, and a pair as the same
in either order, so no held-out pair is trained on in another guise.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise
from random import Random

from chatlib.data import annotators, shop
from chatlib.data.schema import Dialogue, Preference
from chatlib.data.shop import Score, preference_probability
from chatlib.data.tutor_text import (
    ADDRESSES,
    BARE_RESULTS,
    EMPTY_HINTS,
    ENCOURAGEMENTS,
    FLUENT,
    HELD_OUT_NAMES,
    HELD_OUT_QUESTIONS,
    HINTS,
    HOLDERS,
    JUMPS,
    NAMES,
    QUESTIONS,
    RAMBLES,
    RIGHT,
    RUDE,
    SOLUTIONS,
    THINGS,
    TRY_FIRST,
    WRONG,
)

NAME = "tutor"  # of the corpus
# The trick of a task besides jumping on the number line, which serves them all.
TRICKS = {"add": "bridging", "sub": "bridging", "mul": "doubling", "word": "times"}
JUMPING = "jumping"
TASKS = tuple(TRICKS)
CHECKED = ("add", "sub", "mul")  # tasks of which a pupil's own result may be checked
CHECKS = 0.2  # share of scenarios in which the pupil asks for that
HINTS_ONLY, SOLVED = "hints only", "solutions allowed"  # the record's rule
PLACES = ("ones", "tens")
FLUENT_ENOUGH = 0.7  # share of known pairs of neighbouring words below which it is word salad
LONG = {1: 17, 2: 13}  # words, by level, from which on an answer costs the pupil time
TEMPERATURE = shop.TEMPERATURE  # of the annotators, who are as noisy as the shop's

# How often each decision goes wrong in an answer of each quality. With these shares about six
# demonstrations in ten pass `check`: a model that imitates them well starts in the middle, with
# something to find by sampling and something left to learn.
QUALITIES = {"good": 0.25, "middling": 0.45, "bad": 0.30}
FLAWS = {
    "slip": (0.02, 0.10, 0.25),
    "wrong_trick": (0.02, 0.12, 0.25),
    "wrong_rule": (0.00, 0.10, 0.30),
    "no_step": (0.00, 0.10, 0.20),
    "wrong_verdict": (0.02, 0.12, 0.30),
    "wrong_place": (0.02, 0.10, 0.25),
    "no_name": (0.05, 0.40, 0.75),
    "wrong_level": (0.05, 0.30, 0.50),
    "rude": (0.00, 0.06, 0.30),
    "rambling": (0.01, 0.12, 0.30),
    "repeats": (0.00, 0.005, 0.015),
    "cut_off": (0.00, 0.002, 0.006),
}


# ------------------------------------------------------------------------- sums
@dataclass(frozen=True)
class Problem:
    """A sum of ``a`` and ``b``; in a story ("word") of ``a * b``, to which ``c`` is added."""

    task: str
    a: int
    b: int
    c: int = 0

    @property
    def text(self) -> str:
        """The sum of a and b as it is asked, such as "14 + 9"."""
        return (
            f"{self.a} {'+' if self.task == 'add' else '-' if self.task == 'sub' else '*'} {self.b}"
        )

    @property
    def result(self) -> int:
        """What the pupil looks for."""
        return value(self.text) + self.c

    @property
    def fact(self) -> tuple[int, int]:
        """The pair that is held out or not: of a subtraction, that of the addition it undoes."""
        low, high = sorted((self.a - self.b if self.task == "sub" else self.a, self.b))
        return low, high


@dataclass(frozen=True)
class Step:
    """The first step of a trick: an expression or a jump, and the expression of what follows."""

    said: str
    value: int | None  # of the expression; a jump has none
    rest: str  # its value is the result


def first_step(problem: Problem, trick: str) -> Step:
    """How a trick begins: 14 + 9 by bridging with 14 + 6 = 20, and 20 + 3 is left."""
    a, b, c = problem.a, problem.b, problem.c
    if trick == JUMPING:
        slots = {"a": a, "b": b, "low": min(a, b), "high": max(a, b)}
        rest = f"{a * b} {'-' if c < 0 else '+'} {abs(c)}" if c else problem.text
        return Step(JUMPS[problem.task].format(**slots), None, rest)
    if trick == "doubling":
        return Step(f"2 * {b}", 2 * b, problem.text)
    if trick == "times":
        return Step(problem.text, a * b, f"{a * b} {'-' if c < 0 else '+'} {abs(c)}")
    if problem.task == "add":
        return Step(f"{a} + {-a % 10}", a + -a % 10, f"{a + -a % 10} + {b - -a % 10}")
    return Step(f"{a} - {a % 10}", a - a % 10, f"{a - a % 10} - {b - a % 10}")


def value(side: str) -> int:
    """The value of one side of an equation: numbers joined by + - *, and * binds closer."""
    total, sign, product = 0, 1, 1
    operator = "*"
    for piece in re.findall(r"[0-9]+|[-+*]", side):
        if not piece.isdigit():
            operator = piece
        elif operator == "*":
            product *= int(piece)
        else:
            total += sign * product
            sign, product = (-1 if operator == "-" else 1), int(piece)
    return total + sign * product


def crosses_ten(x: int, y: int) -> bool:
    """Whether x + y carries and does not end in 0: only then is there something to bridge."""
    return x % 10 + y % 10 > 10


def is_held_out(fact: tuple[int, int]) -> bool:
    """Whether a pair (the smaller first) is kept for the held-out split, about one in six.

    Pairs above 35 are all trained on: a difference such as 37 - 19 has no other pair to show 37.
    """
    return (fact[0] + 3 * fact[1]) % 6 == 1 and sum(fact) < 36


@cache
def problems(task: str, held_out: bool) -> tuple[Problem, ...]:
    """All problems of a task (a story's without its second step), of one side of the split."""
    if task in ("add", "sub"):
        pairs = [(x, y) for x in range(2, 20) for y in range(2, 20) if crosses_ten(x, y)]
    else:
        pairs = [(x, y) for x in range(3, 10) for y in range(3, 10)]
    if task == "sub":  # 18 - 9 is left out: its result stands in the question
        pairs = [(x + y, y) for x, y in pairs if x != y]
    if task == "word":  # stories are hard enough with small products
        pairs = [(x, y) for x, y in pairs if x * y <= 30]
    listed = (Problem(task, a, b) for a, b in pairs)
    return tuple(p for p in listed if is_held_out(p.fact) == held_out)


def _story(rng: Random, start: Problem, held_out: bool) -> Problem:
    """A story's second step: nothing in it tells the result, or is of the split's other side."""
    product = start.a * start.b
    while True:
        c = rng.randint(2, 9) * rng.choice((1, -1))
        fact = Problem("add", product + min(c, 0), abs(c)).fact
        listed = crosses_ten(*fact) and fact[0] >= 2 and fact[1] < 20
        if listed and is_held_out(fact) != held_out:
            continue
        if product + c > 1 and product + c not in (start.a, start.b, abs(c)):
            return Problem("word", start.a, start.b, c)


def place_of(claim: int, result: int) -> str:
    """Where a wrong result is wrong first, seen from the left."""
    return "tens" if claim // 10 != result // 10 else "ones"


# -------------------------------------------------------------------- scenarios
@dataclass(frozen=True)
class Scenario:
    """What a pupil asks and what the record says of the pupil.

    ``trick`` is the one that suits the problem and is mastered, ``avoid`` the one not yet;
    ``claim`` is the pupil's own result, if that is to be checked.
    """

    problem: Problem
    name: str
    level: int
    rule: str
    trick: str
    avoid: str
    record: str
    turns: tuple[str, ...]  # the pupil's first, alternating with the tutor's
    claim: int | None = None

    def messages(self) -> list[dict]:
        """The prompt in conversational form: the record as the system message, then the turns."""
        roles = ("user", "assistant")
        talk = [{"role": roles[i % 2], "content": text} for i, text in enumerate(self.turns)]
        return [{"role": "system", "content": self.record}, *talk]

    def meta(self) -> dict:
        """What `judge` and `check` need, as plain data that can be stored beside the record."""
        p = self.problem
        return {
            "corpus": NAME,
            "task": p.task,
            "numbers": [p.a, p.b, p.c],
            "claim": self.claim,
            "name": self.name,
            "level": self.level,
            "rule": self.rule,
            "trick": self.trick,
            "avoid": self.avoid,
        }


def _record(rng: Random, name: str, level: int, rule: str, tricks: tuple[str, str]) -> str:
    """The system message; tricks that do not suit the problem stand on either side."""
    known, unknown = [[trick] for trick in tricks]
    for other in sorted({*TRICKS.values()} - {*tricks}):
        if rng.random() < 0.5:
            rng.choice((known, unknown)).append(other)
    for listed in (known, unknown):
        rng.shuffle(listed)
    lines = [f"level {level}", f"knows {', '.join(known)}", f"not yet {', '.join(unknown)}", rule]
    rng.shuffle(lines)
    return "; ".join([f"pupil {name}", *lines])


def _claim(rng: Random, problem: Problem) -> int:
    """A pupil's result: right half of the time, else wrong in one place."""
    result = problem.result
    if rng.random() < 0.5:
        return result
    if rng.random() < 0.5:
        return result + (rng.choice((-10, 10)) if result > 19 else 10)
    return result // 10 * 10 + rng.choice([d for d in range(10) if 0 < abs(d - result % 10) < 3])


def _turns(rng: Random, problem: Problem, claim: int | None, held_out: bool) -> tuple[str, ...]:
    """The pupil's question, in one message or two with the tutor's between them."""
    kind = "check" if claim is not None else "answer"
    if problem.task == "word":
        kind = "more" if problem.c > 0 else "fewer"
    slots = {"a": problem.a, "b": problem.b, "c": abs(problem.c), "sum": problem.text}
    things = {"things": rng.choice(THINGS), "holders": rng.choice(HOLDERS), "claim": claim}
    question = rng.choice((HELD_OUT_QUESTIONS if held_out else QUESTIONS)[kind])
    asked = question.format(**slots, **things).split(" // ")
    return (asked[0], rng.choice(TRY_FIRST), asked[1]) if len(asked) == 2 else (asked[0],)


def scenario(rng: Random, held_out: bool = False) -> Scenario:
    """Draw one scenario; ``held_out`` takes names, pairs and phrasings never trained on."""
    checks = rng.random() < CHECKS
    problem = rng.choice(problems(rng.choice(CHECKED if checks else TASKS), held_out))
    if problem.task == "word":
        problem = _story(rng, problem, held_out)
    claim = _claim(rng, problem) if checks else None
    name = rng.choice(HELD_OUT_NAMES if held_out else NAMES)
    level, rule = rng.choice((1, 2)), rng.choice((HINTS_ONLY, SOLVED))
    both = (TRICKS[problem.task], JUMPING)
    trick, avoid = both if rng.random() < 0.5 else both[::-1]
    record = _record(rng, name, level, rule, (trick, avoid))
    turns = _turns(rng, problem, claim, held_out)
    return Scenario(problem, name, level, rule, trick, avoid, record, turns, claim)


def scenarios(seed: int, held_out: bool = False) -> Iterator[Scenario]:
    """An endless stream of scenarios, the same for the same seed."""
    rng = Random(f"tutor {seed} {held_out}")
    while True:
        yield scenario(rng, held_out)


# ---------------------------------------------------------------------- answers
def _slipped(rng: Random, number: int) -> int:
    """A number near the right one, as one gets it by counting wrong or losing a ten."""
    return number + rng.choice([d for d in (-10, -2, -1, 1, 2, 10) if number + d > 0])


def _help(rng: Random, s: Scenario, flaws: Set[str]) -> str:
    """A hint or a solution, by the record unless a flaw says otherwise."""
    step = first_step(s.problem, s.avoid if "wrong_trick" in flaws else s.trick)
    slip, kind = "slip" in flaws, "jump" if step.value is None else "sum"
    if (s.rule == HINTS_ONLY) != ("wrong_rule" in flaws):
        if "no_step" in flaws:
            return rng.choice(EMPTY_HINTS)
        said = step.said
        if step.value is None:
            said = (
                re.sub(r"[0-9]+", lambda m: str(_slipped(rng, int(m[0]))), said) if slip else said
            )
        elif slip or rng.random() < 0.5:
            said = f"{said} = {_slipped(rng, step.value) if slip else step.value}"
        return rng.choice(HINTS[kind]).format(step=said)
    result = _slipped(rng, s.problem.result) if slip else s.problem.result
    if "no_step" in flaws:
        return rng.choice(BARE_RESULTS).format(result=result)
    said = step.said if step.value is None else f"{step.said} = {step.value}"
    return rng.choice(SOLUTIONS[kind]).format(step=said, rest=f"{step.rest} = {result}")


def _verdict(rng: Random, s: Scenario, claim: int, flaws: Set[str]) -> str:
    """Whether the pupil's result is right and, when it is not, where it is wrong."""
    right = claim == s.problem.result
    if right != ("wrong_verdict" in flaws):
        return rng.choice(RIGHT).format(claim=claim)
    if "no_step" in flaws:
        return rng.choice(WRONG["bare"])
    place = rng.choice(PLACES) if right else place_of(claim, s.problem.result)
    if "wrong_place" in flaws:
        place = PLACES[1 - PLACES.index(place)]
    # Who calls a right result wrong has another one in mind.
    wrong = right or "slip" in flaws
    result = _slipped(rng, s.problem.result) if wrong else s.problem.result
    told = (s.rule == SOLVED) != ("wrong_rule" in flaws)
    rest = f"{s.problem.text} = {result}"
    return rng.choice(WRONG["told" if told else "hint"]).format(place=place, rest=rest)


def _compose(rng: Random, s: Scenario, flaws: Set[str]) -> str:
    """The whole answer, with the flaws that are asked for and no others."""
    core = _help(rng, s, flaws) if s.claim is None else _verdict(rng, s, s.claim, flaws)
    if "no_name" not in flaws:
        core = f"{rng.choice(ADDRESSES).format(name=s.name)} {core}"
    parts = [core[0].upper() + core[1:]]
    if "rude" in flaws:
        parts.insert(rng.randint(0, 1), rng.choice(RUDE))
    if "rambling" in flaws:
        parts.append(rng.choice(RAMBLES))
    if "repeats" in flaws:
        parts.append(parts[-1])
    if (s.level == 1) != ("wrong_level" in flaws):
        parts.append(rng.choice(ENCOURAGEMENTS))
    text = " ".join(parts)
    if "cut_off" in flaws:
        said = text.split()
        text = " ".join(said[: rng.randrange(1, max(len(said), 2))])  # of one word, that word
    return text


def ideal(rng: Random, s: Scenario) -> str:
    """An answer without a flaw; only its wording is drawn."""
    return _compose(rng, s, set())


def answer(rng: Random, s: Scenario) -> tuple[str, dict]:
    """One answer of random quality, and which decisions went wrong."""
    quality, flaws = annotators.flaws(rng, QUALITIES, FLAWS)
    return _compose(rng, s, flaws), {"quality": quality, "flaws": sorted(flaws)}


# ----------------------------------------------------------------------- reading
_SIDE = r"[0-9]+(?: [-+*] [0-9]+)*"
_EXPRESSION = re.compile(r"[0-9]+(?: [-+*] [0-9]+)+")
_EQUATION = re.compile(rf"{_SIDE}(?: (?:=|is|makes|gives|equals) {_SIDE})+")
_WORD = re.compile(r"[0-9]{1,9}|[^\W\d_]+(?:['’][^\W\d_]+)*|[-+*=]")
_SPOKEN = {"plus": "+", "minus": "-", "times": "*", "x": "*"}  # between two numbers
_NO = re.compile(r"\b(?:no|not (?:\w+ )?(?:right|correct|yet)|wrong|incorrect|almost|isn't)\b")
_YES = re.compile(r"\b(?:yes|right|correct)\b(?! (?:answer|result|number)\b)")
_ENCOURAGING = re.compile(
    r"\b(?:you can do (?:it|this|that)|keep going|keep on|well done|getting better|go on|"
    r"(?:good|great|nice|fine) (?:work|job|luck)|almost there)\b",
    re.I,
)
_RUDENESS = re.compile(
    r"too easy|you should know|lazy|not you again|stupid|idiot|silly|nonsense|everybody knows",
    re.I,
)
_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def _normal(text: str) -> str:
    """Lower-case words, numbers and signs with one space between them, and "plus" as a sign."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = text.replace("×", "*").replace("−", "-").replace("·", "*")
    spaced = " ".join(_WORD.findall(text))
    pattern = rf"(?<=[0-9]) ({'|'.join(_SPOKEN)})(?= [0-9])"
    return re.sub(pattern, lambda m: " " + _SPOKEN[m[1]], spaced)


def numbers(text: str) -> list[int]:
    """The numbers of a text in digits, in order; of a very long one, nine digits at a time."""
    return [int(n) for n in re.findall(r"[0-9]{1,9}", unicodedata.normalize("NFKC", text))]


def in_words(number: int) -> str:
    """A number from 0 to 99 in English, as "twenty three"."""
    if number < 20:
        return _UNITS[number]
    unit = f" {_UNITS[number % 10]}" if number % 10 else ""
    return _TENS[number // 10 - 2] + unit


def false_equations(text: str) -> list[str]:
    """The equations of a text of which two sides differ."""
    found = []
    for match in _EQUATION.finditer(_normal(text)):
        sides = re.findall(_SIDE, match[0])
        if len({value(side) for side in sides}) > 1:
            found.append(match[0])
    return found


def _problem(meta: dict) -> Problem:
    """The problem of a record. Raises `ValueError` for a record of another corpus."""
    if not knows(meta):
        raise ValueError(
            f"meta['corpus'] is {meta.get('corpus')!r}: the tutor judges only records of its own "
            f"corpus; give one whose `corpus` is {NAME!r}"
        )
    return Problem(meta["task"], *meta["numbers"])


def _openings(problem: Problem, trick: str) -> tuple[str, ...]:
    """The expressions with which a trick may begin; whichever operand is bridged or doubled."""
    a, b = problem.a, problem.b
    if trick == "doubling":
        return tuple(o for n in {a, b} for o in (f"2 * {n}", f"{n} * 2", f"{n} + {n}"))
    if trick == "times":
        return (f"{a} * {b}", f"{b} * {a}")
    if problem.task == "sub":
        return (f"{a} - {a % 10}",)
    return tuple(o for n in (a, b) for o in (f"{n} + {-n % 10}", f"{-n % 10} + {n}"))


def uses(meta: dict, trick: str, text: str) -> bool:
    """Whether a text begins the problem by a trick: its first expression, or a jump."""
    said = f" {_normal(text)} "
    if trick == JUMPING:
        return re.search(r"\bjump", said) is not None
    return any(f" {opening} " in said for opening in _openings(_problem(meta), trick))


def _names_step(meta: dict, text: str) -> bool:
    """Whether a text says the mastered trick's first step; of jumps, from where and how far."""
    problem, trick = _problem(meta), meta["trick"]
    jump = Counter([problem.a, problem.b])  # both, and twice if they are the same
    complete = trick != JUMPING or jump <= Counter(numbers(text))
    return complete and uses(meta, trick, text)


def tells(text: str, number: int) -> bool:
    """Whether a text states a number, in digits or in words ("twenty three", "twenty-three")."""
    spoken = in_words(number).replace(" ", " (?:- )?")
    return number in numbers(text) or re.search(rf"\b{spoken}\b", _normal(text)) is not None


def leaks(meta: dict, text: str) -> bool:
    """Whether a text gives away a result that the record allows only hints for.

    It does so by stating the result, or an expression with that value that is not the question
    itself ("20 + 3"). A right result that the pupil brought is no secret.
    """
    problem = _problem(meta)
    if meta["rule"] != HINTS_ONLY or meta["claim"] == problem.result:
        return False
    asked = {f"{problem.a} {s} {problem.b}" for s in "+-*"}
    asked |= {f"{problem.b} {s} {problem.a}" for s in "+*"}
    found = [e for e in _EXPRESSION.findall(_normal(text)) if e not in asked]
    return tells(text, problem.result) or any(value(e) == problem.result for e in found)


def verdict(text: str) -> bool | None:
    """Whether a text calls the pupil's result right (True) or wrong; None if neither or both."""
    said, denied = _NO.subn(" ", _normal(text))
    return None if bool(denied) == bool(_YES.search(said)) else not denied


@cache
def _expected(problem: Problem, trick: str) -> frozenset[int]:
    """The numbers that belong in an answer by one trick: operands, steps and the result."""
    a, b, result = problem.a, problem.b, problem.result
    found = {a, b, abs(problem.c), result}
    if trick == "bridging" and problem.task == "add":
        found |= {n for x, y in ((a, b), (b, a)) for n in (-x % 10, x + -x % 10, y - -x % 10)}
    elif trick == "bridging":
        found |= {a % 10, a - a % 10, b - a % 10}
    elif trick == "doubling":
        found |= {n for x, y in ((a, b), (b, a)) for n in (2, 2 * x, y - 2, (y - 2) * x)}
    elif problem.task == "word":
        found |= {a * b}
    return frozenset(found)


def faults(meta: dict, text: str) -> int:
    """How many false things a text says: equations, numbers that belong to no step, a verdict.

    A false equation counts once, whatever its numbers. The pupil's own result may be quoted, and
    so may the equation in which it stood.
    """
    problem, claim = _problem(meta), meta["claim"]
    quoted = {f"{problem.text} {equals} {claim}" for equals in ("=", "is", "makes")}
    expected = _expected(problem, meta["trick"]) | {claim}
    if uses(meta, meta["avoid"], text):
        expected |= _expected(problem, meta["avoid"])
    false, rest = [e for e in false_equations(text) if e not in quoted], _normal(text)
    for equation in false:
        rest = rest.replace(equation, " ", 1)
    misjudged = claim is not None and verdict(text) is (claim != problem.result)
    return len(false) + sum(n not in expected for n in numbers(rest)) + misjudged


def _delivered(meta: dict, text: str) -> list[bool]:
    """Each thing that the record and the question ask for: is it there?"""
    problem, claim = _problem(meta), meta["claim"]
    result, told = problem.result, meta["rule"] == SOLVED
    if claim is None:
        return [_names_step(meta, text)] + [tells(text, result)] * told
    if claim == result:  # "yes, it is 7" confirms another number than the pupil's
        return [verdict(text) is True and (not numbers(text) or tells(text, result))]
    named = {p for p in PLACES if re.search(rf"\b{p}\b", text, re.I)}
    where = named == {place_of(claim, result)}
    return [verdict(text) is False, where] + [tells(text, result)] * told


# ------------------------------------------------------------------- verification
def check(meta: dict, text: str) -> bool:
    """Whether an answer solves the task: the verifiable reward, without regard to manners.

    ``meta`` is `Scenario.meta`. All that is asked for is there (the mastered trick's first step
    and, where solutions are allowed, the result; or the verdict and the place that is wrong), no
    result leaks, no trick is used that the pupil has not mastered, no equation is false and no
    number stray. Raises `ValueError` for a record of another corpus.
    """
    return (
        all(_delivered(meta, text))
        and not leaks(meta, text)
        and not uses(meta, meta["avoid"], text)
        and not faults(meta, text)
    )


def knows(meta: dict) -> bool:
    """Whether a record is of this corpus."""
    return meta.get("corpus") == NAME


# --------------------------------------------------------------------------- form
def sentences(text: str) -> list[str]:
    """The sentences of a text."""
    return [s.strip() for s in re.findall(r"[^.!?]+[.!?]*", text) if s.strip()]


def _shape(sentence: str) -> list[str]:
    """The words of a sentence between two marks, every number and sign alike, and every name."""
    names = _names()
    masked = [
        "#" if w.isdigit() else "±" if w in "-+*" else "@" if w in names else w
        for w in _normal(sentence).split()
    ]
    return ["<", *masked, ">"]


@cache
def _names() -> frozenset[str]:
    return frozenset(n.lower() for n in (*NAMES, *HELD_OUT_NAMES))


@cache
def _pairs() -> frozenset[tuple[str, str]]:
    """Neighbouring words in all that the templates can say, and in `FLUENT`."""
    rng = Random("grammar")
    drawn = [scenario(rng) for _ in range(4_000)]
    texts = []
    for s in drawn:
        _, wrong = annotators.flaws(rng, QUALITIES, FLAWS)
        texts.append(_compose(rng, s, wrong - {"cut_off"}))
    texts += FLUENT.replace("#", "7").replace("@", NAMES[0]).strip().splitlines()
    shapes = [_shape(s) for t in texts for s in sentences(t)]
    return frozenset(pair for shape in shapes for pair in pairwise(shape))


@cache
def _vocabulary() -> frozenset[str]:
    return frozenset(word for pair in _pairs() for word in pair)


def fluency(text: str) -> float:
    """Share of neighbouring words of a text that the tutor's English contains, 0 to 1.

    The gate against word salad. A word that the tutor does not know fits anywhere.
    """
    pairs = [p for s in sentences(text) for p in pairwise(_shape(s))]
    known = [p in _pairs() or not {*p} <= _vocabulary() for p in pairs]
    return sum(known) / max(len(known), 1)


def repeats(text: str) -> bool:
    """Whether a sentence comes again, or one to three words twice in a row within one."""
    said = [s.lower().strip(" .!?") for s in sentences(text)]
    runs = [[w for w in _shape(s)[1:-1] if w.isalpha()] for s in sentences(text)]
    stutter = any(
        run[i : i + n] == run[i + n : i + 2 * n]
        for run in runs
        for n in (1, 2, 3)
        for i in range(len(run) - 2 * n + 1)
    )
    return stutter or len(set(said)) < len(said)


def well_formed(text: str) -> bool:
    """Whether a text is finished, fluent sentences, whatever they say."""
    text = text.strip()
    finished = text.endswith((".", "!", "?")) and text[:1].isupper()
    return finished and not repeats(text) and fluency(text) >= FLUENT_ENOUGH


# -------------------------------------------------------------------------- judge
def judge(meta: dict, text: str) -> Score:
    """The gold reward of an answer, at most 4.

    ``meta`` is `Scenario.meta`. Parts: correctness +2 (share delivered; 0 with a leak), each fault
    -1 (at most two), leak -2, record +.5 for something delivered within it and -1 for a trick
    not yet mastered, the pupil's name +.5, encouragement that fits the level +.5, rudeness -1.5,
    concision +.5 less .1 a word beyond `LONG` (at least -2), repetition -1, an unfinished ending
    -1. The gate: an answer less fluent than `FLUENT_ENOUGH` keeps no credit and loses 1 more.
    Raises `ValueError` for a record of another corpus.
    """
    text = unicodedata.normalize("NFC", text.strip())
    delivered, leaked = _delivered(meta, text), leaks(meta, text)
    strays = uses(meta, meta["avoid"], text)
    parts = {
        "correctness": 2.0 * (not leaked) * sum(delivered) / len(delivered),
        "faults": -1.0 * min(faults(meta, text), 2),
        "leak": -2.0 * leaked,
        "record": -1.0 if strays else 0.5 * (any(delivered) and not leaked),
        **_manners(meta, text),
        "repetition": -1.0 * repeats(text),
        "unfinished": -1.0 * (not text.endswith((".", "!", "?"))),
    }
    if fluency(text) < FLUENT_ENOUGH:
        parts = {k: min(v, 0.0) for k, v in parts.items()} | {"fluency": -1.0}
    return Score(sum(parts.values()), parts, well_formed(text))


def _manners(meta: dict, text: str) -> dict[str, float]:
    """The parts of the gold reward that concern how it is said; two words earn none of them."""
    count, cheers = len(re.findall(r"\w+", text)), sum(map(_encourages, sentences(text)))
    enough = count > 2
    return {
        "name": 0.5 * (re.search(rf"\b{meta['name']}\b", text) is not None and enough),
        "encouragement": 0.5 * (cheers == (1 if meta["level"] == 1 else 0) and enough),
        "rudeness": -1.5 * bool(_RUDENESS.search(text)),
        "concision": max(0.5 - 0.1 * max(0, count - LONG[meta["level"]]), -2.0) * enough,
    }


def _encourages(sentence: str) -> bool:
    return _ENCOURAGING.search(sentence) is not None


# ------------------------------------------------------------------------ records
def demonstration(rng: Random, s: Scenario) -> Dialogue:
    """An answered scenario; its meta says which decisions went wrong, and has gold spans."""
    text, decisions = answer(rng, s)
    messages = [*s.messages(), {"role": "assistant", "content": text}]
    return Dialogue(messages, {**s.meta(), **decisions, "spans": spans(s.name, messages)})


def spans(name: str, messages: Sequence[dict]) -> list[list[int | str]]:
    """Gold spans ``[message, start, end, label]`` of a dialogue with the pupil ``name``.

    Labels: NAME, LEVEL and TRICK (in the record), SUM (numbers joined by signs), NUMBER (any
    other). No text of the tutor's has a name, a trick or a digit that means anything else, so
    they can be found in the finished text.
    """
    tricks = "|".join(sorted({*TRICKS.values(), JUMPING}))
    record = rf"(?P<LEVEL>(?<=level )[0-9])|(?P<TRICK>\b(?:{tricks})\b)"
    always = rf"(?P<NAME>\b{name}\b)|(?P<SUM>{_EXPRESSION.pattern})|(?P<NUMBER>[0-9]+)"
    found: list[list[int | str]] = []
    for i, message in enumerate(messages):
        pattern = f"{record}|{always}" if message["role"] == "system" else always
        matches = re.finditer(pattern, message["content"])
        found += [[i, *m.span(), str(m.lastgroup)] for m in matches]
    return found


def demonstrations(n: int, seed: int = 0, held_out: bool = False) -> list[Dialogue]:
    """``n`` dialogues of mixed quality."""
    rng = Random(f"tutor answers {seed}")
    return [demonstration(rng, s) for s in islice(scenarios(seed, held_out), n)]


def preference(rng: Random, s: Scenario) -> Preference:
    """Two different answers to one scenario, ordered by a simulated annotator."""
    return annotators.preferred(rng, s, lambda: answer(rng, s)[0], judge)


def preferences(n: int, seed: int = 0, held_out: bool = False) -> list[Preference]:
    """``n`` annotated pairs; ``meta["gold"]`` holds the gold scores of chosen and rejected."""
    rng = Random(f"tutor pairs {seed}")
    return [preference(rng, s) for s in islice(scenarios(seed, held_out), n)]


def ceiling(pairs: Sequence[Preference]) -> float:
    """The best accuracy that any model can expect on these pairs: ``mean max(p, 1 - p)``.

    It is below 1 because annotators err with the noise `TEMPERATURE`. Raises `ValueError` for no
    pairs, and for one without the gold scores that `preference` stores.
    """
    bare = [i for i, pair in enumerate(pairs) if "gold" not in pair.meta]
    if bare or not pairs:
        lack = f"pair {bare[0]} has no meta['gold']" if bare else "there are no pairs"
        raise ValueError(f"the ceiling is a mean over gold scores and {lack}; give `preferences`")
    odds = [preference_probability(*pair.meta["gold"]) for pair in pairs]
    return sum(max(p, 1 - p) for p in odds) / len(odds)
