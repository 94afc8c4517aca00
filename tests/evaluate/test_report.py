"""The report of a model from the shop: every figure with its interval, parts that add up."""

import json

import pytest
from tiny_chat_model import save

from chatlib.cli import main
from chatlib.data import shop
from chatlib.evaluate import policy, report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "tiny")


def test_parts_add_up_and_lie_in_their_intervals(folder, monkeypatch):
    """Answers of the shop itself, so that the parts differ from 0."""
    answers = [dialogue.answer for dialogue in shop.demonstrations(20, policy.UNSEEN)]
    monkeypatch.setattr("chatlib.train.rollout.answer", lambda *_, **__: answers)
    table = report.measure(str(folder), 20)
    parts = table.loc[[name for name in report.COLUMNS if name not in ("gold", "well_formed")]]
    assert parts["value"].sum() == pytest.approx(table.loc["gold", "value"])
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert table.loc["gold", "low"] < table.loc["gold", "value"] and set(table["n"]) == {20}
    assert table.loc["rougeL", "value"] == pytest.approx(100), "the references are of these cases"


def test_eval_prints_a_column_for_each_model(folder, tmp_path, capsys):
    other = save(tmp_path / "other", seed=1)
    assert main(["eval", str(folder), str(other), "--n", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [str(folder), str(other)]
    assert lines[1].startswith("gold ") and lines[1].count("[") == 2
    assert main(["eval", str(folder), "--n", "4", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)[str(folder)]
    assert set(figures["bleu"]) == {"value", "low", "high", "n"}


def test_eval_says_what_it_cannot_measure(tmp_path, capsys):
    assert main(["eval", str(tmp_path)]) == 2
    assert "holds no config.json" in capsys.readouterr().err
