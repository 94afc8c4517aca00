"""Recipes of the book's runs, and the machines they are for.

`recipe("ppo")` is a complete configuration: the runs it builds on are named by their own
recipes, so it can be written down before anything was trained. `trained("ppo")` returns the
finished run, training what is missing first.

A profile carries a recipe to another machine: `recipe("ppo", profile="node")`, or
`CHATLIB_PROFILE=node` for every page and command. The larger ones start from public models and
add public data to the shop's, so that the pages' judge still has something to judge. A profile
of your own is a JSON file that names what it changes:

    {"like": "gpu", "model": "models/mine", "settings": {"all": {"dtype": "fp32"}}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator

from chatlib.lab.launching import launch
from chatlib.launch import hosts
from chatlib.runs import identity
from chatlib.runs.store import Run
from chatlib.settings.device import gpus
from chatlib.settings.distillation import DistillationConfig
from chatlib.settings.stages import (
    DPOConfig,
    Lora,
    ModelReference,
    PPOConfig,
    RewardConfig,
    SFTConfig,
    Source,
    StageConfig,
    Strict,
    TinyModel,
)

if TYPE_CHECKING:
    import pandas


class Profile(Strict):
    """A machine, and what is trained on it instead of the laptop's tiny model."""

    name: str = Field(description="what `CHATLIB_PROFILE` calls it")
    machine: str = Field(description="what it needs, in words")
    nodes: int = Field(1, ge=1, description="machines")
    gpus: int = Field(0, ge=0, description="GPUs of each machine; 0: ranks share the CPU")
    model: TinyModel | ModelReference | None = Field(
        None, description="where SFT starts; None: the tiny model, from scratch"
    )
    sources: list[Source] | None = Field(None, description="data of every stage; None: the shop")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="fields by recipe; those of `all` go into each"
    )

    @field_validator("settings")
    @classmethod
    def _recipes_exist(cls, settings: dict) -> dict:
        for name in settings:
            if name not in ("all", *RECIPES):
                raise ValueError(f"{name!r} is no recipe; use all, {', '.join(RECIPES)}")
        return settings

    def of(self, recipe: str) -> dict[str, Any]:
        """The fields that a recipe gets from this profile."""
        fields: dict[str, Any] = {}
        if self.gpus:
            fields["ranks"] = self.nodes * self.gpus
        if self.sources:
            fields["sources"] = self.sources
        if self.model and recipe == "sft":
            fields["model"] = self.model
        return fields | self.settings.get("all", {}) | self.settings.get(recipe, {})


# -------------------------------------------------------------------------- recipes

SHOP = {"split": (6, 2, 2)}  # the shop invents as much as is asked: SFT gets the larger share
NEW = {  # what a model that begins with random weights is taught with
    "records": 24_000,
    "batch_size": 16,
    "steps": 2000,
    "learning_rate": 3e-3,
    "num_warmup_steps": 50,
}


def sft(seed: int, at: Profile, **changes: Any) -> SFTConfig:
    """The policy that imitates the demonstrations."""
    return SFTConfig(**SHOP | NEW | {"seed": seed} | at.of("sft") | changes)


def reward(seed: int, at: Profile, **changes: Any) -> RewardConfig:
    """The reward model of the book."""
    settings = dict(
        model=_run(sft(seed, at)),
        records=9_000,
        held_out=1500,
        batch_size=32,
        steps=230,
        learning_rate=1e-3,
        seed=seed,
    )
    return RewardConfig(**SHOP | settings | at.of("reward") | changes)


def weak_reward(seed: int, at: Profile, **changes: Any) -> RewardConfig:
    """A reward model of few pairs, easily fooled: what over-optimisation needs (chapter 6)."""
    settings = dict(model=_run(sft(seed, at)), records=160, held_out=16, steps=20, seed=seed)
    return RewardConfig(**SHOP | settings | at.of("weak_reward") | changes)


def ppo(seed: int, at: Profile, **changes: Any) -> PPOConfig:
    """The policy tuned against the reward model."""
    settings = dict(
        model=_run(sft(seed, at)),
        reward_model=_run(reward(seed, at)),
        records=4000,
        batch_size=64,
        steps=55,
        seed=seed,
    )
    return PPOConfig(**SHOP | settings | at.of("ppo") | changes)


def dpo(seed: int, at: Profile, **changes: Any) -> DPOConfig:
    """The policy tuned on as many pairs as PPO draws answers, without a reward model."""
    settings = dict(
        model=_run(sft(seed, at)), records=9_000, held_out=256, batch_size=32, steps=110, seed=seed
    )
    return DPOConfig(**SHOP | settings | at.of("dpo") | changes)


def _groups(seed: int, at: Profile) -> dict[str, Any]:
    """As many answers an iteration as PPO's, in groups of four."""
    return {"batch_size": ppo(seed, at).batch_size // 4, "answers_per_prompt": 4}


def grpo(seed: int, at: Profile, **changes: Any) -> PPOConfig:
    """An answer against the others to its prompt, in units of their spread (Shao et al. 2024)."""
    own: dict[str, Any] = {"advantage": "group", "kl_in": "loss", "kl_estimator": "k3"}
    own |= _groups(seed, at) | {"loss_aggregation": "sequence"}
    return ppo(seed, at, **own | at.settings.get("grpo", {}) | changes)


def dr_grpo(seed: int, at: Profile, **changes: Any) -> PPOConfig:
    """As `grpo`, neither the spread nor the length divided out (Liu et al. 2025)."""
    own: dict[str, Any] = {"group_scale": False, "loss_aggregation": "constant"}
    return grpo(seed, at, **own | at.settings.get("dr_grpo", {}) | changes)


def rloo(seed: int, at: Profile, **changes: Any) -> PPOConfig:
    """An answer against the mean of its prompt's others, whole (Ahmadian et al. 2024)."""
    own: dict[str, Any] = {"advantage": "rloo", "loss_aggregation": "constant"}
    own |= _groups(seed, at)
    return ppo(seed, at, **own | at.settings.get("rloo", {}) | changes)


def reinforce(seed: int, at: Profile, **changes: Any) -> PPOConfig:
    """What follows a token, against the mean of all (REINFORCE++, Hu et al. 2025)."""
    own = {"advantage": "global"}
    return ppo(seed, at, **own | at.settings.get("reinforce", {}) | changes)


def distil(seed: int, at: Profile, **changes: Any) -> PPOConfig:
    """The SFT model taught by the PPO model on its own answers (Agarwal et al. 2024)."""
    own = {"reference": _run(ppo(seed, at)), "reward": "none", "kl_ctl": 1.0}
    return reinforce(seed, at, **own | at.settings.get("distil", {}) | changes)


def distillation(seed: int, at: Profile, **changes: Any) -> DistillationConfig:
    """A student of half the width, new, that learns the PPO policy's probabilities."""
    student = TinyModel(hidden_size=64, intermediate_size=128)
    settings = NEW | dict(model=student, teacher=_run(ppo(seed, at)), seed=seed)
    whole = {"lora": None}  # there is nothing that adapters could adapt
    return DistillationConfig(**SHOP | settings | at.of("distillation") | whole | changes)


def overoptimised(seed: int, at: Profile, **changes: Any) -> PPOConfig:
    """PPO against the weak reward model without any KL penalty."""
    settings = dict(
        reward_model=_run(weak_reward(seed, at)),
        kl_ctl=0.0,
        steps=50,
        actor_learning_rate=2e-3,
        critic_learning_rate=1e-3,
    )
    own = at.settings.get("overoptimised", {})
    return ppo(seed, at, **settings | own | changes)


def control(seed: int, at: Profile, **changes: Any) -> PPOConfig:
    """As `overoptimised`, but for beta."""
    own = at.settings.get("control", {})
    return overoptimised(seed, at, **{"kl_ctl": 0.5} | own | changes)


RECIPES: dict[str, Callable[..., StageConfig]] = {
    f.__name__: f
    for f in (
        *(sft, reward, weak_reward, ppo, overoptimised, control),
        *(dpo, grpo, dr_grpo, rloo, reinforce, distil, distillation),
    )
}


def _run(config: StageConfig) -> str:
    return f"run:{identity.run_name(config)}"


# ------------------------------------------------------------------------- profiles

# Both data sets are under MIT, Qwen2.5 of these sizes under Apache-2.0. Revisions are `main` as the
# hub could not be asked from where this was written: put a commit there for a run to be repeated.
PAIRS = Source(
    name="hub:HuggingFaceH4/ultrafeedback_binarized@main#train_prefs",
    format="preference",  # its rows would also pass as `messages`
)
CHATS = Source(name="hub:HuggingFaceH4/ultrachat_200k@main#train_sft", format="messages")
EVERY_LAYER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = Lora(lora_dim=64, lora_alpha=128, lora_module_name=EVERY_LAYER)
LONGER = {
    "max_seq_len": 1024,
    "records": 40_000,
    "dtype": "bf16",
    "gradient_checkpointing": True,
    "save_every": 50,  # what a machine that is taken away may cost, in steps
}
SHARDED = {"zero_stage": 3, **LONGER}


def _all_weights(batch: int, accumulation: int, rate: float) -> dict[str, dict[str, Any]]:
    """Settings of the stages where every weight of a large model is trained (ZeRO 3)."""
    size = {"batch_size": batch, "gradient_accumulation_steps": accumulation}
    answers = {"max_answer_tokens": 256}  # the scores' unit must be that of PPO's answers
    ppo: dict[str, Any] = {**answers, "steps": 300, "offload_reference_model": True}
    ppo |= {"actor_learning_rate": rate / 10, "critic_learning_rate": rate / 2}
    hasty = {"actor_learning_rate": rate, "critic_learning_rate": rate}
    return {
        "all": {**SHARDED, **size},
        "sft": {"learning_rate": rate, "steps": 400, "sources": [Source(), PAIRS, CHATS]},
        "reward": {"learning_rate": rate / 2, "steps": 400, **answers},
        "weak_reward": {
            "learning_rate": rate / 2,
            "records": 2 * batch,
            "held_out": 16,
            **answers,
        },
        "ppo": ppo,
        "overoptimised": hasty,
    }


PROFILES = {
    "laptop": Profile(name="laptop", machine="2 CPU cores, 4 GB"),
    "small": Profile(
        name="small",
        machine="2 CPU cores, 8 GB",
        model="pypi:smollm2",
        settings={
            "all": {"lora": Lora(lora_dim=16, lora_alpha=32, lora_module_name=EVERY_LAYER)},
            "sft": {
                "records": 2_400,
                "held_out": 128,
                "steps": 80,
                "learning_rate": 1e-3,
                "num_warmup_steps": 5,
                "eval_every": 20,
            },
            "reward": {"records": 2_400, "held_out": 200, "batch_size": 16, "steps": 60},
            "ppo": {
                "batch_size": 32,
                "steps": 30,
                "actor_learning_rate": 5e-4,
                "critic_learning_rate": 1e-3,
            },
            # A prompt is longer than its answers: read once for all of them, each learnt from once.
            "rloo": {"steps": 30, "share_prompts": True, "ppo_epochs": 1},
        },
    ),
    "gpu": Profile(
        name="gpu",
        machine="1 GPU of 24 GB",
        gpus=1,
        model="hub:Qwen/Qwen2.5-1.5B@main",
        sources=[Source(), PAIRS],
        settings={
            "all": {**LONGER, "lora": ADAPTERS, "batch_size": 32, "gradient_accumulation_steps": 8},
            "sft": {"learning_rate": 2e-4, "steps": 700},
            "reward": {"learning_rate": 1e-4, "steps": 400, "max_answer_tokens": 256},
            "weak_reward": {
                "learning_rate": 1e-4,
                "records": 128,
                "held_out": 16,
                "max_answer_tokens": 256,
            },
            "ppo": {
                "max_answer_tokens": 256,
                "steps": 200,
                "actor_learning_rate": 2e-5,
                "critic_learning_rate": 5e-5,
            },
            "overoptimised": {"actor_learning_rate": 2e-4, "critic_learning_rate": 2e-4},
        },
    ),
    "node": Profile(
        name="node",
        machine="8 GPUs of 80 GB, 1 TB of host memory",
        gpus=8,
        model="hub:Qwen/Qwen2.5-7B@main",
        sources=[Source(), PAIRS],
        settings=_all_weights(batch=128, accumulation=4, rate=1e-5),
    ),
    "cluster": Profile(
        name="cluster",
        machine="2 machines as `node`, 2 TB of host memory each",
        nodes=2,
        gpus=8,
        model="hub:Qwen/Qwen2.5-14B@main",
        sources=[Source(), PAIRS],
        settings=_all_weights(batch=256, accumulation=4, rate=5e-6),
    ),
}


def choose(name: str | Path | Profile | None = None) -> Profile:
    """The profile of a name or of a JSON file; without one that of `$CHATLIB_PROFILE`, or the
    one that suits this machine: its GPUs are counted, and `$CHATLIB_HOSTS` means a cluster.

    `node` takes as many GPUs as there are here, `cluster` the machines of `$CHATLIB_HOSTS`.
    Raises `ValueError` for a name that is none, or a file that is no profile.
    """
    if isinstance(name, Profile):
        return name
    name = str(name or os.environ.get("CHATLIB_PROFILE") or detected())
    if name.endswith(".json"):
        return _from_file(Path(name))
    if name not in PROFILES:
        raise ValueError(
            f"profile {name!r} does not exist; use {', '.join(PROFILES)} or a .json file"
        )
    found, named = PROFILES[name], os.environ.get("CHATLIB_HOSTS")
    if name == "node" and gpus():
        return found.model_copy(update={"gpus": gpus()})
    if name == "cluster" and named:
        counts = list(hosts.parse(named).values())
        if len(set(counts)) > 1:
            raise ValueError(
                f"the hosts of CHATLIB_HOSTS have unequal slots ({counts}), and `cluster` takes as "
                "many GPUs of each; give all the same number, or set `ranks` in a profile"
            )
        return found.model_copy(update={"nodes": len(counts), "gpus": counts[0]})
    return found


def detected() -> str:
    """The name of the profile that suits this machine."""
    if os.environ.get("CHATLIB_HOSTS"):
        return "cluster"
    return {0: "laptop", 1: "gpu"}.get(gpus(), "node")


def _from_file(path: Path) -> Profile:
    """A profile that changes another one (`like`, else `laptop`), recipe by recipe."""
    try:
        changes = json.loads(path.expanduser().read_text(encoding="utf-8"))
        base = choose(changes.pop("like", "laptop"))
        settings = dict(base.settings)
        for recipe_name, fields in changes.pop("settings", {}).items():
            settings[recipe_name] = {**settings.get(recipe_name, {}), **fields}
        unset = base.model_dump(exclude={"settings"}) | {"name": path.stem}
        return Profile.model_validate({**unset, **changes, "settings": settings})
    except (OSError, AttributeError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}"
        raise ValueError(
            f"{path} is no profile ({reason}); give a JSON object with `like` and what is to change"
        ) from error


def table() -> pandas.DataFrame:
    """The profiles and their recipes, a row each."""
    import pandas

    rows = {}
    for name, found in PROFILES.items():
        first, last = recipe("sft", profile=found), recipe("ppo", profile=found)
        rows[name] = {
            "ranks": first.ranks,
            "model": "tiny" if isinstance(first.model, TinyModel) else first.model.split("/")[-1],
            "ZeRO": first.zero_stage,
            "LoRA": first.lora.lora_dim if first.lora else "-",
            "format": first.dtype,
            "SFT": f"{first.steps} x {first.batch_size}",
            "PPO": f"{last.steps} x {last.batch_size}",
        }
    return pandas.DataFrame.from_dict(rows, orient="index")


# ------------------------------------------------------------------- what pages call


def recipe(
    name: str, seed: int = 0, profile: str | Path | Profile | None = None, **changes: Any
) -> StageConfig:
    """The configuration of one of the book's runs; ``changes`` replace fields of it.

    ``profile`` is what `choose` takes. Raises `ValueError` for an unknown name.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} does not exist; use one of {', '.join(RECIPES)}")
    return RECIPES[name](seed, choose(profile), **changes)


def trained(
    name: str, seed: int = 0, profile: str | Path | Profile | None = None, **changes: Any
) -> Run:
    """The finished run of a recipe; what it builds on, and itself, is trained where missing."""
    at = choose(profile)
    config = recipe(name, seed, at, **changes)
    wanted = {getattr(config, field, None) for field in ("model", "reward_model", "reference")}
    for earlier in RECIPES:
        if earlier != name and _run(recipe(earlier, seed, at)) in wanted:
            trained(earlier, seed, at)
    return launch(config)
