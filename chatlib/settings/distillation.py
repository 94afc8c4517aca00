"""The settings of distillation: a student, its teacher, and what of the teacher it is to match."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from chatlib.settings.stages import ModelReference, SFTConfig


class DistillationConfig(SFTConfig):
    """Distillation: a small model learns what a large one says, token by token (chapter 13)."""

    stage: Literal["distillation"] = Field(  # type: ignore[assignment]  # pydantic: the last counts
        "distillation", description="whose settings these are"
    )
    teacher: ModelReference = Field(
        description="the model to learn from; a new student takes its tokenizer, another one must "
        "have the same"
    )
    loss: Literal["forward", "reverse", "hard"] = Field(
        "forward",
        description="forward: KL from the teacher (Hinton et al. 2015); reverse: KL from the "
        "student (Gu et al. 2024); hard: the teacher's likeliest token",
    )
    temperature: float = Field(
        1.0, gt=0, description="of both distributions in a KL (Hinton et al. 2015)"
    )
    on_policy: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steps on answers that the student draws itself "
        "(Agarwal et al. 2024)",
    )
    max_answer_tokens: int = Field(48, ge=1, description="longest of those answers in tokens")

    @model_validator(mode="after")
    def _a_label_has_no_temperature(self) -> DistillationConfig:
        if self.loss == "hard" and self.temperature != 1:
            raise ValueError(
                f"temperature {self.temperature} with loss hard: the likeliest token is the same "
                "at every temperature; leave it at 1"
            )
        return self
