"""Which stages there are: the settings object of each, by its name."""

from __future__ import annotations

from chatlib.settings import stages
from chatlib.settings.distillation import DistillationConfig
from chatlib.settings.stages import StageConfig

STAGES: dict[str, type[StageConfig]] = {**stages.STAGES, "distillation": DistillationConfig}
LAUNCHED: dict[str, type[StageConfig]] = {**STAGES, **stages.LAUNCHED}  # what a worker can run


def parse(data: dict) -> StageConfig:
    """The configuration object of a `config.json`'s content. Raises pydantic's error."""
    stage = data.get("stage")
    if stage not in LAUNCHED:
        raise ValueError(f"`stage` is {stage!r}; use one of {', '.join(LAUNCHED)}")
    return LAUNCHED[stage].model_validate(data)
