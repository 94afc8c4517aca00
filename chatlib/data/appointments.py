"""The corpus of an assistant with tools: a calendar and a calculator, with a judge that is known.

A scenario is a line with the day and three appointments (the system message) and a request.
What the line shows can be answered at once; what it does not show (whether another day is free,
what a sum comes to) takes a call of a tool, see `chatlib.data.tools`. The right calls of a request
are known, its ``plan``, so the judge needs no model: it compares a call with the next one of the
plan, and an answer with what the plan brings out.

Answers are put together from decisions that fail independently (a guess instead of a call, a
wrong day, a call that cannot be read, a rude line), so demonstrations are of mixed quality.
`preferences` are Bradley-Terry draws from the judge's score. All is deterministic from a seed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from chatlib.data import annotators, shop, tools
from chatlib.data.annotators import Trigram
from chatlib.data.appointments_text import (
    ANSWERS,
    APOLOGIES,
    APPOINTMENTS,
    CLASSES,
    CLOSINGS,
    FLUENT,
    HELD_OUT_APPOINTMENTS,
    HELD_OUT_REQUESTS,
    OPENINGS,
    RAMBLES,
    REFUSALS,
    REQUESTS,
    RUDE,
)
from chatlib.data.schema import Dialogue, Preference
from chatlib.data.shop import Score
from chatlib.data.shop import preference_probability as preference_probability
from chatlib.data.shop_text import CITIES, DAYS
from chatlib.data.shop_text import FLUENT as SHOP_FLUENT
from chatlib.data.tools import Call, Entry

CORPUS = "calendar"
TASKS = tuple(REQUESTS)
HOURS = range(7, 22)
FLUENT_ENOUGH = 0.82  # share of licensed word-class trigrams below which an answer is word salad
TEMPERATURE = shop.TEMPERATURE  # of the annotators, who are as noisy as the shop's

# How often each decision goes wrong in an answer of each quality.
QUALITIES = {"good": 0.35, "middling": 0.35, "bad": 0.30}
FLAWS = {
    "wrong_refusal": (0.00, 0.04, 0.10),
    "no_call": (0.00, 0.10, 0.25),
    "malformed": (0.00, 0.10, 0.20),
    "wrong_request": (0.00, 0.12, 0.30),
    "needless_call": (0.00, 0.08, 0.20),
    "wrong_fact": (0.00, 0.08, 0.20),
    "rude": (0.00, 0.10, 0.40),
    "rambling": (0.02, 0.20, 0.40),
    "no_opening": (0.05, 0.45, 0.80),
    "no_closing": (0.05, 0.45, 0.75),
}  # What goes wrong at most once in a conversation: after it comes the right call, or an answer.
ONCE = frozenset(("no_call", "malformed", "wrong_request", "needless_call"))

# Of each task: the right calls in their order, and what an answer tells once they are made.
ADD, REMOVE = "call calendar: add {name} on {day} at {hour}", "call calendar: remove {past}"
LIST = "call calendar: list {day}"
PLANS: dict[str, tuple[str, ...]] = {
    "add": (ADD,),
    "move": (ADD, REMOVE),  # in this order: where the new hour is taken, the old one is kept
    "remove": (REMOVE,),
    "list": (LIST,),
    "free": (LIST,),
    "when": (),
    "together": ("call calculator: {minutes} + {more}",),
    "weeks": ("call calculator: {minutes} * {weeks}",),
    "out_of_scope": (),
}
OUTCOMES = {
    "add": "added",
    "move": "moved",
    "remove": "removed",
    "list": "listed",
    "free": "free",
    "when": "when",
    "together": "counted",
    "weeks": "counted",
    "out_of_scope": "out_of_scope",
}
INSTEAD = {"added": "taken", "moved": "taken", "free": "busy"}  # when the hour is not free
# The slots that an answer must tell, and those that it may.
REQUIRED: dict[str, tuple[str, ...]] = {
    "added": ("name", "day", "hour"),
    "moved": ("name", "day", "hour"),
    "removed": ("name",),
    "taken": ("day", "hour", "by"),
    "listed": ("day", "entries"),
    "nothing": ("day",),
    "free": ("day",),
    "busy": ("by",),
    "when": ("day", "hour"),
    "counted": ("total",),
    "out_of_scope": (),
}
OPTIONAL: dict[str, tuple[str, ...]] = {
    "removed": ("day", "hour"),
    "taken": ("name",),
    "free": ("hour",),
    "busy": ("day", "hour"),
    "when": ("name",),
    "counted": ("name", "other", "minutes", "more", "weeks"),
}


# ------------------------------------------------------------------ scenarios
@dataclass(frozen=True)
class Scenario:
    """What a user asks, and how far the assistant has come with it.

    ``turns`` are (role, text), the last from the user or a tool; ``entries`` is the calendar at
    this point and ``wanted`` the one at the end; ``done`` counts the calls of ``plan`` that are
    made; ``outcome`` and ``facts`` are what an answer tells once all are.
    """

    task: str
    outcome: str
    facts: dict[str, str]
    today: str
    turns: tuple[tuple[str, str], ...]
    plan: tuple[str, ...]
    entries: tuple[Entry, ...]
    wanted: tuple[Entry, ...]
    done: int = 0

    @property
    def due(self) -> str | None:
        """The call that is right now; None when it is time to answer."""
        return self.plan[self.done] if self.done < len(self.plan) else None

    def messages(self) -> list[dict]:
        """The prompt in conversational form; after a call it ends with the tool's message."""
        return [{"role": role, "content": text} for role, text in self.turns]

    def meta(self) -> dict:
        """What `judge` needs, as plain data that can be stored beside the record."""
        required = [self.facts[slot] for slot in REQUIRED[self.outcome]]
        optional = [self.facts[slot] for slot in OPTIONAL.get(self.outcome, ())]
        return {
            "corpus": CORPUS,
            "task": self.task,
            "outcome": self.outcome,
            "today": self.today,
            "past": self.facts["past"] if self.outcome == "moved" else "",
            "required": [part for fact in required for part in _parts(fact)],
            "allowed": sorted({word for fact in required + optional for word in _told(fact)}),
            "plan": list(self.plan),
            "done": self.done,
            "entries": [list(entry) for entry in self.entries],
            "wanted": [list(entry) for entry in self.wanted],
        }

    def after(self, text: str) -> Scenario:
        """The scenario once the assistant has made a call and the tool has replied.

        Raises `ValueError` for a text that is no call.
        """
        call = tools.parse(text)
        if call is None:
            raise ValueError(f"`after` was given {text[:60]!r}, which is no call; give a call")
        reply, left = tools.run(call, tools.calendar(self.entries))
        return replace(
            self,
            turns=(*self.turns, ("assistant", text), ("system", reply)),
            entries=tuple(tools.entries(left)),
            done=self.done + same_call(text, self.due),
        )


def same_call(text: str, due: str | None) -> bool:
    """Whether two turns are the same call; the order of a sum's or a product's numbers is free."""
    made, right = tools.parse(text), tools.parse(due or "")
    if made is None or right is None:
        return False
    return _canonical(made) == _canonical(right)


def _canonical(call: Call) -> Call:
    sign = re.search("[+*]", call.request)
    if call.tool != "calculator" or sign is None:
        return call
    numbers = sorted(part.strip() for part in call.request.split(sign[0]))
    return Call(call.tool, f" {sign[0]} ".join(numbers))


def _parts(fact: str) -> list[str]:
    """The pieces of a fact that belong together: ``yoga 10`` of an entry, or the fact itself."""
    return [" ".join(_told(entry)) for entry in fact.split(" and ")]


def _day(rng: Random) -> tuple[str, str, str, str]:
    """Today, the day asked about, and how a request names it, with its preposition and without."""
    day = rng.randrange(7)
    ahead = rng.choice((0, 1, *range(1, 7)))
    asked, word = DAYS[(day + ahead) % 7], ("today", "tomorrow")[min(ahead, 1)]
    if ahead < 2 and rng.random() < 0.8:
        return DAYS[day], asked, word, word
    return DAYS[day], asked, f"on {asked}", asked


def _hours(rng: Random, day: str, held_out: bool, n: int) -> list[int]:
    """``n`` hours (at most 3) of a day; one slot in five is kept for the held-out split."""
    kept = [h for h in HOURS if ((DAYS.index(day) + 3 * h) % 5 == 0) == held_out]
    return rng.sample(kept, n)


def _slots(rng: Random, held_out: bool) -> dict[str, str]:
    """Values of all slots of requests and plans that do not depend on the task."""
    names = rng.sample(HELD_OUT_APPOINTMENTS if held_out else APPOINTMENTS, 6)
    today, asked, on, bare = _day(rng)
    minutes = [str(rng.choice(range(10, 100, 5))) for _ in range(2)]
    named = dict(zip(("name", "other", "third", "new", "by", "last"), names))
    numbers = {"minutes": minutes[0], "more": minutes[1], "weeks": str(rng.randint(2, 9))}
    words = {"today": today, "day": asked, "on": on, "bare": bare, "city": rng.choice(CITIES)}
    return named | numbers | words


def scenario(rng: Random, held_out: bool = False) -> Scenario:
    """Draw one scenario; ``held_out`` takes names, hours and phrasings never trained on."""
    task, v = rng.choice(TASKS), _slots(rng, held_out)
    free, *others = _hours(rng, v["day"], held_out, 3)
    hidden = [(v["day"], h, v[k]) for h, k in zip(others, ("by", "last"))][: rng.randint(0, 2)]
    shown = _shown(rng, v, held_out)
    occupied = bool(hidden) and rng.random() < (0.6 if task == "free" else 0.3)
    v["hour"] = str(hidden[0][1] if occupied else free)
    (day, hour, _), *_ = shown
    v["past"] = f"{day} at {hour}"
    v["entries"] = " and ".join(f"{name} at {hour}" for _, hour, name in sorted(hidden))
    if task in ("remove", "when"):
        v |= {"day": day, "hour": str(hour)}
    if task == "add":
        v["name"] = v["new"]
    v["total"] = _total(task, v)
    request = rng.choice((HELD_OUT_REQUESTS if held_out else REQUESTS)[task]).format(**v)
    turns = (("system", _context(rng, v, shown)), ("user", _capitalise(request)))
    return _planned(task, v, turns, [*shown, *hidden])


def _shown(rng: Random, v: dict[str, str], held_out: bool) -> list[Entry]:
    """The three appointments that the system message shows, none on the day asked about."""
    days = rng.sample([d for d in DAYS if d != v["day"]], 3)
    names = (v["name"], v["other"], v["third"])
    return [(day, _hours(rng, day, held_out, 1)[0], name) for day, name in zip(days, names)]


def _context(rng: Random, v: dict[str, str], shown: list[Entry]) -> str:
    """The system message: the day, then each appointment in the words that a request copies."""
    last = rng.choice(range(10, 100, 5))
    lines = [
        f"{name} on {day} at {hour} for {minutes} minutes"
        for (day, hour, name), minutes in zip(shown, (v["minutes"], v["more"], last))
    ]
    rng.shuffle(lines)
    return "; ".join([f"today {v['today']}", *lines])


def _total(task: str, v: dict[str, str]) -> str:
    if task == "weeks":
        return str(int(v["minutes"]) * int(v["weeks"]))
    return str(int(v["minutes"]) + int(v["more"]))


def _planned(
    task: str, v: dict[str, str], turns: tuple[tuple[str, str], ...], there: list[Entry]
) -> Scenario:
    """The scenario with its right calls: the plan of its task up to the first error."""
    start = now = tools.calendar(there)
    outcome, plan = OUTCOMES[task], list[str]()
    for template in PLANS[task]:
        plan.append(template.format(**v))
        call = tools.parse(plan[-1])
        reply, now = tools.run(call, now) if call else ("", now)
        if reply.startswith("error"):
            break
    if (v["day"], int(v["hour"])) in start:
        outcome = INSTEAD.get(outcome, outcome)
    if outcome == "listed" and not v["entries"]:
        outcome = "nothing"
    begin, end = tuple(tools.entries(start)), tuple(tools.entries(now))
    return Scenario(task, outcome, v, v["today"], turns, tuple(plan), begin, end)


def scenarios(seed: int, held_out: bool = False) -> Iterator[Scenario]:
    """An endless stream of requests that nobody has begun to answer, the same for a seed."""
    rng = Random(f"calendar {seed} {held_out}")
    while True:
        yield scenario(rng, held_out)


def after_result(rng: Random, s: Scenario) -> Scenario:
    """The scenario once one or more of its right calls are made: it ends with a tool's message.

    Raises `ValueError` for a scenario that is to be answered without a call.
    """
    if s.due is None:
        raise ValueError(f"`after_result` was given {s.task!r} with no call due; give another task")
    for call in s.plan[s.done : rng.randint(s.done + 1, len(s.plan))]:
        s = s.after(call)
    return s


def after_results(seed: int, held_out: bool = False) -> Iterator[Scenario]:
    """An endless stream of scenarios that end with a tool's message."""
    rng = Random(f"calendar results {seed} {held_out}")
    return (after_result(rng, s) for s in scenarios(seed, held_out) if s.due is not None)


# -------------------------------------------------------------------- answers
def turn(rng: Random, s: Scenario, flaws: frozenset[str]) -> str:
    """The assistant's next turn, a call or an answer, with these decisions gone wrong."""
    if s.due is None:
        if "needless_call" in flaws:
            return f"call calendar: list {s.facts['day']}"
        return _spoken(rng, s.outcome, s.facts, flaws)
    if "wrong_refusal" in flaws or "no_call" in flaws:
        return _spoken(rng, *_believed(rng, s), flaws)
    if "malformed" in flaws:
        return _malformed(rng, s.due)
    return _mistaken(rng, s.due) if "wrong_request" in flaws else s.due


def _malformed(rng: Random, due: str) -> str:
    """A call as a policy writes it that has not learned the tools' language."""
    tool, request = due.removeprefix("call ").split(": ", 1)
    spoilt = {
        "calculator": [f"call calculator: add {request}", f"call sum: {request}"],
        "calendar": [
            f"call calendar: {request.replace(' at ', ' ').replace('list ', 'show ')}",
            f"call diary: {request}",
            f"call calendar: please {request}",
        ],
    }
    return rng.choice(spoilt[tool])


def _mistaken(rng: Random, due: str) -> str:
    """The call with one of its values replaced."""
    where = rng.choice([m for m in re.finditer(r"\w+", due) if m[0].isdigit() or m[0] in DAYS])
    others = DAYS if where[0] in DAYS else [str(n) for n in HOURS]
    value = rng.choice([other for other in others if other != where[0]])
    return due[: where.start()] + value + due[where.end() :]


def _believed(rng: Random, s: Scenario) -> tuple[str, dict[str, str]]:
    """Outcome and facts as somebody tells them who did not make the right call.

    A change of the calendar is taken as made, what a tool said last is taken as the truth, and
    without that the rest is guessed.
    """
    said = s.turns[-1][1]
    told = said.removeprefix("result: ") if said.startswith("result: ") else ""
    outcome = {"busy": "free", "nothing": "listed"}.get(s.outcome, s.outcome)
    if outcome == "taken":
        outcome = OUTCOMES[s.task]
    total = told if told.isdigit() else str(rng.choice(range(20, 200, 5)))
    guess = f"{rng.choice(APPOINTMENTS)} at {rng.choice(HOURS)}"
    entries = told.replace(", ", " and ") if " at " in told else guess
    if outcome == "listed" and told == "nothing":
        outcome = "nothing"
    return outcome, {**s.facts, "total": total, "entries": entries}


def _wrong(rng: Random, outcome: str, facts: dict[str, str]) -> dict[str, str]:
    """The facts with one that the answer tells replaced by another value."""
    slot = rng.choice(REQUIRED[outcome] or ("day",))
    number = [str(n) for n in HOURS]
    others = {"day": DAYS, "hour": number, "total": range(20, 200, 5)}.get(slot, APPOINTMENTS)
    value = str(rng.choice([other for other in others if str(other) != facts[slot]]))
    return {**facts, slot: f"{value} at {rng.choice(number)}" if slot == "entries" else value}


def _spoken(rng: Random, outcome: str, facts: dict[str, str], flaws: frozenset[str]) -> str:
    """Sentences to the user; each flaw changes one thing about them."""
    if "wrong_fact" in flaws:
        facts = _wrong(rng, outcome, facts)
    refuses = "wrong_refusal" in flaws and outcome != "out_of_scope"
    parts = [rng.choice(REFUSALS if refuses else ANSWERS[outcome]).format(**facts)]
    if "no_opening" not in flaws:
        sorry = refuses or outcome in ("taken", "out_of_scope")
        parts.insert(0, rng.choice(APOLOGIES if sorry else OPENINGS))
    if "rude" in flaws:
        parts.insert(rng.randint(0, len(parts)), rng.choice(RUDE))
    if "rambling" in flaws:
        parts += rng.sample(RAMBLES, rng.randint(1, 2))
    if "no_closing" not in flaws:
        parts.append(rng.choice(CLOSINGS))
    return " ".join(_capitalise(part) for part in parts)


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------------- judge
COURTESY = re.compile(
    r"\b(?:sure|of course|gladly|certainly|sorry|afraid|please|thank|happy to|no problem)\b", re.I
)
CLOSING = re.compile(r"\b(?:anything else|nice day|welcome|let me know)\b", re.I)
_OCCUPIED = r"\b(?:taken|not free|busy|already)\b"
# What an answer of an outcome does besides telling facts, and what contradicts the outcome.
ACTS = {
    "removed": re.compile(
        r"\b(?:removed|cancelled|canceled|deleted|no longer|taken out|gone)\b", re.I
    ),
    "taken": re.compile(_OCCUPIED, re.I),
    "nothing": re.compile(r"\b(?:nothing|free|no appointments?|empty)\b", re.I),
    "free": re.compile(r"\b(?:free|yes|nothing|have time)\b", re.I),
    "busy": re.compile(rf"{_OCCUPIED}|\byou(?: will)? have\b", re.I),
    "out_of_scope": shop.REFUSAL,
}
CONTRADICTIONS = {
    "added": re.compile(r"\b(?:taken|not free|busy|not add)\b", re.I),
    "moved": re.compile(r"\b(?:taken|not free|busy|not move)\b", re.I),
    "removed": re.compile(r"\bnot (?:remove|cancel|delete)", re.I),
    "taken": re.compile(r"\bI(?:'ve| have|) (?:just )?(?:added|moved|put|booked)\b", re.I),
    "free": re.compile(rf"^no\b|{_OCCUPIED}", re.I),
    "busy": re.compile(r"^yes\b|(?<!not )\bfree\b", re.I),
}


def _told(text: str, today: str = "") -> list[str]:
    """The checkable words of a text in their order: numbers, days, and names of appointments.

    With ``today``, a day told as "today" or "tomorrow" counts as the day that it is.
    """
    words = re.findall(r"\d+|[^\W\d_]+", text.replace(":00", ""))
    if today:
        i = DAYS.index(today)
        near = {"today": today, "tomorrow": DAYS[(i + 1) % 7]}
        words = [near.get(word.lower(), word) for word in words]
    return [_CHECKABLE.get(w.lower(), w) for w in words if w.isdigit() or w.lower() in _CHECKABLE]


# Days and names as they are written, by their lower-case form.
_CHECKABLE = {w.lower(): w for w in (*DAYS, *APPOINTMENTS, *HELD_OUT_APPOINTMENTS)}


def _tells(told: list[str], required: str) -> bool:
    """Whether a piece is told: a word anywhere, a name and its hour as a pair in either order."""
    words = required.split()
    if len(words) == 1:
        return words[0] in told
    rest = [word for word in told if word not in DAYS]
    return any(sorted(pair) == sorted(words) for pair in zip(rest[::2], rest[1::2]))


def _without_past(meta: dict, text: str) -> str:
    """A text less "from Tuesday at 9", the hour that an appointment was moved away from."""
    past = meta["past"]
    return (
        text.replace(f"from {past}", "").replace(f"from {past.split(' ')[0]}", "") if past else text
    )


@dataclass(frozen=True)
class _Content:
    """What an answer says, without its manners: all of it can be checked against the plan."""

    share: float  # of the facts and the act that the outcome asks for; 0 when contradicted
    wrong: int  # facts told that do not belong to the answer, and a contradiction
    refuses: bool  # what could have been done


def _content(meta: dict, text: str) -> _Content:
    outcome, told = meta["outcome"], _told(_without_past(meta, text), meta["today"])
    checks = [_tells(told, part) for part in meta["required"]]
    if outcome in ACTS:
        checks.append(ACTS[outcome].search(text) is not None)
    stray = {word for word in told if word not in meta["allowed"]}
    denied = outcome in CONTRADICTIONS and CONTRADICTIONS[outcome].search(text) is not None
    share = 0.0 if denied else sum(checks) / len(checks)
    refuses = outcome != "out_of_scope" and shop.REFUSAL.search(text) is not None
    return _Content(share, len(stray) + denied, refuses)


def _due(meta: dict) -> str | None:
    return meta["plan"][meta["done"]] if meta["done"] < len(meta["plan"]) else None


def check(meta: dict, text: str) -> bool:
    """Whether a turn is right, manners aside: the call that is due, or a true, whole answer."""
    due = _due(meta)
    if due is not None or tools.parse(text):
        return same_call(text, due)
    content = _content(meta, text)
    return content.share == 1.0 and not content.wrong and not content.refuses


def judge(meta: dict, text: str) -> Score:
    """The gold reward of the next turn after a prompt, at most 4.

    ``meta`` is `Scenario.meta`. While a call is due: the right call 4; another call 1, less .5 if
    the tool cannot read it and 2 if it changes the calendar (1 if its turn is yet to come); no
    call -1, for a refusal -.5.
    When it is time to answer: facts +2.5 (share told; 0 when contradicted), each wrong fact or
    contradiction -1 (at most two), wrong refusal -1, courtesy +.5, exactly one closing +.5,
    concision +.5 less .08 a word beyond 22 (at least -2; 0 for two words or fewer), repetition
    -1, unfinished -1, and a call as above less 1.5. Rudeness is -1.5 at any time. An answer that
    stutters or is less fluent than `FLUENT_ENOUGH` keeps no credit and loses 1 more.
    """
    text = unicodedata.normalize("NFC", text.strip())
    due = _due(meta)
    call = tools.parse(text)
    if call is not None:
        parts = _call_parts(meta, call, due)
    elif due is not None:
        refuses = shop.REFUSAL.search(text) is not None
        parts = {"no_call": -0.5 if refuses else -1.0, "rudeness": _rudeness(text)}
    else:
        parts = _answer_parts(meta, text)
    return Score(sum(parts.values()), parts, well_formed(text))


def _call_parts(meta: dict, call: Call, due: str | None) -> dict[str, float]:
    before = tools.calendar(meta["entries"])
    right, changes = same_call(str(call), due), tools.run(call, before)[1] != before
    planned = str(call) in meta["plan"][meta["done"] :]
    return {
        "call": 1.0 if due is not None else -0.5,
        "request": 3.0 * right,
        "malformed": -0.5 * (tools.problem(call) is not None),
        "harm": 0.0 if right or not changes else -1.0 if planned else -2.0,
        "rudeness": _rudeness(call.request),
    }


def _rudeness(text: str) -> float:
    return -1.5 * bool(shop.RUDENESS.search(text))


def _answer_parts(meta: dict, text: str) -> dict[str, float]:
    content, count = _content(meta, text), len(re.findall(r"\w+", text))
    closings = sum(1 for s in shop.sentences(text) if CLOSING.search(s))
    parts = {
        "facts": 2.5 * content.share,
        "wrong": -1.0 * min(content.wrong, 2),
        "refusal": -1.0 * content.refuses,
        "rudeness": _rudeness(text),
        "courtesy": 0.5 * bool(COURTESY.search(text)),
        "closing": 0.5 * (closings == 1),
        "concision": max(0.5 - 0.08 * max(0, count - 22), -2.0) if count > 2 else 0.0,
        "repetition": -1.0 * shop.repeats(text),
        "unfinished": -1.0 * (not text.endswith((".", "!", "?"))),
    }
    if fluency(text) < FLUENT_ENOUGH or shop.stutters(text):
        parts = {k: min(v, 0.0) for k, v in parts.items()} | {"fluency": -1.0}
    return parts


def judge_conversation(meta: dict, messages: list[dict], calendar: tools.Calendar) -> Score:
    """The gold reward of a whole conversation, at most 6.

    ``meta`` is `Scenario.meta` of any of its prompts, ``messages`` and ``calendar`` are as
    `tools.converse` gives them. Parts: the calendar as it should be +2, otherwise -2; each call
    of the plan that was not made -1; each other call -.25; the last turn as an answer of `judge`.
    """
    said = [m["content"].strip() for m in messages if m["role"] == "assistant"]
    calls = [text for text in said if tools.parse(text)]
    made = sum(any(same_call(text, due) for text in calls) for due in meta["plan"])
    last = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    spoken = "" if tools.parse(last) else unicodedata.normalize("NFC", last.strip())
    parts = {
        "calendar": 2.0 if calendar == tools.calendar(meta["wanted"]) else -2.0,
        "missing": -1.0 * (len(meta["plan"]) - made),
        "detours": -0.25 * (len(calls) - made),
        **_answer_parts(meta, spoken),
    }
    return Score(sum(parts.values()), parts, bool(said) and all(map(well_formed, said)))


# ---------------------------------------------------------------------- fluency
def word_class(word: str) -> str:
    """The most common class of a word; ``?`` for one that the assistant does not know."""
    return CLASSES.get(word.lower()) or shop.word_class(word)


def fluency(text: str) -> float:
    """Share of the word-class trigrams of a text that the corpus's English contains, 0 to 1.

    The gate against word salad, as in `shop.fluency`. An unknown word fits anywhere.
    """
    return annotators.fluency(_sentences(text), word_class, _trigrams())


@cache
def _trigrams() -> frozenset[Trigram]:
    """The word-class trigrams of all that the templates say, and of what people write."""
    facts = dict.fromkeys(("name", "by"), "yoga") | {"day": "Friday", "hour": "10", "total": "75"}
    entries = ("yoga at 10", "yoga at 10 and lunch at 14")
    core = [t.format(**facts, entries=e) for ts in ANSWERS.values() for t in ts for e in entries]
    rest = [*OPENINGS, *APOLOGIES, *REFUSALS, *CLOSINGS, *RUDE, *RAMBLES]
    texts = [*core, *rest, *FLUENT.strip().splitlines(), *SHOP_FLUENT.strip().splitlines()]
    return frozenset(annotators.trigrams([s for t in texts for s in _sentences(t)], word_class))


def _sentences(text: str) -> list[list[str]]:
    return [shop.words(sentence) for sentence in shop.sentences(text)]


def well_formed(text: str) -> bool:
    """Whether a turn is a call that its tool can read, or finished, fluent sentences."""
    text = text.strip()
    call = tools.parse(text)
    if call is not None:
        return tools.problem(call) is None
    finished = text.endswith((".", "!", "?")) and text[:1].isupper()
    return finished and not shop.repeats(text) and fluency(text) >= FLUENT_ENOUGH


def knows(meta: dict) -> bool:
    """Whether a record is of this corpus."""
    return meta.get("corpus") == CORPUS


# -------------------------------------------------------------------- records
def demonstration(rng: Random, s: Scenario) -> Dialogue:
    """The whole conversation to its answer; ``meta`` is that of the prompt of its last turn.

    A call goes wrong at most once: after an error the right call follows, after the result of
    a wrong one an answer that takes it for the right one.
    """
    quality, flaws = annotators.flaws(rng, QUALITIES, FLAWS)
    now = flaws
    text = turn(rng, s, now)
    while tools.parse(text):
        due = s.due
        s = s.after(text)
        if not same_call(text, due):
            mistaken = due is not None and not s.turns[-1][1].startswith("error")
            now = now - ONCE | ({"no_call"} if mistaken else set())
        text = turn(rng, s, now)
    messages = [*s.messages(), {"role": "assistant", "content": text}]
    return Dialogue(messages, {**s.meta(), "quality": quality, "flaws": sorted(flaws)})


def demonstrations(n: int, seed: int = 0, held_out: bool = False) -> list[Dialogue]:
    """``n`` dialogues of mixed quality."""
    rng, stream = Random(f"calendar answers {seed}"), scenarios(seed, held_out)
    return [demonstration(rng, s) for s, _ in zip(stream, range(n))]


def preference(rng: Random, s: Scenario) -> Preference:
    """Two different next turns of one scenario, ordered by a simulated annotator."""

    def draw() -> str:
        return turn(rng, s, annotators.flaws(rng, QUALITIES, FLAWS)[1])

    return annotators.preferred(rng, s, draw, judge)


def preferences(n: int, seed: int = 0, held_out: bool = False) -> list[Preference]:
    """``n`` annotated pairs; ``meta["gold"]`` holds the gold scores of chosen and rejected."""
    rng, stream = Random(f"calendar pairs {seed}"), scenarios(seed, held_out)
    return [preference(rng, s) for s, _ in zip(stream, range(n))]
