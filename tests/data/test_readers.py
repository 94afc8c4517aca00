"""Readers: what each format becomes, what is reported, and that nothing disappears."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatlib.data import readers
from chatlib.data.readers import Unreadable, blend, read
from chatlib.data.schema import Dialogue, Preference

USER = {"role": "user", "content": "Where is my order?"}
GOOD = {"role": "assistant", "content": "It is due on Monday."}
BAD = {"role": "assistant", "content": "No idea."}
MESSAGES = {"messages": [USER, GOOD]}
ASKED = "\n\nHuman: Where is my order?\n\nAssistant:"
DIALOGUE = Dialogue([USER, GOOD])
PREFERENCE = Preference([USER], GOOD["content"], BAD["content"])
SHAREGPT = {"conversations": [{"from": "human", "value": USER["content"]}]}
GPT = [{"from": "gpt", "value": m["content"]} for m in (GOOD, BAD)]


def same(record, expected):
    """Equal but for the meta that says where the record stood."""
    return type(record)(**{**record.__dict__, "meta": {}}) == expected


CASES = {
    "messages": ("messages", MESSAGES, DIALOGUE),
    "preference, texts": (
        "preference",
        {"prompt": USER["content"], "chosen": GOOD["content"], "rejected": BAD["content"]},
        PREFERENCE,
    ),
    "preference, messages": (
        "preference",
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        PREFERENCE,
    ),
    "preference, answers repeat the prompt": (
        "preference",
        {"prompt": USER["content"], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        PREFERENCE,
    ),
    "preference, no prompt": (
        "preference",
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        PREFERENCE,
    ),
    "preference, transcripts (rm-static)": (
        "preference",
        {"prompt": ASKED, "chosen": " " + GOOD["content"], "rejected": " " + BAD["content"]},
        PREFERENCE,
    ),
    "preference, whole transcripts": (
        "preference",
        {
            "prompt": ASKED,
            "chosen": f"{ASKED} {GOOD['content']}",
            "rejected": f"{ASKED} {BAD['content']}",
        },
        PREFERENCE,
    ),
    "alpaca": (
        "alpaca",
        {"instruction": USER["content"], "input": "", "output": GOOD["content"]},
        DIALOGUE,
    ),
    "alpaca, preference": (
        "alpaca",
        {"instruction": USER["content"], "chosen": GOOD["content"], "rejected": BAD["content"]},
        PREFERENCE,
    ),
    "sharegpt": (
        "sharegpt",
        {"conversations": [*SHAREGPT["conversations"], GPT[0]]},
        DIALOGUE,
    ),
    "sharegpt, preference": (
        "sharegpt",
        {**SHAREGPT, "chosen": GPT[0], "rejected": GPT[1]},
        PREFERENCE,
    ),
    "hh, text": ("hh", {"text": f"{ASKED} {GOOD['content']}"}, DIALOGUE),
    "hh, pair": (
        "hh",
        {"chosen": f"{ASKED} {GOOD['content']}", "rejected": f"{ASKED} {BAD['content']}"},
        PREFERENCE,
    ),
}


@pytest.mark.parametrize(("format", "row", "expected"), CASES.values(), ids=CASES)
def test_each_format_is_detected_and_read(lines, format, row, expected):
    reading = read(lines(row))
    assert reading.format == format
    assert not reading.problems
    assert same(reading.records[0], expected)
    assert same(read(lines(row), format).records[0], expected)


def test_alpaca_input_system_and_history_become_turns(lines):
    row = {
        "system": "Be brief.",
        "history": [["Hi", "Hello"]],
        "instruction": "Add.",
        "input": "1 2",
        "output": "3",
    }
    record = read(lines(row)).records[0]
    roles = [m["role"] for m in record.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert record.messages[3]["content"] == "Add.\n1 2"


def test_hh_keeps_every_turn(lines):
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Two\nlines?\n\nAssistant: Yes: two."
    record = read(lines({"text": text})).records[0]
    assert [m["content"] for m in record.messages] == ["Hi", "Hello", "Two\nlines?", "Yes: two."]


BROKEN = {
    "malformed JSON": ('{"messages": [', "record", "malformed JSON at column"),
    "not an object": ("[1, 2]", "record", "a list is no record"),
    "missing field": ({"text": "x"}, "messages", "`messages` is missing"),
    "empty answer": (
        {"messages": [USER, {"role": "assistant", "content": " "}]},
        "messages[1].content",
        "is empty; give it text",
    ),
    "unknown role": (
        {"messages": [{"role": "tool", "content": "x"}, GOOD]},
        "messages[0].role",
        "is 'tool'; use one of system, user, assistant",
    ),
    "no assistant turn": ({"messages": [USER]}, "messages", "ends with the user's turn"),
    "content is no text": (
        {"messages": [USER, {"role": "assistant", "content": ["x"]}]},
        "messages[1].content",
        "is a list; give text",
    ),
    "a turn is no object": ({"messages": ["hi"]}, "messages[0]", "is a str; give role and content"),
    "wrong encoding": (
        json.dumps({"messages": [USER, {**GOOD, "content": "caf\xe9"}]}, ensure_ascii=False).encode(
            "latin-1"
        ),
        "messages[1].content",
        "not UTF-8; save the file as UTF-8",
    ),
    "lone surrogate": (
        '{"messages": [{"role": "user", "content": "\\ud800"}]}',
        "messages[0].content",
        "not UTF-8",
    ),
    "10 MB line": (
        json.dumps({"messages": [USER, {**GOOD, "content": "x" * 10_000_000}]}),
        "record",
        "the record has 9.5 MB, more than the 4 MB",
    ),
    "nested too deep": ("[" * 100_000, "record", "malformed JSON"),
    "number too long": ("1" * 10_000, "record", "malformed JSON"),
}


@pytest.mark.parametrize(("row", "field", "reason"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_a_bad_record_is_reported_and_its_neighbours_are_kept(lines, name, row, field, reason):
    reading = read(lines(MESSAGES, row, MESSAGES, name=name))
    assert [r.meta["line"] for r in reading.records] == [1, 3]
    (problem,) = reading.problems
    assert (problem.file, problem.line, problem.field) == (name, 2, field)
    assert reason in problem.reason
    assert "\n" not in str(problem) and len(str(problem)) < 250
    assert reading.read == 3


PAIRS = {
    "chosen equals rejected": (
        {"prompt": "q", "chosen": "a", "rejected": "a "},
        "chosen",
        "equals",
    ),
    "empty answer": ({"prompt": "q", "chosen": "", "rejected": "a"}, "chosen", "is empty"),
    "missing answer": ({"prompt": "q", "chosen": "a"}, "rejected", "is missing"),
    "missing prompt": ({"chosen": "a", "rejected": "b"}, "prompt", "is missing"),
    "another prompt": (
        {"prompt": [GOOD, USER], "chosen": [USER, GOOD], "rejected": "b"},
        "chosen",
        "answers another prompt",
    ),
    "transcript ends with the human": (
        {"prompt": "q", "chosen": "Human: a", "rejected": "b"},
        "chosen",
        "ends with the user's turn",
    ),
}


@pytest.mark.parametrize(("row", "field", "reason"), PAIRS.values(), ids=PAIRS)
def test_a_bad_pair_is_reported(lines, row, field, reason):
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    reading = read(lines(good, row, good), "preference")
    assert len(reading.records) == 2
    (problem,) = reading.problems
    assert (problem.line, problem.field) == (2, field)
    assert reason in problem.reason


def test_hh_pair_with_different_prompts_is_reported(lines):
    row = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}
    good = {"chosen": f"{ASKED} x", "rejected": f"{ASKED} y"}
    reading = read(lines(good, row))
    assert len(reading.records) == 1
    assert "another prompt" in reading.problems[0].reason


def test_a_list_is_read_over_its_broken_element(tmp_path):
    path = tmp_path / "list.json"
    text = json.dumps([MESSAGES] * 3, indent=2)
    at = text.index('"role"', len(text) // 2 - 40)
    path.write_text(text[:at] + "!" + text[at:])
    reading = read(path)
    assert [r.meta["line"] for r in reading.records] == [2, 26]
    assert [p.line for p in reading.problems] == [14]


def test_a_list_that_cannot_be_continued_says_so(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([MESSAGES, MESSAGES])[:-10])
    reading = read(path)
    assert len(reading.records) == 1
    assert "what follows" in reading.problems[-1].reason


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_list_plain_and_gzipped(tmp_path, name, indent):
    path = tmp_path / name
    raw = b"\xef\xbb\xbf" + json.dumps([MESSAGES] * 5, indent=indent).encode()
    path.write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    assert len(read(path).records) == 5
    assert len(read(path, limit=3).records) == 3


def test_a_gzip_file_that_breaks_off_keeps_what_came_before(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    rows = [{"messages": [USER, {**GOOD, "content": str(i**7)}]} for i in range(2000)]
    whole = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    reading = read(path)
    assert 100 < len(reading.records) < 2000
    assert "breaks off" in reading.problems[-1].reason


REFUSED = {
    "no such file": ("missing.jsonl", None, "no such file"),
    "kind of file": ("data.txt", b"x", "unknown kind of file"),
    "no format": (
        "a.jsonl",
        b'{"a": 1, "b": 2}\n',
        "no known format; the first record has the fields",
    ),
    "empty": ("a.jsonl", b"", "the file is empty"),
    "only junk": ("a.jsonl", b"junk\n", "no JSON object in it (malformed JSON"),
    "UTF-16": ("a.json", "[]".encode("utf-16"), "is UTF-16"),
    "not gzip": ("a.json.gz", b"[]", "cannot be read"),
}


@pytest.mark.parametrize(("name", "content", "reason"), REFUSED.values(), ids=REFUSED)
def test_an_unusable_source_raises_one_sentence(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Unreadable) as error:
        read(path)
    assert reason in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_format_is_refused(lines):
    with pytest.raises(Unreadable, match="'alpacca' is unknown; use one of messages"):
        read(lines(MESSAGES), "alpacca")


def test_the_summary_is_one_line(lines):
    reading = read(lines(MESSAGES, "junk", MESSAGES))
    assert reading.summary().startswith("data.jsonl: 2 of 3 rows read as messages; 1 left out")
    assert "\n" not in reading.summary()


def test_hub_data_sets(tmp_path, lines):
    lines(MESSAGES, {"messages": [USER]}, MESSAGES, name="train.jsonl")
    reading = read(f"hub:{tmp_path}")
    assert (len(reading.records), [p.line for p in reading.problems]) == (2, [2])
    assert same(reading.records[0], DIALOGUE)
    with pytest.raises(Unreadable, match="no split 'test'; use one of train"):
        read(f"hub:{tmp_path}#test")
    with pytest.raises(Unreadable, match="cannot be loaded"):
        read(f"hub:{tmp_path / 'missing'}")


# --- properties

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
dialogues = st.lists(text, min_size=1, max_size=3).map(
    lambda said: Dialogue(
        [{"role": role, "content": content} for content in said for role in ("user", "assistant")]
    )
)
pairs = st.tuples(text, text, text).filter(
    lambda t: t[1].strip() != t[2].strip() and not any(map(readers._is_transcript, t))
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
names = st.sampled_from(
    [
        "messages",
        "prompt",
        "chosen",
        "rejected",
        "instruction",
        "output",
        "input",
        "text",
        "conversations",
        "role",
        "content",
        "from",
        "value",
        "history",
        "system",
        "meta",
    ]
)
rows = st.dictionaries(names, junk | st.lists(st.dictionaries(names, junk)), max_size=5)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(st.lists(dialogues, min_size=1, max_size=5), st.sampled_from(readers.SUFFIXES[1:]))
def test_written_dialogues_come_back(tmp_path, records, suffix):
    path = tmp_path / f"records{suffix.replace('json.', 'jsonl.')}"
    readers.write(records, path)
    back = read(path)
    assert not back.problems
    assert [r.messages for r in back.records] == [r.messages for r in records]


@quick
@given(st.lists(pairs, min_size=1, max_size=5))
def test_written_pairs_come_back(tmp_path, said):
    records = [Preference([{"role": "user", "content": p}], c, r) for p, c, r in said]
    readers.write(records, tmp_path / "pairs.jsonl")
    back = read(tmp_path / "pairs.jsonl")
    assert not back.problems
    for record, expected in zip(back.records, records):
        assert record.prompt == expected.prompt
        assert record.chosen == expected.chosen.strip()
        assert record.rejected == expected.rejected.strip()


@quick
@given(st.lists(rows | junk, max_size=6), st.sampled_from([*readers.FORMATS, None]))
def test_junk_is_reported_row_by_row(tmp_path, values, format):
    path = tmp_path / "junk.jsonl"
    path.write_text("\n".join(map(json.dumps, values)))
    try:
        reading = read(path, format)
    except Unreadable:
        assert format is None
    else:
        assert reading.read == len(values)


@quick
@given(st.binary(max_size=300), st.sampled_from(readers.SUFFIXES), st.booleans())
def test_any_bytes_give_a_reading_or_a_sentence(tmp_path, content, suffix, opened):
    path = tmp_path / f"junk{suffix}"
    raw = (b'[{"messages": ' if opened else b"") + content
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    for format in ("messages", None):
        try:
            read(path, format)
        except Unreadable as error:
            assert "\n" not in str(error)


# --- blending


def numbered(n, name):
    return [Dialogue([{"role": "assistant", "content": f"{name}{i}"}]) for i in range(n)]


def test_blend_keeps_the_shares_and_uses_a_source_up_first():
    mixed = blend([numbered(50, "a"), numbered(10, "b")], [3, 1], 100, seed=1)
    counts = Counter(record.answer for record in mixed)
    shares = Counter(answer[0] for answer in counts.elements())
    assert shares == {"a": 75, "b": 25}
    assert set(Counter(v for k, v in counts.items() if k[0] == "b").elements()) == {2, 3}
    assert len([k for k in counts if k[0] == "a"]) == 50


def test_blend_is_seeded():
    sources = [numbered(20, "a"), numbered(20, "b")]
    assert blend(sources, [1, 1], 20, 0) == blend(sources, [1, 1], 20, 0)
    assert blend(sources, [1, 1], 20, 0) != blend(sources, [1, 1], 20, 1)


@pytest.mark.parametrize(
    ("sources", "weights", "reason"),
    [
        ([[]], [1], "0 records"),
        ([numbered(1, "a")], [0], "weight 0"),
        ([], [], "give one for each"),
    ],
)
def test_blend_refuses(sources, weights, reason):
    with pytest.raises(ValueError, match=reason):
        blend(sources, weights, 3)


# --- whole files as data sets are published, made here: every format, two languages, four kinds


SAID = {  # question, better answer, worse answer
    "en": ("Where is order {}?", "It\u2019s due on Monday,\nin two parcels.", "No idea about {}."),
    "zh": ("订单{}在哪里？", "您好，预计星期一到达。\n共两个包裹。", "不知道{}。"),
}


def published(format, kind, question, good, bad):
    """A row as public data sets of a format have it."""
    user, pair = {"role": "user", "content": question}, kind is Preference
    human, gpt = (
        {"from": who, "value": text} for who, text in (("human", question), ("gpt", good))
    )
    asked = f"\n\nHuman: {question}\n\nAssistant:"
    turns = [[user, {"role": "assistant", "content": text}] for text in (good, bad)]
    answers = {"chosen": good, "rejected": bad}
    return {
        ("messages", False): {"messages": turns[0]},
        ("preference", True): {"prompt": question, "chosen": turns[0], "rejected": turns[1]},
        ("alpaca", False): {"instruction": question, "input": "", "output": good},
        ("alpaca", True): {"instruction": question, "input": "", **answers},
        ("sharegpt", False): {"conversations": [human, gpt]},
        ("sharegpt", True): {
            "conversations": [human],
            "chosen": gpt,
            "rejected": {**gpt, "value": bad},
        },
        ("hh", False): {"text": f"{asked} {good}"},
        ("hh", True): {name: f"{asked} {text}" for name, text in answers.items()},
    }[format, pair]


def save(rows, path):
    """Write rows as the path's suffix says: a list or lines, plain or gzipped."""
    text = json.dumps(rows, ensure_ascii=False, indent=2)
    if ".jsonl" in path.name:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("suffix", readers.SUFFIXES)
@pytest.mark.parametrize("language", SAID)
@pytest.mark.parametrize(
    ("format", "kind"),
    [
        *(("messages", Dialogue), ("preference", Preference), ("alpaca", Dialogue)),
        *(("alpaca", Preference), ("sharegpt", Dialogue), ("sharegpt", Preference)),
        *(("hh", Dialogue), ("hh", Preference)),
    ],
)
def test_whole_files_are_read_whole(tmp_path, format, kind, language, suffix):
    said = [tuple(text.format(i) for text in SAID[language]) for i in range(40)]
    path = tmp_path / f"published{suffix}"
    save([published(format, kind, *texts) for texts in said], path)
    reading = read(path)
    assert (reading.format, reading.read, reading.problems) == (format, 40, [])
    for record, (question, good, bad) in zip(reading.records, said, strict=True):
        assert type(record) is kind
        if kind is Preference:
            assert record.prompt == [{"role": "user", "content": question}]
            assert (record.chosen, record.rejected) == (good, bad)
        else:
            assert [m["content"] for m in record.messages] == [question, good]


# --- real data


@pytest.mark.parametrize(
    ("name", "format", "count", "kind"),
    [
        ("alpaca_en_demo.json", "alpaca", 999, Dialogue),
        ("alpaca_zh_demo.json", "alpaca", 1000, Dialogue),
        ("dpo_en_demo.json", "sharegpt", 299, Preference),
        ("dpo_zh_demo.json", "sharegpt", 299, Preference),
    ],
)
def test_real_files_are_read_whole(real, name, format, count, kind):
    reading = read(real / name)
    assert (reading.format, len(reading.records), reading.problems) == (format, count, [])
    assert all(type(record) is kind for record in reading.records)
    assert len(json.loads((real / name).read_text())) == reading.read
