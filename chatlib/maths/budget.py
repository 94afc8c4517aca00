"""What a run will take (chapter 9): operations of PPO's two phases, hours, money.

Built on `chatlib.maths.scaling`, and apart from it: no stage imports this file, so that a better
calculator renames no trained run. Symbols as there; R is a rate, operations a second of one GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatlib.maths.scaling import WIDTH, flops_per_token, ppo_bytes, state_bytes, total

FP32 = 4  # bytes
TERA = 1e12
HOUR = 3600  # seconds


@dataclass(frozen=True)
class Phases:
    """The same quantity for both phases of PPO: writing answers, and learning from them."""

    generation: float
    training: float

    @property
    def sum(self) -> float:
        """Of both phases."""
        return self.generation + self.training

    @property
    def share(self) -> float:
        """Of generation in both."""
        return self.generation / self.sum


def step_bytes(weights: int, ranks: int, stage: int, dtype: str) -> int:
    """Most bytes of states that a rank holds during a step: `state_bytes` is what it keeps.

    When 16-bit weights are stepped, the optimizer first makes an fp32 gradient of its shard,
    4 Psi / N bytes more (DeepSpeed's `estimate_zero2_model_states_mem_needs`).
    """
    kept = sum(state_bytes(weights, weights, ranks, stage, dtype).values())
    widened = stage >= 1 and dtype != "fp32"
    return kept + (FP32 * weights // ranks if widened else 0)


def ppo_flops(actor: int, critic: int, tokens: int, passes: tuple[int, int] = (3, 3)) -> Phases:
    """Operations for one answer of PPO of ``tokens`` with its prompt, as DeepSpeed-Chat counts.

        F_gen = 2 Psi_a T,    F_train = 2 T (p_a Psi_a + p_c Psi_c)

    ``passes`` p are those of `training_passes`, of actor and critic. The four scoring passes are
    left out, as DeepSpeed-Chat's published throughput leaves them out (its `perf.py`).
    """
    training = passes[0] * actor + passes[1] * critic
    return Phases(tokens * flops_per_token(actor, training=False), 2.0 * tokens * training)


def hours(flops: Phases, gpus: int, tflops: Phases) -> Phases:
    """Hours for so many operations, each phase at its own rate (10^12 a second of each GPU).

    t = F_gen / (N R_gen) + F_train / (N R_train), over 3600.
    """
    pairs = (flops.generation, tflops.generation), (flops.training, tflops.training)
    return Phases(*(count / (gpus * rate * TERA * HOUR) for count, rate in pairs))


def effective(flops: Phases, tflops: Phases) -> float:
    """The one rate at which both phases would take as long as they do at their own: a harmonic
    mean, weighted with their operations."""
    return flops.sum / (flops.generation / tflops.generation + flops.training / tflops.training)


def tokens_to_hide(
    rate: float, link: float, passes: float = 3, dtype: str = "bf16", training: int = 3
) -> float:
    """T, tokens of a rank and step from which on computing takes longer than sending.

        T = passes b R / (2 training W)

    ``rate`` R operations a second, ``link`` W bytes a second; the size of the model is in both
    times and cancels. ``training`` are the forward passes that a step is worth.
    """
    return passes * WIDTH[dtype] * rate / (2 * training * link)


def cost(hours: float, gpus: int, price: float) -> float:
    """What GPUs cost for some hours; ``price`` is that of one GPU for one hour."""
    return hours * gpus * price


@dataclass(frozen=True)
class Estimate:
    """What a PPO run takes: bytes of states a GPU, hours of both phases, money (price's unit)."""

    bytes_per_gpu: int
    hours: Phases
    cost: float


def estimate(
    actor: int,
    critic: int,
    gpus: int,
    stage: int,
    *,
    answers: int,
    tokens: int,
    tflops: Phases,
    price: float,
    passes: tuple[int, int] = (3, 3),
    offload: bool = False,
    offload_reference: bool = False,
    trained: tuple[int, int] | None = None,
) -> Estimate:
    """The calculator: memory, time and cost of one epoch of PPO in 16 bits.

    ``answers`` of ``tokens`` with their prompts; ``tflops`` of a GPU in each phase; activations and
    the generation cache come on top of the bytes. ``passes`` as for `ppo_flops`.
    """
    models = ppo_bytes(actor, critic, gpus, stage, "bf16", trained, offload, offload_reference)
    one = ppo_flops(actor, critic, tokens, passes)
    all_ = Phases(answers * one.generation, answers * one.training)
    time = hours(all_, gpus, tflops)
    return Estimate(total(models), time, cost(time.sum, gpus, price))
