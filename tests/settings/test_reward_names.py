"""Who may pay: three names, or a checker."""

import pytest
from pydantic import ValidationError

from chatlib.settings.stages import PPOConfig


@pytest.mark.parametrize("name", ["gold", "none", "my.module:check", "module:f_1"])
def test_who_may_pay_without_a_reward_model(name):
    assert PPOConfig(model="x", reward=name, advantage="global").reward == name


@pytest.mark.parametrize("name", ["judge", "module:", ":f", "a b:c", "module.f()"])
def test_another_name_is_one_sentence(name):
    with pytest.raises(ValidationError, match="use model, gold, none, or a checker as MODULE:F"):
        PPOConfig(model="x", reward=name)


def test_a_reward_model_that_is_asked_for_has_to_be_named():
    with pytest.raises(ValidationError, match="reward model without a reward_model: name one"):
        PPOConfig(model="x")
    with pytest.raises(ValidationError, match="critic_init reward without a reward_model"):
        PPOConfig(model="x", reward="gold", critic_init="reward")
