"""The tools that a virtual assistant may call: a calculator and a calendar of one week.

A call is a whole turn of the assistant, ``call calendar: list Tuesday``. What the tool says
comes back as a message of the role `system`, ``result: dentist at 9``, which the loss masks like
all context. So tool use needs no role or token that the chat template does not have.

A policy may write anything into a call. Requests are therefore read by patterns of their own,
of bounded size, and nothing in them is ever evaluated; what cannot be read gets an error message
back, which the policy sees as it sees a result.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from chatlib.data.shop_text import DAYS

Entry = tuple[str, int, str]  # an appointment: day, hour (0 to 23), name
Calendar = Mapping[tuple[str, int], str]  # the names of appointments by day and hour; read-only
Talk = tuple[list[dict], Calendar]  # a conversation so far, and the calendar at this point
Answer = Callable[[list[dict]], str]  # a policy: the assistant's next turn after these messages

SHOWN = 40  # characters of a request that an error message quotes
_CALL = re.compile(r"call (\w{1,20}): *(.*)", re.DOTALL)
_SUM = re.compile(r"(-?[0-9]{1,9}) ?([-+*]) ?(-?[0-9]{1,9})")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_WORD = r"(?!(?:on|at)\b)[^\W\d_]{1,20}"  # of a name: letters, and none of the request's own words
_SLOT = rf"({'|'.join(DAYS)}) at (1?[0-9]|2[0-3])"
_ADD = re.compile(rf"add ({_WORD}(?: {_WORD}){{0,2}}) on {_SLOT}")
_REMOVE = re.compile(rf"remove {_SLOT}")
_LIST = re.compile(rf"list ({'|'.join(DAYS)})")
_TAKES = {
    "calculator": ("two numbers and one of + - *", (_SUM,)),
    "calendar": (
        "add NAME on DAY at HOUR, list DAY or remove DAY at HOUR",
        (_ADD, _REMOVE, _LIST),
    ),
}


@dataclass(frozen=True)
class Call:
    """What the assistant asks a tool for; ``request`` has single spaces and may be any text."""

    tool: str
    request: str

    def __str__(self) -> str:
        return f"call {self.tool}: {self.request}"


def parse(text: str) -> Call | None:
    """The call that a turn of the assistant is; None for a turn that speaks to the user."""
    match = _CALL.fullmatch(text.strip())
    return Call(match[1], " ".join(match[2].split())) if match else None


def calendar(entries: Iterable[Entry] = ()) -> Calendar:
    """A read-only calendar of some appointments."""
    return MappingProxyType({(day, hour): name for day, hour, name in entries})


def entries(of: Calendar) -> list[Entry]:
    """The appointments of a calendar from Monday to Sunday, plain data; `calendar` reads them."""
    listed = [(day, hour, name) for (day, hour), name in of.items()]
    return sorted(listed, key=lambda entry: (DAYS.index(entry[0]), entry[1]))


def problem(call: Call) -> str | None:
    """Why a call cannot be read, in one sentence for the policy; None if it can."""
    if call.tool not in _TAKES:
        return f"there is no tool {_quoted(call.tool)}; use {' or '.join(_TAKES)}"
    takes, patterns = _TAKES[call.tool]
    if any(pattern.fullmatch(call.request) for pattern in patterns):
        return None
    return f"the {call.tool} takes {takes}, not {_quoted(call.request)}"


def _quoted(text: str) -> str:
    """The beginning of a text on one line, with what cannot be printed escaped."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def run(call: Call, of: Calendar) -> tuple[str, Calendar]:
    """What the tool says (``result: ...`` or ``error: ...``), and the calendar afterwards.

    Pure: the calendar given stays as it is. Any call gets a reply; none raises.
    """
    if call.tool == "calculator" and (match := _SUM.fullmatch(call.request)):
        return f"result: {_OPERATIONS[match[2]](int(match[1]), int(match[3]))}", of
    if call.tool == "calendar":
        if match := _ADD.fullmatch(call.request):
            return _added(of, match[2], int(match[3]), match[1])
        if match := _REMOVE.fullmatch(call.request):
            return _removed(of, match[1], int(match[2]))
        if match := _LIST.fullmatch(call.request):
            return f"result: {_listed(of, match[1])}", of
    return f"error: {problem(call)}", of


def _added(of: Calendar, day: str, hour: int, name: str) -> tuple[str, Calendar]:
    if (day, hour) in of:
        return f"error: {day} at {hour} is taken by {of[day, hour]}", of
    return f"result: added {name}", MappingProxyType({**of, (day, hour): name})


def _removed(of: Calendar, day: str, hour: int) -> tuple[str, Calendar]:
    if (day, hour) not in of:
        return f"error: nothing is on {day} at {hour}", of
    left = {slot: name for slot, name in of.items() if slot != (day, hour)}
    return f"result: removed {of[day, hour]}", MappingProxyType(left)


def _listed(of: Calendar, asked: str) -> str:
    there = [f"{name} at {hour}" for day, hour, name in entries(of) if day == asked]
    return ", ".join(there) or "nothing"


def converse(
    answer: Answer, messages: list[dict], of: Calendar, most: int = 3
) -> tuple[list[dict], Calendar]:
    """Let a policy answer with its tools: the messages with its turns, the calendar afterwards.

    Each call is run and its reply appended, until a turn is no call. After ``most`` calls the
    policy is asked once more, so that it can speak; a call in that last turn is not run.
    """
    (talk,) = converse_all(lambda talks: [answer(talks[0])], [(messages, of)], most)
    return talk


def converse_all(
    answers: Callable[[list[list[dict]]], list[str]],
    begun: Iterable[Talk],
    most: int = 3,
    reply: Callable[[Call, Calendar], tuple[str, Calendar]] = run,
) -> list[Talk]:
    """`converse` for many conversations at once: ``answers`` gives the next turn of each.

    ``reply`` runs a call; another one than `run` shows what a policy makes of its reply.
    """
    talks = [(list(messages), of) for messages, of in begun]
    waiting = list(range(len(talks)))
    for left in range(most, -1, -1):
        texts = answers([list(talks[i][0]) for i in waiting]) if waiting else []
        calls = {}
        for i, text in zip(waiting, texts):
            talks[i][0].append({"role": "assistant", "content": text})
            if (call := parse(text)) and left:
                calls[i] = call
        for i, call in calls.items():
            messages, of = talks[i]
            said, after = reply(call, of)
            talks[i] = ([*messages, {"role": "system", "content": said}], after)
        waiting = list(calls)
    return talks
