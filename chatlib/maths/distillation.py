"""Distillation: how far a student's next-token distribution is from a teacher's (chapter 13)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from chatlib.maths.likelihood import log_softmax
from chatlib.maths.policy import exact_kl

Loss = Literal["forward", "reverse", "hard"]


def distillation_loss(
    student: Tensor, teacher: Tensor, kind: Loss = "forward", temperature: float = 1.0
) -> Tensor:
    """What each token costs the student, in nats. Logits (.., V) of both to (..).

    ``forward`` is ``tau^2 KL(p || q)`` with ``p = softmax(z_teacher / tau)`` and ``q`` the
    student's: it has to cover all that the teacher might say (Hinton et al. 2015, section 2).
    ``reverse`` is ``tau^2 KL(q || p)``: it may say less, but nothing that the teacher would not
    (Gu et al. 2024, section 2.1). ``hard`` is ``- log q(argmax p)``, of the likeliest token alone.
    The gradient of a divergence falls with 1/tau^2; the factor makes up for it.
    """
    if kind == "hard":
        likeliest = teacher.argmax(-1, keepdim=True)
        return -log_softmax(student).gather(-1, likeliest).squeeze(-1)
    first, second = (teacher, student) if kind == "forward" else (student, teacher)
    return temperature**2 * exact_kl(first, second, temperature)
