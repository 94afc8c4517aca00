"""The settings describe themselves, keep their names, and refuse what a stage would not heed."""

from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from chatlib.runs import identity
from chatlib.settings.distillation import DistillationConfig
from chatlib.settings.registry import LAUNCHED
from chatlib.settings.stages import (
    DPOConfig,
    PPOConfig,
    ProbeConfig,
    RewardConfig,
    SFTConfig,
    TinyModel,
    choices,
)

PPO = {"model": "run:sft", "reward_model": "run:reward"}


def models_in(annotation: object) -> set[type[BaseModel]]:
    """The settings models that an annotation names, with those of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.values()
        return {annotation}.union(*(models_in(field.annotation) for field in fields))
    return set().union(*map(models_in, get_args(annotation)))


def test_every_setting_is_described():
    models = set().union(*map(models_in, LAUNCHED.values()))
    assert {model.__name__ for model in models} >= {"TinyModel", "Lora", "Source", "ProbeConfig"}
    silent = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert silent == []


@pytest.mark.parametrize(
    "config, name",
    [
        (SFTConfig(), "sft-2a736323"),
        (RewardConfig(model="run:a"), "reward-124b3c53"),
        (PPOConfig(model="run:a", reward_model="run:b"), "ppo-16cc5634"),
        (ProbeConfig(cases={"ZeRO 2": {"zero_stage": 2}}), "probe-0865c953"),
        (DistillationConfig(teacher="run:a"), "distillation-a9926f0a"),
    ],
)
def test_the_defaults_keep_their_runs_names(config, name):
    """A new default, or a new field that is set, would hide every finished run."""
    assert identity.run_name(config, prints={}) == name


def test_choices_of_an_annotation():
    fields = PPOConfig.model_fields
    assert choices(fields["kl_estimator"].annotation) == ["k1", "k2", "k3"]
    assert choices(fields["zero_stage"].annotation) == [0, 1, 2, 3]
    assert choices(fields["critic_zero_stage"].annotation) == [0, 1, 2, 3]
    assert all(not choices(fields[name].annotation) for name in ("lora", "sources", "model"))
    assert not choices(bool | None)


@pytest.mark.parametrize(
    "stage, settings, sentence",
    [
        (SFTConfig, {"offload": True}, "offload True with zero_stage 0: .*; set zero_stage to 1"),
        (PPOConfig, {"offload": True}, "offload True with zero_stage 0: .*; set zero_stage to 1"),
        (
            PPOConfig,
            {"offload": True, "zero_stage": 2, "critic_zero_stage": 0},
            "offload True with critic_zero_stage 0: .*; set critic_zero_stage to 1, 2 or 3",
        ),
        (RewardConfig, {"print_answers": 5}, "print_answers 5: a reward model writes no answers;"),
        (PPOConfig, {"eval_every": 5}, "eval_every 5: PPO measures .*; leave it at 0"),
        (PPOConfig, {"disable_dropout": False}, "disable_dropout False: .*; leave it at True"),
        (DPOConfig, {"disable_dropout": False}, "disable_dropout False: .*; leave it at True"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(stage, settings, sentence):
    needed = {name: PPO[name] for name in PPO if name in stage.model_fields}
    with pytest.raises(ValidationError, match=sentence):
        stage(**needed, **settings)


def test_offloading_where_both_of_ppos_models_have_something_to_offload():
    apart = PPOConfig(**PPO, offload=True, actor_zero_stage=1, critic_zero_stage=3)
    assert [apart.of(role, "zero_stage") for role in apart.roles] == [1, 3]


def test_a_micro_batch_is_what_one_rank_takes_at_once():
    assert SFTConfig(batch_size=24, ranks=2, gradient_accumulation_steps=3).micro_batch == 4
    assert PPOConfig(**PPO).micro_batch == 64 // (2 * 2)
    more = {"generation_batches": 3, "minibatches": 4, "gradient_accumulation_steps": 2}
    assert PPOConfig(**PPO, **more).micro_batch == 3 * 64 // (2 * 4 * 2)


def test_instances_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        TinyModel().layers = 3
