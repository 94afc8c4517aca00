"""How much arithmetic a stage asks for, and how fast it is done.

Counted is what the real tokens need (model FLOPs): not padding, not what a kernel computes twice
or leaves out. A multiplication and an addition are two FLOPs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatlib.maths.scaling import training_passes
from chatlib.settings.deepspeed import Role
from chatlib.settings.stages import StageConfig

TERA = 1e12


@dataclass(frozen=True)
class Size:
    """What a transformer's arithmetic depends on; `models.size_of` reads it off a model."""

    body: int  # weights that are multiplied with every token: the layers' matrices
    head: int  # weights that are multiplied with every token that is predicted or scored
    layers: int
    width: int  # of attention: heads x head width


def forward_flops(size: Size, lengths: Sequence[int], predicted: int) -> float:
    r"""FLOPs of one forward pass over sequences of ``lengths`` s_1, s_2, ... tokens.

        F = 2 body \sum_i s_i + 2 head predicted + 4 layers width \sum_i s_i^2

    Attention multiplies the (s, d) queries with the keys and the (s, s) weights with the values.
    As is usual, its causal half counts whole; so does that of generation with a key-value cache,
    which then equals one forward pass over prompt and answer.
    Source: Chowdhery et al. 2022 (PaLM), appendix B; Narayanan et al. 2021, section 5.1.
    """
    weights = size.body * sum(lengths) + size.head * predicted
    return 2.0 * weights + 4.0 * size.layers * size.width * sum(s * s for s in lengths)


def training_flops(forward: float, config: StageConfig, size: Size, role: Role = "model") -> float:
    """FLOPs of a forward and backward pass of a model; see `chatlib.maths.scaling`."""
    recompute, lora = config.of(role, "gradient_checkpointing"), config.of(role, "lora")
    share = (lora.top_layers or size.layers) / size.layers if lora else 1.0
    return forward * training_passes(recompute, lora is not None, share)


def rates(samples: float, tokens: float, flops: float, seconds: float, ranks: int) -> dict:
    """The figures of metrics and manifest, over all ranks; TFLOP/s of a single one as well."""
    seconds = max(seconds, 1e-9)
    tflops = flops / seconds / TERA
    return {
        "samples_per_second": samples / seconds,
        "tokens_per_second": tokens / seconds,
        "tflops": tflops,
        "tflops_per_rank": tflops / ranks,
    }


@dataclass
class Meter:
    """What was done since this launch began, by all ranks; `rates` says how fast."""

    ranks: int
    samples: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def add(self, samples: int, tokens: int, flops: float) -> None:
        """Count a step."""
        self.samples, self.tokens = self.samples + samples, self.tokens + tokens
        self.flops += flops

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.perf_counter() - self.began

    def rates(self, seconds: float | None = None) -> dict[str, float]:
        """The figures of `rates` up to now, or over so many seconds."""
        seconds = self.seconds if seconds is None else seconds
        return rates(self.samples, self.tokens, self.flops, seconds, self.ranks)
