"""Sources are looked into before a launch: a mistake is one sentence, at once, with no process."""

import json
import time

import pytest

from chatlib.cli import main
from chatlib.data import heads, readers
from chatlib.lab import launch
from chatlib.settings.stages import RewardConfig, SFTConfig

TALK = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def written(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


@pytest.mark.parametrize(
    "rows, sentence",
    [
        (["{no json", "{neither"], "rows.jsonl: no JSON object in it"),
        ([{"question": "q"}], "the first record has the fields question; rename them"),
        ([{"messages": []}] * 3, "none of 3 rows is a record in the format messages; rows.jsonl,"),
        ([], "rows.jsonl: no JSON object in it (the file is empty)"),
    ],
)
def test_a_bad_file_is_a_sentence_before_any_process(home, capsys, monkeypatch, rows, sentence):
    path = written(home, *rows)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    began = time.monotonic()
    assert main(["sft", "--sources", str(path)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and time.monotonic() - began < 2
    assert [p.name for p in home.iterdir()] == ["rows.jsonl"]
    with pytest.raises(readers.Unreadable):
        launch(SFTConfig(sources=[path]))  # a notebook's way


def test_a_row_left_out_beside_usable_ones_stops_nothing(tmp_path):
    heads.look_into(SFTConfig(sources=[written(tmp_path, "{no json", TALK, {"messages": []})]))


def test_a_reward_model_needs_a_pair_and_a_long_file_may_still_hold_one(tmp_path):
    reward = lambda *rows: RewardConfig(model="m", sources=[written(tmp_path, *rows)])
    heads.look_into(reward(PAIR))
    heads.look_into(reward(*[TALK] * (heads.RECORDS + 1)))
    with pytest.raises(readers.Unreadable, match="no record has two answers, chosen and rejected"):
        heads.look_into(reward(TALK, TALK))


def test_only_the_head_is_read(tmp_path, monkeypatch):
    path, read = written(tmp_path, *[TALK] * 1000), []
    parse = readers._parse
    monkeypatch.setattr(readers, "_parse", lambda text: read.append(1) or parse(text))
    heads.look_into(SFTConfig(sources=[path]))
    assert len(read) == heads.RECORDS + 1
