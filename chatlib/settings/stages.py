"""Typed configurations of the three stages: every setting with its unit, default and source.

A configuration is all that is needed to repeat a run. Names follow DeepSpeed-Chat (Yao et al.
2023) where it has the setting. A description names in brackets where the setting comes from; a
default that is not from there was chosen on the book's own task, the shop, for two CPU cores.
Bad values raise pydantic's error, which names the field, the value and what is allowed; unknown
names are refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


class Strict(BaseModel):
    """Unknown fields are errors, and so are assignments: instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _model_reference(value: object) -> object:
    """A finished `Run` stands for the model it holds; a path for the folder."""
    return getattr(value, "reference", None) or (
        str(value) if hasattr(value, "__fspath__") else value
    )


# "run:NAME" (a finished run), a folder in Hugging Face format, or "hub:NAME[@REVISION]"
ModelReference = Annotated[str, BeforeValidator(_model_reference)]
Role = Literal["model", "actor", "critic"]  # of a trained model; PPO has the last two
Reads = Literal["demonstrations", "pairs", "prompts"]  # what a stage takes from the records


def choices(annotation: object) -> list:
    """The values that the `Literal`s in an annotation allow, as in `Literal[1, 2] | None`."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in choices(part)]


class Source(Strict):
    """Where records come from: a corpus of the book's own, a file, or a data set of the hub."""

    name: str = Field(
        "shop",
        description="a corpus of the book's own (`shop`; `chatlib.settings.corpora` has them all), "
        "a .json/.jsonl(.gz) path, or `hub:NAME[@REVISION][#SPLIT]`",
    )
    format: str | None = Field(
        None, description="messages, preference, alpaca, sharegpt or hh; detected when not given"
    )
    weight: float = Field(
        1.0, gt=0, description="share in the blend, relative to the other sources'"
    )


class TinyModel(Strict):
    """A Llama-shaped model trained from scratch, with a BPE tokenizer trained on the data."""

    hidden_size: int = Field(
        128, ge=16, description="width d of the residual stream (Vaswani et al. 2017)"
    )
    intermediate_size: int = Field(
        256, ge=16, description="width of the feed-forward layers (Vaswani et al. 2017)"
    )
    layers: int = Field(
        2, ge=1, description="blocks of attention and feed-forward (Vaswani et al. 2017)"
    )
    heads: int = Field(
        4, ge=1, description="attention heads, each of width d / heads (Vaswani et al. 2017)"
    )
    vocab_size: int = Field(
        1536, ge=300, description="tokens in the BPE vocabulary (Sennrich et al. 2016)"
    )
    context: int = Field(256, ge=16, description="longest sequence in tokens")
    rope_theta: float = Field(
        100.0, gt=0, description="base of the rotary positions (Su et al. 2021)"
    )
    init_std: float = Field(0.06, gt=0, description="standard deviation of the first weights")

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyModel:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} over heads {self.heads} is not an even number; "
                "rotary positions need an even head width"
            )
        return self


class Lora(Strict):
    """Low-rank adapters (Hu et al. 2022), through peft; merged when the model is saved."""

    lora_dim: int = Field(8, ge=1, description="rank of the update (Hu et al. 2022)")
    lora_alpha: float = Field(
        16.0, gt=0, description="the update is scaled by alpha / rank (Hu et al. 2022)"
    )
    lora_module_name: list[str] = Field(
        ["q_proj", "v_proj"],
        description="endings of the names of the layers that get adapters; queries and values: "
        "Hu et al. 2022",
    )
    top_layers: int | None = Field(
        None,
        ge=1,
        description="blocks that get adapters, counted from the top: what lies below needs no "
        "backward pass. None: all",
    )
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="probability that an adapter's input is dropped; PPO: none is"
    )
    lora_learning_rate: float | None = Field(
        None,
        gt=0,
        description="peak for the adapters; None: the stage's, which a score head keeps "
        "(DeepSpeed-Chat)",
    )


class StageConfig(Strict):
    """What the three stages share."""

    if TYPE_CHECKING:  # every stage gives these a default or a meaning of its own
        stage: str
        model: TinyModel | str
    reads: ClassVar[Reads] = "demonstrations"
    part: ClassVar[str] = "sft"  # of the split, on which the stage trains

    # --- data
    sources: list[Source] = Field(
        default_factory=lambda: [Source()], min_length=1, description="what to train on, blended"
    )
    split: tuple[float, float, float] = Field(
        (2, 4, 4), description="shares of one source for SFT, reward model and PPO (DeepSpeed-Chat)"
    )
    records: int = Field(
        20_000, ge=8, description="records drawn from `shop`; the most taken of another source"
    )
    held_out: int = Field(
        256, ge=0, description="records kept out of training for evaluation; a fifth at most"
    )
    max_seq_len: int = Field(
        256, ge=16, description="tokens; longer examples are counted and cut (DeepSpeed-Chat)"
    )
    seed: int = Field(0, ge=0, description="of data order, weights and sampling")

    # --- optimisation
    batch_size: int = Field(32, ge=1, description="examples per optimizer step over all ranks")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="micro-batches of a rank per optimizer step (DeepSpeed)"
    )
    steps: int = Field(400, ge=1, description="optimizer steps (PPO: iterations)")
    learning_rate: float = Field(
        2e-3, gt=0, description="peak of the schedule; AdamW (Loshchilov and Hutter 2019)"
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="way from the peak to a tenth of it; constant: stay (DeepSpeed-Chat)"
    )
    num_warmup_steps: int = Field(
        20, ge=0, description="optimizer steps in which the rate rises to its peak (DeepSpeed-Chat)"
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="share of a weight lost per step, times the learning rate "
        "(Loshchilov and Hutter 2019)",
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.95),
        description="Adam's decay per step of the means of gradient and square (DeepSpeed-Chat)",
    )
    adam_epsilon: float = Field(
        1e-8, gt=0, description="added to the root of the mean square (Kingma and Ba 2015)"
    )
    max_grad_norm: float = Field(
        1.0, ge=0, description="longest gradient, 2-norm; 0 turns clipping off (DeepSpeed-Chat)"
    )
    disable_dropout: bool = Field(
        True, description="set every dropout of the model to 0; PPO, DPO have to (DeepSpeed-Chat)"
    )

    # --- memory and machine
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0,
        description="what ranks share out: 0 nothing, 1 optimizer states, 2 gradients too, "
        "3 weights too (Rajbhandari et al. 2020)",
    )
    offload: bool = Field(
        False,
        description="optimizer states (ZeRO 3: weights too) in host memory; needs ZeRO 1 to 3 "
        "(Ren et al. 2021)",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="compute activations again in the backward pass instead of keeping them "
        "(DeepSpeed-Chat)",
    )
    zero_bucket_size: int | None = Field(
        None,
        ge=1,
        description="numbers that ZeRO reduces, gathers or keeps gathered at a time (DeepSpeed); "
        "None: 50 million, and gathered weights stay as long as DeepSpeed likes",
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="number format, refused where the device cannot compute in it; "
        "auto: bf16 on a GPU, fp32 on a CPU (DeepSpeed-Chat)",
    )
    lora: Lora | None = Field(
        None, description="adapters that are trained instead of the weights (Hu et al. 2022)"
    )
    ranks: int = Field(2, ge=1, description="processes; one per GPU or CPU share (DeepSpeed)")

    # --- record
    save_every: int = Field(
        0, ge=0, description="steps (PPO: iterations) between checkpoints; 0: only the model"
    )
    keep_checkpoints: int = Field(2, ge=1, description="checkpoints; the last ones are kept")
    eval_every: int = Field(
        0, ge=0, description="steps between evaluations (not of PPO); 0: only at the end"
    )
    print_answers: int = Field(
        0,
        ge=0,
        description="steps (PPO: iterations) between printed answers (not of a reward model); "
        "0: never (DeepSpeed-Chat)",
    )
    enable_tensorboard: bool = Field(
        False, description="the figures for TensorBoard too, through DeepSpeed (DeepSpeed-Chat)"
    )

    @model_validator(mode="after")
    def _batch_divides(self) -> StageConfig:
        parts = self.ranks * self.gradient_accumulation_steps
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided among ranks {self.ranks} x "
                f"gradient_accumulation_steps {self.gradient_accumulation_steps}; "
                f"take a multiple of {parts}"
            )
        return self

    @model_validator(mode="after")
    def _only_zero_offloads(self) -> StageConfig:
        for role in self.roles if self.offload else ():
            if not self.of(role, "zero_stage"):
                own = f"{role}_zero_stage"
                field = "zero_stage" if getattr(self, own, None) is None else own
                raise ValueError(
                    f"offload True with {field} 0: what goes to host memory is what ZeRO shares "
                    f"out; set {field} to 1, 2 or 3"
                )
        return self

    @field_validator("sources", mode="before")
    @classmethod
    def _names_are_sources(cls, value: object) -> object:
        """A plain name or path stands for a source; one stands for a list of one."""
        items = value if isinstance(value, list | tuple) else [value]
        return [
            {"name": str(v)} if isinstance(v, str) or hasattr(v, "__fspath__") else v for v in items
        ]

    @property
    def roles(self) -> tuple[Role, ...]:
        """The models that the stage trains."""
        return ("model",)

    def of(self, role: Role, name: str) -> Any:
        """A setting of one trained model: `{role}_{name}` where it is given, else `name`."""
        own = getattr(self, f"{role}_{name}", None)
        return getattr(self, name) if own is None else own

    @property
    def micro_batch(self) -> int:
        """Examples in one forward and backward pass of one rank."""
        return self.batch_size // (self.ranks * self.gradient_accumulation_steps)


class SFTConfig(StageConfig):
    """Supervised fine-tuning: language modelling on the answers (chapter 3)."""

    stage: Literal["sft"] = Field("sft", description="whose settings these are")
    model: TinyModel | ModelReference = Field(
        default_factory=TinyModel, description="a model from scratch, or the one to start from"
    )


class RewardConfig(StageConfig):
    """Reward model from pairwise preferences (chapter 4)."""

    reads: ClassVar[Reads] = "pairs"
    part: ClassVar[str] = "reward"

    stage: Literal["reward"] = Field("reward", description="whose settings these are")
    model: ModelReference = Field(description="the SFT model to start from (Ouyang et al. 2022)")
    steps: int = Field(250, ge=1, description="optimizer steps")
    learning_rate: float = Field(
        1e-3, gt=0, description="peak of the schedule; AdamW (Loshchilov and Hutter 2019)"
    )
    reference_samples: int = Field(
        256,
        ge=2,
        description="SFT answers on which the finished score gets mean 0 and std 1 "
        "(Ziegler et al. 2019)",
    )
    max_answer_tokens: int = Field(
        64, ge=1, description="longest of those answers in tokens; PPO's, for beta to mean the same"
    )

    @model_validator(mode="after")
    def _a_score_prints_no_answers(self) -> RewardConfig:
        if self.print_answers:
            raise ValueError(
                f"print_answers {self.print_answers}: a reward model writes no answers; "
                "leave it at 0"
            )
        return self


class PPOConfig(StageConfig):
    """Policy optimisation of the SFT model: PPO against the reward model (chapter 5), and what
    differs from it by its advantage, its KL and who pays (chapter 10)."""

    reads: ClassVar[Reads] = "prompts"
    part: ClassVar[str] = "ppo"

    stage: Literal["ppo"] = Field("ppo", description="whose settings these are")
    model: ModelReference = Field(
        description="the SFT model: start of the actor, and reference (Ouyang et al. 2022)"
    )
    reward_model: ModelReference | None = Field(
        None,
        description="scores answers; start of the critic (Ouyang et al. 2022). None where "
        "something else pays",
    )
    reference: ModelReference | None = Field(
        None,
        description="what the KL is measured from; None: the SFT model. A teacher: distillation on "
        "the policy's own answers (Agarwal et al. 2024)",
    )
    reward: str = Field(
        "model",
        description="what pays an answer: `model`, the reward model; `gold`, the judge that knows "
        "the corpus; `none`, nothing but the KL (distillation); MODULE:FUNCTION, a checker of a "
        "record's meta and an answer (Lambert et al. 2024)",
    )
    steps: int = Field(60, ge=1, description="iterations of rollout and update")
    batch_size: int = Field(64, ge=1, description="prompts per iteration over all ranks")
    answers_per_prompt: int = Field(
        1, ge=1, description="answers drawn to each prompt, compared by group and rloo"
    )
    share_prompts: bool | None = Field(
        None,
        description="read each prompt once for all its answers; sums are rounded in another order. "
        "None: no",
    )
    generation_batches: int = Field(
        1, ge=1, description="rollout batches per iteration (DeepSpeed-Chat)"
    )
    ppo_epochs: int = Field(2, ge=1, description="passes over each rollout (Schulman et al. 2017)")
    minibatches: int = Field(2, ge=1, description="optimizer steps per pass (Schulman et al. 2017)")
    actor_learning_rate: float = Field(
        1e-4, gt=0, description="peak of the schedule for the actor (DeepSpeed-Chat)"
    )
    critic_learning_rate: float = Field(
        3e-4, gt=0, description="peak of the schedule for the critic (DeepSpeed-Chat)"
    )
    critic_init: Literal["reward", "zero"] = Field(
        "zero",
        description="value head: the reward model's (Ouyang et al. 2022), or zeros so that "
        "V(s) = 0 at first",
    )
    num_warmup_steps: int = Field(
        0, ge=0, description="optimizer steps in which the rate rises to its peak (DeepSpeed-Chat)"
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        "linear",
        description="way from the peak to a tenth of it; constant: stay "
        "(linear: Huang et al. 2022, detail 4)",
    )
    adam_epsilon: float = Field(
        1e-5,
        gt=0,
        description="added to the root of the mean square; smaller first steps than 1e-8's "
        "(Huang et al. 2022, detail 3)",
    )

    max_answer_tokens: int = Field(
        48, ge=1, description="longest answer in tokens (DeepSpeed-Chat: max_answer_seq_len)"
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="of the policy, in sampling and in training (Ziegler et al. 2019, their code)",
    )
    top_k: int = Field(0, ge=0, description="must be 0: a filtered draw is not the policy's")
    top_p: float = Field(
        1.0, gt=0, le=1, description="must be 1: a filtered draw is not the policy's"
    )

    advantage: Literal["gae", "global", "group", "rloo"] = Field(
        "gae",
        description="gae: with a critic (Schulman et al. 2016); without one, global: what comes "
        "after, against all tokens' mean (Hu et al. 2025); group: an answer against the prompt's "
        "others (Shao et al. 2024); rloo: against their mean alone (Ahmadian et al. 2024)",
    )
    group_scale: bool = Field(
        True,
        description="group: divide by the group's spread (Shao et al. 2024); "
        "False: do not (Liu et al. 2025)",
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token (DeepSpeed-Chat)")
    lam: float = Field(
        0.95, ge=0, le=1, description="GAE's lambda, per token (Schulman et al. 2016)"
    )
    cliprange: float = Field(
        0.2, gt=0, description="of the probability ratio, around 1 (Schulman et al. 2017)"
    )
    cliprange_value: float | None = Field(
        0.2,
        gt=0,
        description="of the value, around the old value (DeepSpeed-Chat); None: not limited",
    )
    clip_reward_value: float = Field(
        5.0, gt=0, description="scores are clipped to +- this, before KL (DeepSpeed-Chat)"
    )
    missing_eos_penalty: float = Field(
        1.0, ge=0, description="subtracted from a cut answer's score (TRL)"
    )
    kl_ctl: float = Field(
        0.05,
        ge=0,
        description="beta: weight of the KL to the reference, score per nat "
        "(Ziegler et al. 2019; 0.05: TRL)",
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        "k1", description="of the KL, in nats per token (Schulman 2020)"
    )
    kl_in: Literal["reward", "loss"] = Field(
        "reward",
        description="where the KL penalty enters: the reward (Ziegler et al. 2019), or the loss "
        "(Shao et al. 2024)",
    )
    kl_target: float | None = Field(
        None, gt=0, description="nats per sequence; given, beta adapts (Ziegler et al. 2019)"
    )
    kl_horizon: int = Field(
        10_000,
        ge=1,
        description="samples; time constant of the adaptive beta (Ziegler et al. 2019, their code)",
    )
    whiten_rewards: bool = Field(
        False, description="scale the rewards to variance 1 (Ziegler et al. 2019, their code)"
    )
    loss_aggregation: Literal["token", "sequence", "constant"] = Field(
        "token",
        description="mean of all tokens (DeepSpeed-Chat), of each answer's mean "
        "(Shao et al. 2024), or sum over a constant (Liu et al. 2025)",
    )
    entropy_coefficient: float = Field(
        0.0, ge=0, description="weight of the entropy bonus, per nat (Schulman et al. 2017)"
    )

    unsup_coef: float = Field(
        0.0, ge=0, description="weight of the pretraining (PTX) loss (Ouyang et al. 2022)"
    )
    enable_ema: bool = Field(
        False, description="save a moving average of the actor's weights too (DeepSpeed-Chat)"
    )
    ema_decay: float = Field(
        0.992, ge=0, lt=1, description="share of the average kept per update (DeepSpeed-Chat)"
    )
    offload_reference_model: bool = Field(
        False, description="the reference's weights in host memory (DeepSpeed-Chat)"
    )

    # --- one trained model's own setting; None: that of both (`zero_stage`, `lora`, ...)
    actor_zero_stage: Literal[0, 1, 2, 3] | None = Field(
        None, description="the actor's; None: zero_stage (DeepSpeed-Chat)"
    )
    critic_zero_stage: Literal[0, 1, 2, 3] | None = Field(
        None, description="the critic's; None: zero_stage (DeepSpeed-Chat)"
    )
    actor_lora: Lora | None = Field(None, description="the actor's; None: lora (DeepSpeed-Chat)")
    critic_lora: Lora | None = Field(None, description="the critic's; None: lora (DeepSpeed-Chat)")
    actor_gradient_checkpointing: bool | None = Field(
        None, description="the actor's; None: gradient_checkpointing (DeepSpeed-Chat)"
    )
    critic_gradient_checkpointing: bool | None = Field(
        None, description="the critic's; None: gradient_checkpointing (DeepSpeed-Chat)"
    )
    actor_weight_decay: float | None = Field(
        None, ge=0, description="the actor's; None: weight_decay (DeepSpeed-Chat)"
    )
    critic_weight_decay: float | None = Field(
        None, ge=0, description="the critic's; None: weight_decay (DeepSpeed-Chat)"
    )

    @model_validator(mode="after")
    def _rollouts_are_draws_from_the_policy(self) -> PPOConfig:
        if self.top_k or self.top_p < 1:
            raise ValueError(
                f"top_k {self.top_k} / top_p {self.top_p}: a filtered sample is no draw from the "
                "policy being differentiated (its KL estimate turns negative); use top_k 0, top_p 1"
            )
        return self

    @model_validator(mode="after")
    def _a_group_has_several_answers(self) -> PPOConfig:
        if self.advantage in ("group", "rloo") and self.answers_per_prompt < 2:
            raise ValueError(
                f"advantage {self.advantage} with answers_per_prompt {self.answers_per_prompt}: "
                "an answer is compared with the prompt's others; set answers_per_prompt to 2 or up"
            )
        return self

    @field_validator("reward")
    @classmethod
    def _somebody_is_named(cls, value: str) -> str:
        if value not in ("model", "gold", "none") and not re.fullmatch(r"[\w.]+:\w+", value):
            raise ValueError(
                f"reward {value!r}: use model, gold, none, or a checker as MODULE:FUNCTION"
            )
        return value

    @model_validator(mode="after")
    def _something_pays(self) -> PPOConfig:
        if self.reward == "model" and self.reward_model is None:
            raise ValueError(
                "reward model without a reward_model: name one, or let something else pay (gold, "
                "none, or a checker MODULE:FUNCTION)"
            )
        if self.critic_init == "reward" and self.reward_model is None and "critic" in self.roles:
            raise ValueError(
                "critic_init reward without a reward_model: there is no head to begin with; use "
                "critic_init zero"
            )
        if self.reward == "none" and (self.kl_in == "loss" or not self.kl_ctl):
            raise ValueError(
                f"reward none with kl_in {self.kl_in} and kl_ctl {self.kl_ctl}: nothing would tell "
                "answers apart; put the KL into the reward with a kl_ctl above 0"
            )
        return self

    @model_validator(mode="after")
    def _kl_loss_has_a_gradient(self) -> PPOConfig:
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "kl_in loss with kl_estimator k1: the expected gradient of k1 is zero, nothing "
                "would be regularised; use k2, whose gradient is the KL's"
            )
        return self

    @model_validator(mode="after")
    def _two_learning_rates(self) -> PPOConfig:
        if self.learning_rate != StageConfig.model_fields["learning_rate"].default:
            raise ValueError(
                f"learning_rate {self.learning_rate}: PPO trains two models; "
                "set actor_learning_rate and critic_learning_rate"
            )
        return self

    @model_validator(mode="after")
    def _every_iteration_is_measured(self) -> PPOConfig:
        if self.eval_every:
            raise ValueError(
                f"eval_every {self.eval_every}: PPO measures the answers of every iteration and "
                "evaluates nothing besides; leave it at 0"
            )
        return self

    @model_validator(mode="after")
    def _equal_weights_give_equal_probabilities(self) -> PPOConfig:
        if not self.disable_dropout:
            raise ValueError(
                "disable_dropout False: with dropout the ratio of new to old probabilities is not "
                "1 at equal weights, so PPO always turns it off; leave it at True"
            )
        return self

    @model_validator(mode="after")
    def _minibatches_divide(self) -> PPOConfig:
        parts = self.ranks * self.minibatches * self.gradient_accumulation_steps
        if self.rollout % parts:
            raise ValueError(
                f"{self.rollout} answers an iteration cannot be divided among ranks {self.ranks} x "
                f"minibatches {self.minibatches} x gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}; take a multiple of {parts}"
            )
        return self

    @model_validator(mode="after")
    def _prompts_are_shared_whole(self) -> PPOConfig:
        parts = self.ranks * self.minibatches * self.gradient_accumulation_steps
        prompts = self.batch_size * self.generation_batches
        if self.share_prompts and (self.answers_per_prompt < 2 or prompts % parts):
            raise ValueError(
                f"share_prompts with answers_per_prompt {self.answers_per_prompt} and {prompts} "
                f"prompts in {parts} parts (ranks x minibatches x gradient_accumulation_steps): "
                "the answers to a prompt are read together; take 2 or more of them, and a multiple "
                f"of {parts} prompts"
            )
        return self

    @property
    def together(self) -> int:
        """Answers to a prompt that are read in one row."""
        return self.answers_per_prompt if self.share_prompts else 1

    @property
    def roles(self) -> tuple[Role, ...]:
        """The models that are trained; only `gae` asks a critic."""
        return ("actor", "critic") if self.advantage == "gae" else ("actor",)

    @property
    def starts_as_reference(self) -> bool:
        """Whether the actor's frozen weights are the reference: with adapters nothing moves them.

        At stage 3 and when it is offloaded, the reference is shared out in a way of its own.
        """
        own = self.reference is None and bool(self.of("actor", "lora"))
        return own and self.of("actor", "zero_stage") < 3 and not self.offload_reference_model

    @property
    def rollout(self) -> int:
        """Answers of one iteration over all ranks."""
        return self.batch_size * self.generation_batches * self.answers_per_prompt

    @property
    def micro_batch(self) -> int:
        """Answers in one forward and backward pass of one rank: a part of a minibatch."""
        return self.rollout // (self.ranks * self.minibatches * self.gradient_accumulation_steps)


class DPOConfig(StageConfig):
    """Direct preference optimisation of the SFT model on pairs, without a reward model (ch. 10)."""

    reads: ClassVar[Reads] = "pairs"
    part: ClassVar[str] = "reward"

    stage: Literal["dpo"] = Field("dpo", description="whose settings these are")
    model: ModelReference = Field(
        description="the SFT model: start of the policy, and reference (Rafailov et al. 2023)"
    )
    steps: int = Field(230, ge=1, description="optimizer steps")
    learning_rate: float = Field(
        1e-4, gt=0, description="peak of the schedule; AdamW (Loshchilov and Hutter 2019)"
    )
    beta: float = Field(
        0.1, gt=0, description="score per nat of the log-ratio to the reference (Rafailov 2023)"
    )
    loss: Literal["sigmoid", "ipo"] = Field(
        "sigmoid",
        description="of the pairs' margins: DPO's (Rafailov et al. 2023) or IPO's (Azar et al. "
        "2024)",
    )
    per_token: bool = Field(
        False,
        description="divide each answer's log-ratio by its length, so that length earns nothing "
        "(Lambert et al. 2024, section 5)",
    )

    @model_validator(mode="after")
    def _equal_weights_give_equal_probabilities(self) -> DPOConfig:
        if not self.disable_dropout:
            raise ValueError(
                "disable_dropout False: with dropout the policy would differ from its reference "
                "before the first step, so DPO always turns it off; leave it at True"
            )
        return self


class ProbeConfig(SFTConfig):
    """A few steps of SFT for each of several settings, to measure what a rank holds (chapter 9)."""

    stage: Literal["probe"] = Field(  # type: ignore[assignment]  # pydantic: the last one counts
        "probe", description="whose settings these are"
    )
    cases: dict[str, dict[str, Any]] = Field(
        min_length=1, description="by name, what a case changes: `{'ZeRO 2': {'zero_stage': 2}}`"
    )

    @model_validator(mode="after")
    def _cases_are_settings(self) -> ProbeConfig:
        for name in self.cases:
            self.case(name)
        return self

    def case(self, name: str) -> SFTConfig:
        """The SFT settings of a case."""
        common = self.model_dump(exclude={"stage", "cases"})
        return SFTConfig.model_validate(common | self.cases[name])


STAGES: dict[str, type[StageConfig]] = {
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "dpo": DPOConfig,
}
LAUNCHED: dict[str, type[StageConfig]] = {**STAGES, "probe": ProbeConfig}  # what a worker can run
