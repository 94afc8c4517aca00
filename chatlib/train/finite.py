"""What a training loop does when a figure is no number: it ends, and says where that began."""

from __future__ import annotations

import math

import torch
from torch import nn

FIGURES = ("loss", "score", "kl", "value_error")  # endings of what an update is made of


def require_finite(
    model: nn.Module, step: int, figures: dict[str, float | None], look: bool = False
) -> None:
    """Raise `FloatingPointError` for one of `FIGURES` that is NaN or infinite.

    The sentence names the step and the first trained tensor that is not finite. A loop calls this
    before it saves: the last checkpoint is one of finite numbers. The figures are numbers
    already, so nothing waits for a device; weights are only looked at when something is wrong, or
    where a loop says ``look``: it draws from them next, and no figure tells of its last update.
    """
    bad = {k: v for k, v in figures.items() if k.endswith(FIGURES) and v is not None}
    bad = {name: value for name, value in bad.items() if not math.isfinite(value)}
    if not (bad or look):
        return
    trained = [(name, w) for name, w in model.named_parameters() if w.requires_grad]
    # At ZeRO stage 3 a rank holds a part of each weight, and looks at that.
    parts = [(name, getattr(w, "ds_tensor", w)) for name, w in trained]
    broken = [name for name, part in parts if not torch.isfinite(part).all()]
    if not (bad or broken):
        return
    where = "every weight is still finite"
    if broken:
        where = f"{len(broken)} of {len(trained)} weights are not finite, the first is {broken[0]}"
    what = [f"{name} is {value}" for name, value in bad.items()] or ["the update went wrong"]
    raise FloatingPointError(
        f"{what[0]} at step {step}; {where}; a checkpoint before it is kept: resume from "
        "it with a lower learning rate, or look at the data of this step"
    )
