"""Files and hub data sets in, records out: nothing is dropped without a line that says why.

`read` understands five formats (`FORMATS`), detects which one it has, and returns a `Reading`:
the usable records and a `Problem` for every row that is not one. It raises `Unreadable`, one
sentence, only when a source as a whole cannot be used.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from chatlib.data.schema import ROLES, BadRecord, Dialogue, Preference, Record

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
MAX_BYTES = 4 * 2**20  # of one record: a hundred times a long context, so a mistake if larger
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
HH_TURN = re.compile(r"\n\n(Human|Assistant):[ \t]?")
HUB_NAME = re.compile(r"hub:(?P<name>[^@#]+)(@(?P<revision>[^#]+))?(#(?P<split>.+))?")


class Unreadable(ValueError):
    """A source that cannot be used as a whole; the message is one sentence with a remedy."""


@dataclass(frozen=True)
class Problem:
    """Why one row of a source is not a record: `line` counts from 1 (hub: the row)."""

    file: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Reading:
    """What came out of one source: rows read = usable records + problems.

    ``more`` is True where a limit stopped the reading before the source's end.
    """

    name: str
    format: str
    records: list[Record]
    problems: list[Problem] = field(default_factory=list)
    more: bool = False

    @property
    def read(self) -> int:
        """Rows seen, usable or not."""
        return len(self.records) + len(self.problems)

    def summary(self) -> str:
        """One line: what was kept, what was not, and the first reason."""
        kept = f"{self.name}: {len(self.records)} of {self.read} rows read as {self.format}"
        if self.more:
            kept += ", the rest not read"
        if not self.problems:
            return kept
        first = self.problems[0]
        return (
            f"{kept}; {len(self.problems)} left out, the first: line {first.line}: {first.reason}"
        )


def read(name: str | Path, format: str | None = None, limit: int | None = None) -> Reading:
    """Read at most `limit` records from a file or `hub:NAME[@REVISION][#SPLIT]`.

    Files are UTF-8 `.json` (a list, or one object after another) or `.jsonl`, gzipped too.
    `format` is one of `FORMATS`; when not given it is taken from the first row that fits one.
    Raises `Unreadable` when the source cannot be opened or has no known format.
    """
    if format is not None and format not in FORMATS:
        raise Unreadable(f"format {format!r} is unknown; use one of {', '.join(FORMATS)}")
    rows = iter(_hub_rows(str(name)) if str(name).startswith("hub:") else _file_rows(Path(name)))
    label = str(name) if str(name).startswith("hub:") else Path(name).name
    waiting: list[tuple[int, object]] = []
    if format is None:
        format, waiting = _detect(rows, label)
    return _convert(itertools.chain(waiting, rows), label, format, limit)


def _detect(rows: Iterator[tuple[int, object]], label: str) -> tuple[str, list]:
    """The format of the first row that has one, and the rows that were taken to find it."""
    seen: list[tuple[int, object]] = []
    for line, row in rows:
        seen.append((line, row))
        for name, (_, fits) in FORMATS.items():
            if isinstance(row, dict) and fits(row):
                return name, seen
    fields = next((list(row) for _, row in seen if isinstance(row, dict)), None)
    if fields is not None:
        shown = ", ".join(map(str, fields[:6])) or "none"
        raise Unreadable(
            f"{label}: no known format; the first record has the fields {shown}; "
            f"rename them to those of one of {', '.join(FORMATS)}"
        )
    reason = next((str(row) for _, row in seen), "the file is empty")
    raise Unreadable(f"{label}: no JSON object in it ({reason}); give one object per record")


def _convert(
    rows: Iterator[tuple[int, object]], label: str, format: str, limit: int | None
) -> Reading:
    """Turn raw rows into records; each row ends in exactly one of the two lists."""
    reading = Reading(label, format, [], [])
    convert = FORMATS[format][0]
    while limit is None or len(reading.records) < limit:
        line, row = next(rows, (None, None))
        if line is None:
            break
        try:
            raw = _usable(row)
            record = convert(raw)
            meta = raw["meta"] if isinstance(raw.get("meta"), dict) else {}
            record.meta.update(meta, source=label, line=line)
            reading.records.append(record)
        except BadRecord as error:
            reading.problems.append(Problem(label, line, _field(str(error)), str(error)))
    return replace(reading, more=next(rows, None) is not None)


def _field(reason: str) -> str:
    """The field a reason names in backticks, or `record` when it is about all of it."""
    named = re.search(r"`([^`]+)`", reason)
    return named.group(1) if named else "record"


def _usable(row: object) -> dict:
    """The row if it is an object, else `BadRecord`."""
    if isinstance(row, BadRecord):
        raise row
    if not isinstance(row, dict):
        raise BadRecord(f"a {type(row).__name__} is no record; give an object with named fields")
    return row


# --- rows of a file: (line, object), or (line, BadRecord) where no object could be read


def _file_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Rows of a `.json`/`.jsonl` file, gzipped or not. Raises `Unreadable`."""
    if not path.name.endswith(SUFFIXES):
        raise Unreadable(
            f"{path}: unknown kind of file; give {', '.join(SUFFIXES)} or hub:NAME[@REVISION]"
        )
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4096).lstrip()
    except FileNotFoundError:
        raise Unreadable(f"{path}: no such file; check the name and the folder") from None
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"{path}: cannot be read ({error}); check the file") from None
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Unreadable(f"{path}: is UTF-16, not UTF-8; convert it (iconv -f UTF-16 -t UTF-8)")
    if ".jsonl" in path.name or _is_lines(head):
        return _line_rows(path, opener)
    return _document_rows(path, opener)


def _is_lines(head: bytes) -> bool:
    """Whether a `.json` file holds one object per line: its first line parses by itself."""
    first, newline, _ = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    try:
        return bool(newline) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _line_rows(path: Path, opener: Callable) -> Iterator[tuple[int, object]]:
    """One JSON value per line; blank lines are skipped; a line too long is never held."""
    with opener(path, "rb") as file:
        for number in itertools.count(1):
            try:
                line = file.readline(MAX_BYTES + 1)
                size = len(line)
                while len(line) > MAX_BYTES and not line.endswith(b"\n"):
                    line = file.readline(MAX_BYTES + 1) or b"\n"
                    size += len(line)
            except (OSError, EOFError, zlib.error) as error:
                yield number, BadRecord(f"the compressed file breaks off ({error}); copy it again")
                return
            if not size:
                return
            if size > MAX_BYTES:
                yield number, _too_long(size)
            elif line.strip():
                yield number, _parse(line.decode("utf-8-sig", "surrogateescape"))


def _too_long(size: int) -> BadRecord:
    return BadRecord(
        f"the record has {size / 2**20:.1f} MB, more than the {MAX_BYTES / 2**20:.0f} MB "
        "that a record may have; split it"
    )


def _parse(text: str) -> object:
    """The JSON value of a text, or the `BadRecord` that says why there is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _malformed(error)


def _malformed(error: Exception) -> BadRecord:
    what = getattr(error, "msg", None) or str(error)
    column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    return BadRecord(f"malformed JSON{column} ({what}); correct the line or remove it")


def _document_rows(path: Path, opener: Callable) -> Iterator[tuple[int, object]]:
    """The elements of one JSON list, or objects that follow one another, with their lines.

    An element that does not parse is reported, and reading goes on at the next line that
    opens an object at the first element's indentation.
    """
    text = _whole_text(path, opener)
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    at = _past(between, text, _past(re.compile(r"\s*\[?"), text, 0))
    indent = text[text.rfind("\n", 0, at) + 1 : at]
    again = re.compile(rf"\n{re.escape(indent if indent.isspace() else '')}(?=\{{)")
    line, counted = 1, 0
    while at < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield line, _malformed(error)
            found = again.search(text, at)
            if not found:
                yield line, BadRecord("what follows the malformed element cannot be read either")
                return
            at = found.end()
        else:
            yield line, _too_long(end - at) if end - at > MAX_BYTES else value
            at = _past(between, text, end)


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where a match that begins at ``at`` ends; ``at`` itself without one."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _whole_text(path: Path, opener: Callable) -> str:
    """A file's text; bytes that are not UTF-8 become lone surrogates. Raises `Unreadable`."""
    try:
        with opener(path, "rb") as file:
            return file.read().decode("utf-8-sig", "surrogateescape")
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"{path}: the compressed file breaks off ({error})") from None


def _hub_rows(name: str) -> Iterator[tuple[int, object]]:
    """Rows of a data set on the Hugging Face hub, or of a local data set folder."""
    from datasets import load_dataset

    parts = HUB_NAME.fullmatch(name)
    if not parts:
        raise Unreadable(f"{name!r} names no data set; write hub:NAME, hub:NAME@REVISION")
    try:
        splits = load_dataset(parts["name"], revision=parts["revision"])
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Unreadable(f"{name}: cannot be loaded ({reason}); check name and network") from None
    split = parts["split"] or ("train" if "train" in splits else next(iter(splits)))
    if split not in splits:
        raise Unreadable(f"{name}: no split {split!r}; use one of {', '.join(splits)}")
    return enumerate((_without_nulls(row) for row in splits[split]), start=1)


def _without_nulls(row: dict) -> dict:
    """Columns that a row leaves empty come back from arrow as None: they are absent."""
    return {key: value for key, value in row.items() if value is not None}


# --- formats: one row to one record


def _text(row: dict, name: str, where: str = "") -> str:
    """A field's text. Raises `BadRecord` when it is missing, empty, no text or not UTF-8."""
    value, shown = row.get(name), f"`{where}{name}`"
    if value is None:
        raise BadRecord(f"{shown} is missing; add it or remove the record")
    if not isinstance(value, str):
        raise BadRecord(f"{shown} is a {type(value).__name__}; give text")
    if not value.strip():
        raise BadRecord(f"{shown} is empty; give it text or remove the record")
    # bytes that were not UTF-8 arrive as lone surrogates, and so does an escape like "\\ud800"
    if re.search("[\ud800-\udfff]", value):
        raise BadRecord(f"{shown} holds bytes that are not UTF-8; save the file as UTF-8")
    return value


def _turns(
    value: object,
    where: str,
    role: str = "role",
    content: str = "content",
    roles: dict[str, str] | None = None,
) -> list[dict]:
    """A list of turns as messages; complaints use the field names of the file."""
    roles = roles or {r: r for r in ROLES}
    if value is None:
        raise BadRecord(f"`{where}` is missing; add it or remove the record")
    if not isinstance(value, list) or not value:
        raise BadRecord(f"`{where}` holds no turns; give a list of {role}/{content} objects")
    messages = []
    for i, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise BadRecord(f"`{where}[{i}]` is a {type(turn).__name__}; give {role} and {content}")
        if not isinstance(turn.get(role), str) or turn[role] not in roles:
            raise BadRecord(
                f"`{where}[{i}].{role}` is {str(turn.get(role))[:40]!r}; "
                f"use one of {', '.join(roles)}"
            )
        text = _text(turn, content, f"{where}[{i}].")
        messages.append({"role": roles[turn[role]], "content": text})
    return messages


def _dialogue(messages: list[dict], where: str) -> Dialogue:
    """A dialogue to imitate. Raises `BadRecord` when the last turn is not an answer."""
    if messages[-1]["role"] != "assistant":
        raise BadRecord(
            f"`{where}` ends with the {messages[-1]['role']}'s turn; "
            "add the assistant turn to learn from or remove the record"
        )
    return Dialogue(messages)


def _from_messages(row: dict) -> Dialogue:
    return _dialogue(_turns(row.get("messages"), "messages"), "messages")


def _from_preference(row: dict) -> Preference:
    """prompt/chosen/rejected; each a text or messages; answers may repeat the prompt."""
    prompt = _prompt(row["prompt"]) if row.get("prompt") is not None else None
    answers = {}
    for name in ("chosen", "rejected"):
        before, answers[name] = _answer(row, name)
        if before and prompt and before != prompt:
            raise BadRecord(f"`{name}` answers another prompt; both answers need the same one")
        prompt = prompt or before
    if not prompt:
        raise BadRecord("`prompt` is missing; add it, or give whole conversations as answers")
    return Preference(prompt, answers["chosen"], answers["rejected"])


def _prompt(value: object) -> list[dict]:
    """A prompt as messages: from messages, from a transcript, or a plain question."""
    if isinstance(value, list):
        return _turns(value, "prompt")
    text = _text({"prompt": value}, "prompt")
    if not _is_transcript(text):
        return [{"role": "user", "content": text}]
    return _transcript(re.sub(r"\s*\n\nAssistant:\s*$", "", text), "prompt")


def _answer(row: dict, name: str) -> tuple[list[dict], str]:
    """The turns before an answer (none when it is given alone), and the answer's text."""
    if isinstance(row.get(name), list):
        messages = _turns(row[name], name)
    else:
        text = _text(row, name)
        if not _is_transcript(text):
            return [], text.strip()
        messages = _transcript(text, name)
    dialogue = _dialogue(messages, name)
    return dialogue.prompt, dialogue.answer


def _from_alpaca(row: dict) -> Record:
    """instruction/input/output, with the optional `system`, `history` and chosen/rejected."""
    question = _text(row, "instruction")
    if row.get("input"):
        question = f"{question}\n{_text(row, 'input')}"
    messages = _system(row)
    for i, pair in enumerate(row.get("history") or []):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRecord(f"`history[{i}]` is no pair; give [question, answer]")
        turns = [{"role": r, "content": c} for r, c in zip(("user", "assistant"), pair)]
        messages += _turns(turns, f"history[{i}]")
    messages.append({"role": "user", "content": question})
    if "chosen" in row and "rejected" in row:
        return Preference(messages, _text(row, "chosen"), _text(row, "rejected"))
    return Dialogue([*messages, {"role": "assistant", "content": _text(row, "output")}])


def _system(row: dict) -> list[dict]:
    """The optional `system` field as messages."""
    return [{"role": "system", "content": _text(row, "system")}] if row.get("system") else []


def _from_sharegpt(row: dict) -> Record:
    """conversations of from/value turns; with chosen and rejected, a preference."""
    names = ("from", "value", SHAREGPT_ROLES)
    messages = _system(row) + _turns(row.get("conversations"), "conversations", *names)
    if "chosen" not in row and "rejected" not in row:
        return _dialogue(messages, "conversations")
    answers = []
    for name in ("chosen", "rejected"):
        turn = row.get(name)
        if isinstance(turn, dict):
            answers.append(_turns([turn], name, *names)[0]["content"])
        else:
            answers.append(_text(row, name))
    return Preference(messages, *answers)


def _is_transcript(value: object) -> bool:
    return isinstance(value, str) and bool(re.match(r"\s*(Human|Assistant):", value))


def _transcript(text: str, name: str) -> list[dict]:
    r"""Turns of an HH-RLHF transcript, "\n\nHuman: ...\n\nAssistant: ..." (Bai et al. 2022)."""
    parts = HH_TURN.split("\n\n" + text.lstrip())
    if parts[0].strip() or len(parts) < 3:
        raise BadRecord(f"`{name}` does not begin with 'Human:'; give a transcript of both sides")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        {"role": roles[who], "content": said.strip()} for who, said in zip(*[iter(parts[1:])] * 2)
    ]
    return _turns(turns, name)


def _from_hh(row: dict) -> Record:
    """A transcript in `text`, or two that differ in the last answer."""
    if "chosen" not in row and "rejected" not in row:
        return _dialogue(_transcript(_text(row, "text"), "text"), "text")
    (prompt, chosen), (other, rejected) = (_hh_answer(row, name) for name in ("chosen", "rejected"))
    if prompt != other:
        raise BadRecord("`rejected` answers another prompt than `chosen`; remove the pair")
    return Preference(prompt, chosen, rejected)


def _hh_answer(row: dict, name: str) -> tuple[list[dict], str]:
    dialogue = _dialogue(_transcript(_text(row, name), name), name)
    return dialogue.prompt, dialogue.answer


def _has(*names: str) -> Callable[[dict], bool]:
    return lambda row: all(name in row for name in names)


# name -> (converter, whether a row looks like it); tried in this order
FORMATS: dict[str, tuple[Callable[[dict], Record], Callable[[dict], bool]]] = {
    "messages": (_from_messages, _has("messages")),
    "sharegpt": (_from_sharegpt, _has("conversations")),
    "alpaca": (
        _from_alpaca,
        lambda row: "instruction" in row and bool({"output", "chosen"} & set(row)),
    ),
    "hh": (
        _from_hh,
        lambda row: (
            "prompt" not in row
            and any(_is_transcript(row.get(name)) for name in ("text", "chosen"))
        ),
    ),
    "preference": (
        _from_preference,
        lambda row: (
            "chosen" in row
            and "rejected" in row
            and ("prompt" in row or isinstance(row["chosen"], list))
        ),
    ),
}


def write(records: list[Record], path: str | Path) -> None:
    """Write records as JSON lines that `read` reads back, gzipped when the name ends in .gz."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


def shares(weights: list[float], n: int) -> list[int]:
    """How many of `n` records each source gives: whole numbers near n w_i / sum(w), n in all."""
    total = sum(weights)
    edges = [round(n * sum(weights[: i + 1]) / total) for i in range(len(weights))]
    return [end - start for start, end in zip([0, *edges], edges)]


def blend(sources: list[list[Record]], weights: list[float], n: int, seed: int = 0) -> list[Record]:
    """`n` records in random order, of which source i gives the share weights[i] / sum(weights).

    A source is used up before any record of it comes a second time. Raises `ValueError` for an
    empty source or a weight that is not positive.
    """
    if len(sources) != len(weights) or not sources:
        raise ValueError(f"{len(weights)} weights for {len(sources)} sources; give one for each")
    for i, (records, weight) in enumerate(zip(sources, weights)):
        if not records or not weight > 0:
            raise ValueError(
                f"source {i} has {len(records)} records and weight {weight}; both must be above 0"
            )
    rng = random.Random(seed)
    drawn = []
    for records, share in zip(sources, shares(weights, n)):
        for left in range(share, 0, -len(records)):
            drawn += rng.sample(records, min(left, len(records)))
    rng.shuffle(drawn)
    return drawn
