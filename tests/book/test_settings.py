"""The tables of settings say what the settings objects do."""

from pydantic import BaseModel, Field

from chatlib.book.settings import rows
from chatlib.settings.stages import PPOConfig, SFTConfig, StageConfig


class Sample(BaseModel):
    rate: float = Field(0.1, gt=0, le=1, description="peak")
    kind: str | None = None
    steps: int = Field(description="how many")


def test_name_default_limits_and_meaning():
    assert rows(Sample) == [
        ("rate", "0.1", "> 0, <= 1", "peak"),
        ("kind", "None", "", ""),
        ("steps", "required", "", "how many"),
    ]


def test_choices_are_listed():
    table = {name: allowed for name, _, allowed, _ in rows(PPOConfig)}
    assert table["kl_estimator"] == '"k1", "k2", "k3"'
    assert table["zero_stage"] == table["critic_zero_stage"] == "0, 1, 2, 3"
    assert table["top_p"] == "> 0, <= 1" and not table["actor_lora"]


def test_what_all_stages_share_is_listed_once_unless_the_default_differs():
    names = [name for name, *_ in rows(SFTConfig, StageConfig)]
    assert "weight_decay" not in names and "model" in names
    assert "adam_epsilon" in [name for name, *_ in rows(PPOConfig, StageConfig)]
