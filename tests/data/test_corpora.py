"""The registry of the book's own corpora: each offers what the stages ask for."""

from itertools import islice
from random import Random

import pytest

from chatlib.data import corpora, judges, sources
from chatlib.data.schema import Dialogue, Preference
from chatlib.runs import code
from chatlib.runs.identity import content_fingerprint, fingerprints
from chatlib.settings.corpora import CORPORA
from chatlib.settings.stages import DPOConfig, PPOConfig, RewardConfig, SFTConfig


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_invents_records_that_its_judge_knows(name):
    corpus, (judge,) = corpora.corpus(name), judges.of(SFTConfig(sources=name).sources)
    for scenario in islice(corpus.scenarios(3), 30):
        dialogue = corpus.demonstration(Random(1), scenario)
        pair = corpus.preference(Random(1), scenario)
        assert pair.prompt == scenario.messages()
        assert judge.knows(dialogue.meta) and judge.knows(pair.meta)
        verdict = judge.verdict(scenario.meta(), pair.chosen)
        assert verdict.total == pytest.approx(pair.meta["gold"][0])
    assert judge.temperature > 0


@pytest.mark.parametrize("name", CORPORA)
def test_no_judge_knows_another_corpus(name):
    meta = next(corpora.corpus(name).scenarios(0)).meta()
    assert [other for other in CORPORA if judges.Judge(other).knows(meta)] == [name]


STAGES = {
    "sft": (SFTConfig, {}, Dialogue),
    "reward": (RewardConfig, {"model": "x"}, Preference),
    "ppo": (PPOConfig, {"model": "x", "reward_model": "y"}, Dialogue),
    "dpo": (DPOConfig, {"model": "x"}, Preference),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_is_a_source_of_every_stage(name, stage):
    settings, models, kind = STAGES[stage]
    data = sources.load(settings(sources=name, records=60, held_out=10, **models))
    assert len(data.train) == 50 and data.report == [f"{name}: 60 records"]
    assert {type(record) for record in data.train} == {kind}


def test_two_corpora_blend_and_each_record_finds_its_own_judge():
    named = [{"name": "tutor", "weight": 2.0}, {"name": "shop", "weight": 1.0}]
    data = sources.load(SFTConfig(sources=named, records=90, held_out=9))
    records = [*data.train, *data.held_out]
    whose = [[n for n in CORPORA if judges.Judge(n).knows(r.meta)] for r in records]
    assert sorted(map(tuple, whose)) == [("shop",)] * 30 + [("tutor",)] * 60
    assert {r.meta.get("corpus", "shop") for r in data.held_out} == {"tutor", "shop"}


def test_a_run_hangs_on_the_corpora_that_it_names_and_on_no_other():
    files = code.code_of("sft", ["shop"]).keys()
    assert {"data/shop.py", "data/shop_text.py", "data/schema.py"} <= files
    assert "data/shop.py" not in code.code_of("sft", [])


def test_an_edit_of_a_corpus_renames_its_runs(tmp_path, monkeypatch):
    before = content_fingerprint("shop"), fingerprints(SFTConfig())
    for path in code.corpus_files("shop"):
        copy = tmp_path / path.relative_to(code.PACKAGE)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8") + "\nmore = 1\n", encoding="utf-8")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "sft.py").write_text("x = 1\n")
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    assert content_fingerprint("shop") != before[0]
    assert fingerprints(SFTConfig())["shop"] != before[1]["shop"]
