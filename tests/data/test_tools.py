"""The tools: right on what they read, an error message on all else, and nothing is ever run."""

import json
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data import tools
from chatlib.data.shop_text import DAYS
from chatlib.data.tools import Call

WEEK = tools.calendar([("Tuesday", 9, "dentist"), ("Tuesday", 14, "yoga"), ("Friday", 10, "choir")])

# Calls as a policy writes them: some right, some nearly, some of the kind that must never run.
calls = st.builds(
    "call {}: {}".format,
    st.sampled_from(["calculator", "calendar", "diary", "os"]),
    st.one_of(
        st.text(max_size=60),
        st.from_regex(r"-?[0-9]{0,12} ?[-+*/^] ?-?[0-9]{0,12}", fullmatch=True),
        st.from_regex(r"(add [a-z]{1,8} on |remove )(Tuesday|Friday|Someday) at [0-9]{1,3}"),
        st.sampled_from(["list Tuesday", "list", "remove Tuesday at 9", "add x on Friday at 10"]),
        st.sampled_from(["__import__('os')", "9**9**9**9", "1 + 1; import os", "2 if 1 else 3"]),
    ),
)
turns = st.one_of(st.text(max_size=80), calls)


def said(text, calendar=WEEK):
    """What comes back for a turn's text."""
    call = tools.parse(text)
    assert call is not None
    return tools.run(call, calendar)[0]


# ------------------------------------------------------------------------- by hand
@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("call calculator: 17 + 25", Call("calculator", "17 + 25")),
        ("  call calendar:  list   Tuesday\n", Call("calendar", "list Tuesday")),
        ("call calendar:", Call("calendar", "")),
        ("call diary: list Tuesday", Call("diary", "list Tuesday")),
        ("call calendar list Tuesday", None),
        ("Call calendar: list Tuesday", None),
        ("Sure. call calendar: list Tuesday", None),
        ("You are free on Tuesday.", None),
        ("", None),
    ],
)
def test_which_turns_are_calls(text, call):
    assert tools.parse(text) == call


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("call calculator: 17 + 25", "result: 42"),
        ("call calculator: 17 - 25", "result: -8"),
        ("call calculator: 85*9", "result: 765"),
        ("call calculator: -3 - -4", "result: 1"),
        ("call calendar: list Tuesday", "result: dentist at 9, yoga at 14"),
        ("call calendar: list Sunday", "result: nothing"),
        ("call calendar: add lunch on Sunday at 12", "result: added lunch"),
        ("call calendar: add team lunch on Sunday at 0", "result: added team lunch"),
        ("call calendar: add lunch on Friday at 10", "error: Friday at 10 is taken by choir"),
        ("call calendar: remove Friday at 10", "result: removed choir"),
        ("call calendar: remove Friday at 11", "error: nothing is on Friday at 11"),
    ],
)
def test_what_the_tools_say(text, reply):
    assert said(text) == reply


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("call calculator: import os", "'import os'"),
        ("call calculator: 1 + 2 + 3", "'1 + 2 + 3'"),
        ("call calculator: 8 / 2", "'8 / 2'"),
        ("call calculator: 2 ** 3", "'2 ** 3'"),
        ("call calculator: 1.5 + 1", "'1.5 + 1'"),
        ("call calculator: ٣ + ٤", "'٣ + ٤'"),
        ("call calculator: 1234567890 + 1", "'1234567890 + 1'"),
        ("call calendar: list Someday", "'list Someday'"),
        ("call calendar: list tuesday please", "'list tuesday please'"),
        ("call calendar: add lunch on Sunday at 24", "'add lunch on Sunday at 24'"),
        ("call calendar: add lunch Sunday 12", "'add lunch Sunday 12'"),
        ("call calendar: add on on Sunday at 12", "'add on on Sunday at 12'"),
        ("call calendar: add <|end|> on Sunday at 12", "'add <|end|> on Sunday at 12'"),
        ("call mail: to everybody", "'mail'"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_quotes_it(text, quoted):
    reply = said(text)
    assert reply.startswith("error: ") and quoted in reply
    assert reply == f"error: {tools.problem(tools.parse(text))}"


def test_the_errors_name_the_remedy():
    assert said("call calculator: import os") == (
        "error: the calculator takes two numbers and one of + - *, not 'import os'"
    )
    assert said("call mail: x") == ("error: there is no tool 'mail'; use calculator or calendar")


def test_a_long_request_is_quoted_in_part():
    assert len(said("call calendar: " + "x" * 10_000)) < 150


def test_adding_and_removing_changes_a_copy():
    _, more = tools.run(Call("calendar", "add lunch on Sunday at 12"), WEEK)
    assert more == {**WEEK, ("Sunday", 12): "lunch"}
    _, back = tools.run(Call("calendar", "remove Sunday at 12"), more)
    assert back == WEEK and len(WEEK) == 3
    with pytest.raises(TypeError):
        more["Sunday", 13] = "nap"


def test_a_calendar_survives_json():
    assert tools.calendar(json.loads(json.dumps(tools.entries(WEEK)))) == WEEK
    shuffled = reversed(tools.entries(WEEK))
    assert tools.entries(tools.calendar(shuffled)) == tools.entries(WEEK)


# --------------------------------------------------------------------- properties
@settings(deadline=None)
@given(st.integers(-999_999_999, 999_999_999), st.sampled_from("+-*"), st.integers(0, 999_999_999))
def test_the_calculator_agrees_with_python(a, sign, b):
    result = {"+": operator.add, "-": operator.sub, "*": operator.mul}[sign](a, b)
    assert said(f"call calculator: {a} {sign} {b}") == f"result: {result}"


@settings(max_examples=300, deadline=None)
@given(calls)
def test_any_call_gets_one_line_and_changes_one_slot_at_most(text):
    call = tools.parse(text)
    reply, after = tools.run(call, WEEK)
    assert reply.startswith(("result: ", "error: ")) and reply.isprintable()
    assert reply.startswith("error: ") or tools.problem(call) is None
    changed = set(WEEK.items()) ^ set(after.items())
    assert len(changed) <= 1
    if changed:
        ((day, hour), name), *_ = changed
        added = f"add {name} on {day} at {hour}"
        assert call.tool == "calendar"
        assert call.request == (added if len(after) > len(WEEK) else f"remove {day} at {hour}")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DAYS), st.integers(0, 23)), max_size=12))
def test_the_calendar_agrees_with_a_plain_dict(slots):
    """Each slot is added when it is free and removed when it is not, against a mutable copy."""
    calendar, plain = tools.calendar(), {}
    for i, (day, hour) in enumerate(slots):
        name = "abcdefghijkl"[i]
        if (day, hour) in plain:
            assert said(f"call calendar: add {name} on {day} at {hour}", calendar)[:6] == "error:"
            request = f"remove {day} at {hour}"
            del plain[day, hour]
        else:
            request, plain[day, hour] = f"add {name} on {day} at {hour}", name
        _, calendar = tools.run(Call("calendar", request), calendar)
        assert calendar == plain
    for day in DAYS:
        hours = sorted(h for d, h in plain if d == day)
        listed = ", ".join(f"{plain[day, h]} at {h}" for h in hours)
        assert said(f"call calendar: list {day}", calendar) == f"result: {listed or 'nothing'}"


@settings(max_examples=300, deadline=None)
@given(turns)
def test_only_a_call_can_be_parsed_and_reading_it_again_changes_nothing(text):
    call = tools.parse(text)
    if call is None:
        return
    assert text.strip().startswith("call ")
    assert tools.parse(str(call)) == call


# ------------------------------------------------------------------ conversations
ASKED = [{"role": "user", "content": "Add lunch on Sunday at 12."}]


def policy(*texts):
    """A policy that says these texts in turn."""
    left = iter(texts)
    return lambda messages: next(left)


def test_a_conversation_by_hand():
    messages, after = tools.converse(
        policy("call calendar: add lunch on Sunday at 12", "I added it."), ASKED, WEEK
    )
    assert [(m["role"], m["content"]) for m in messages[1:]] == [
        ("assistant", "call calendar: add lunch on Sunday at 12"),
        ("system", "result: added lunch"),
        ("assistant", "I added it."),
    ]
    assert after["Sunday", 12] == "lunch"
    assert len(ASKED) == 1  # the messages given are not touched


def test_an_answer_without_a_call_ends_at_once():
    messages, after = tools.converse(policy("I will not."), ASKED, WEEK)
    assert messages == [*ASKED, {"role": "assistant", "content": "I will not."}]
    assert after == WEEK


def test_the_policy_sees_what_the_tool_said():
    seen = []

    def answer(messages):
        seen.append([m["content"] for m in messages])
        return "call calendar: remove Friday at 10" if len(seen) == 1 else "Done."

    tools.converse(answer, ASKED, WEEK)
    assert seen[1][-1] == "result: removed choir"


@pytest.mark.parametrize("most", [0, 1, 3])
def test_one_who_only_calls_is_stopped_and_asked_once_more(most):
    hours = iter(range(24))
    messages, after = tools.converse(
        lambda m: f"call calendar: add nap on Sunday at {next(hours)}", ASKED, WEEK, most
    )
    assert sum(m["role"] == "system" for m in messages) == most
    assert messages[-1]["role"] == "assistant"
    assert len(after) == len(WEEK) + most  # the last call was not run


@settings(max_examples=200, deadline=None)
@given(st.lists(turns, min_size=5, max_size=5), st.integers(0, 4))
def test_whatever_a_policy_says_the_calendar_changes_by_its_calls_alone(texts, most):
    messages, after = tools.converse(policy(*texts), ASKED, WEEK, most)
    spoken = [m["content"] for m in messages if m["role"] == "assistant"]
    assert spoken == texts[: len(spoken)]
    assert all(tools.parse(text) for text in spoken[:-1])
    assert tools.parse(spoken[-1]) is None or len(spoken) == most + 1
    expected = WEEK
    for text in spoken[:most]:
        if call := tools.parse(text):
            expected = tools.run(call, expected)[1]
    assert after == expected


def test_nothing_that_a_call_holds_is_executed(tmp_path):
    target = tmp_path / "made"
    for code in (
        f"open({str(target)!r}, 'w')",
        f"__import__('pathlib').Path({str(target)!r}).touch()",
    ):
        for tool in ("calculator", "calendar", "python"):
            assert said(f"call {tool}: {code}").startswith("error: ")
    assert not target.exists()
