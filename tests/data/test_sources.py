"""What a stage trains on: blends, shares of the stages, what is held out, what is reported."""

import json

import pytest

from chatlib.data import sources, split
from chatlib.data.schema import Dialogue, Preference, content_hash
from chatlib.settings.stages import PPOConfig, RewardConfig, SFTConfig


def config(stage, **changes):
    small = dict(records=400, held_out=40) | changes
    if stage == "sft":
        return SFTConfig(**small)
    if stage == "reward":
        return RewardConfig(model="x", **small)
    return PPOConfig(model="x", reward_model="y", **small)


def prompts(data):
    return {content_hash(r.prompt) for r in [*data.train, *data.held_out]}


@pytest.fixture
def alpaca(tmp_path):
    """Writes n questions of a name to an alpaca file."""

    def write(name, n):
        rows = [{"instruction": f"{name} {i}?", "output": f"It is {i}."} for i in range(n)]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(rows))
        return str(path)

    return write


def test_each_stage_gets_its_kind_of_record_and_prompts_of_its_own():
    loaded = {stage: sources.load(config(stage)) for stage in split.PARTS}
    kinds = {"sft": Dialogue, "reward": Preference, "ppo": Dialogue}
    for stage, data in loaded.items():
        assert len(data.train) + len(data.held_out) == 400 and data.held_out
        assert all(type(r) is kinds[stage] for r in data.train)
        assert not {content_hash(r.prompt) for r in data.train} & {
            content_hash(r.prompt) for r in data.held_out
        }
        assert data.report == ["shop: 400 records"]
    seen = [prompts(data) for data in loaded.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_the_shop_stream_is_that_of_the_seed():
    first, again, other = (
        [r.messages for r in sources.load(config("sft", seed=s)).train] for s in (0, 0, 1)
    )
    assert first == again != other


def test_sources_blend_by_weight(alpaca):
    named = [
        {"name": alpaca("cats", 300), "weight": 3.0},
        {"name": alpaca("dogs", 300), "weight": 1.0},
    ]
    data = sources.load(config("sft", sources=named, split=(1, 0, 0), records=80, held_out=0))
    cats = sum(r.prompt[0]["content"].startswith("cats") for r in data.train)
    assert len(data.train) == 80 and 50 <= cats <= 70


def test_a_blend_says_what_it_used_and_what_it_repeated(alpaca):
    named = [alpaca("cats", 100), {"name": alpaca("dogs", 10)}, {"name": "shop"}]
    data = sources.load(config("sft", sources=named, split=(1, 0, 0), records=90, held_out=30))
    cats, dogs, shop, held_out = data.report
    assert cats.endswith("cats.json: 90 of 90 rows read as alpaca, the rest not read; 90 of them "
                         "in sft's share; 30 of 90 used")  # fmt: skip
    assert dogs.endswith("all 10 used, and repeated to make 30")
    assert shop == "shop: 90 records; 30 of 90 used"
    assert held_out == "18 held out, not 30: a fifth of 90 records"
    assert len(data.train) + len(data.held_out) == 90


def test_one_source_is_shared_out_two_four_four(alpaca):
    name = alpaca("cats", 1000)
    loaded = {s: sources.load(config(s, sources=name, records=1000)) for s in ("sft", "ppo")}
    sizes = {s: len(d.train) + len(d.held_out) for s, d in loaded.items()}
    assert 160 < sizes["sft"] < 240 and 350 < sizes["ppo"] < 450
    assert not prompts(loaded["sft"]) & prompts(loaded["ppo"])


def test_preferences_serve_all_stages(tmp_path):
    rows = [{"prompt": f"Why {i}?", "chosen": f"So {i}.", "rejected": "No."} for i in range(60)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = sources.load(config("sft", sources=path, split=(1, 0, 0)))
    assert {r.answer for r in [*data.train, *data.held_out]} == {r["chosen"] for r in rows}
    ppo = sources.load(config("ppo", sources=path, split=(0, 0, 1)))
    assert len(ppo.train) + len(ppo.held_out) == 60


def test_dialogues_are_no_preferences_and_the_message_counts_them(alpaca):
    with pytest.raises(ValueError, match=r"nothing is left to train reward on .*left out: no pair"):
        sources.load(config("reward", sources=alpaca("cats", 50)))


def test_a_stage_whose_share_is_nothing():
    with pytest.raises(ValueError, match=r"nothing is left to train sft .*split.*a share"):
        sources.load(config("sft", split=(0, 1, 1)))


def test_what_cannot_be_read_is_in_the_report(tmp_path):
    good = [json.dumps({"instruction": f"q{i}", "output": "a"}) for i in range(20)]
    path = tmp_path / "torn.jsonl"
    path.write_text("\n".join([*good, '{"instruction": "q"', '{"instruction": "only"}']))
    data = sources.load(config("sft", sources=path, split=(1, 0, 0)))
    assert len(data.train) + len(data.held_out) == 20
    assert "2" in data.report[0] and "torn.jsonl" in data.report[0]


def test_at_most_a_fifth_is_held_out(alpaca):
    data = sources.load(config("sft", sources=alpaca("cats", 50), split=(1, 0, 0), held_out=256))
    assert (len(data.train), len(data.held_out)) == (40, 10)
