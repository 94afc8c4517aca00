"""The museum of silent bugs: one-line mistakes, each run through the real stages.

An exhibit is a function of this library with a phrase of its source replaced. Nothing crashes:
what is wrong has to be told from the curves, and often cannot be. `chatlib.runs.mutations` puts an
exhibit into the ranks of a launch and into the run's identity; `tests/train/test_museum.py` proves
that the test which an exhibit names fails with it, and passes without.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlib.book import pages
from chatlib.lab import recipe
from chatlib.runs.mutations import mutated
from chatlib.settings.stages import Lora, StageConfig

AS_IT_IS = " as it is"  # after the id of a test that ran without a mistake
# What every run of a recipe changes here, mutant or not: shorter than the book's, and PPO bolder.
_BOLD = {"steps": 8, "actor_learning_rate": 1e-3}
_ADAPTERS = Lora(lora_learning_rate=5e-3)
SHORT: dict[str, dict[str, Any]] = {
    "ppo": _BOLD,
    "sft": {"steps": 160, "records": 4000, "held_out": 64, "eval_every": 20},
    "grpo": _BOLD,
    "reward": {"steps": 24, "records": 1000, "held_out": 96, "eval_every": 6, "lora": _ADAPTERS},
}


@dataclass(frozen=True)
class Edit:
    """A phrase in the source of a function, and what stands there instead."""

    where: str  # full name of the function or method
    phrase: str
    instead: str

    @property
    def original(self) -> str:
        """The source of the function as it is."""
        return source_of(self.where)

    @property
    def mutant(self) -> str:
        """The source with the mistake. Raises `ValueError` once the phrase is not there once."""
        found = self.original.count(self.phrase)
        if found != 1:
            raise ValueError(
                f"{self.where} says {self.phrase!r} {found} times, not once: mend the exhibit in "
                "chatlib/book/museum.py"
            )
        return self.original.replace(self.phrase, self.instead)


@dataclass(frozen=True)
class Exhibit:
    """A mistake: where it is made, why it is one, who published it, and the test that finds it."""

    name: str
    title: str
    recipe: str  # a key of `SHORT`
    edits: tuple[Edit, ...]
    cause: str
    test: str  # node id
    published: str = ""  # empty: none that we know
    settings: Mapping[str, Any] = field(default_factory=dict)  # besides those of the recipe

    @property
    def lines(self) -> list[str]:
        """The lines taken away (-) and added (+), function by function."""
        return [line for edit in self.edits for line in difference(edit)]

    def config(self, seed: int = 0) -> StageConfig:
        """The settings of a run with this mistake, or of a healthy one to compare it with."""
        return settings_of(self.recipe, seed, **self.settings)

    @contextlib.contextmanager
    def on_show(self) -> Iterator[None]:
        """Every launch in this context makes the mistake."""
        with contextlib.ExitStack() as stack:
            for edit in self.edits:
                stack.enter_context(mutated(edit.where, edit.mutant))
            yield


def settings_of(name: str, seed: int = 0, **changes: Any) -> StageConfig:
    """A recipe of the book in the museum's short version.

    Another seed draws other data and answers; the models it starts from stay those of seed 0.
    """
    return recipe(name, **SHORT[name] | changes).model_copy(update={"seed": seed})


@functools.cache
def source_of(name: str) -> str:
    """The source of a function or method by its full name, decorators too; nothing is imported.

    Raises `ValueError` for a name that is not there.
    """
    parts = name.split(".")
    for length in range(len(parts) - 1, 1, -1):
        path = _file(".".join(parts[:length]))
        if path and path.suffix == ".py":
            return _cut_out(path, parts[length:], name)
    raise ValueError(f"{name}: there is no such module; give chatlib.room.module.function")


def _file(module: str) -> Path | None:
    with contextlib.suppress(ModuleNotFoundError):
        found = importlib.util.find_spec(module)
        return Path(found.origin) if found and found.origin else None
    return None


def _cut_out(path: Path, inner: list[str], name: str) -> str:
    text = path.read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in inner:
        named = [n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == part]
        if not named:
            raise ValueError(f"{name}: {path.name} has no {part}; was it renamed?")
        node = named[0]
    if not isinstance(node, ast.FunctionDef):
        raise ValueError(f"{name} is no function; give the full name of one")
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno])) + "\n"


def difference(edit: Edit) -> list[str]:
    """The function's name, and its lines as they are (-) and with the mistake (+)."""
    before, after = edit.original.splitlines(), edit.mutant.splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "-+"]
    return [edit.where, *(f"{line[0]} {line[2:].strip()}" for line in changed)]


def exhibit(name: str) -> Exhibit:
    """One exhibit by its name. Raises `ValueError` for one that the museum does not have."""
    known = {one.name: one for one in EXHIBITS}
    if name not in known:
        raise ValueError(f"no exhibit {name!r}; there are {', '.join(known)}")
    return known[name]


def verdicts(*names: str, timeout: float = 280) -> dict[str, dict[str, Any]]:
    """How the tests end that exhibits (all by default) name: by an exhibit's name with the mistake,
    by the test's id and `AS_IT_IS` without. They run in a process of their own.

    Raises `RuntimeError` where no test could be run.
    """
    tests = sorted({one.test for one in map(exhibit, names or (e.name for e in EXHIBITS))})
    folders = [pages.ROOT / "tests" / "train", pages.ROOT, os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verdicts.json"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "under_mutation"]
        command += ["--timeout=120", "--verdicts", str(path), *tests]
        done = subprocess.run(
            command,
            cwd=pages.ROOT,
            env=os.environ | own,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if not path.is_file():
            raise RuntimeError(f"no test was run: {(done.stdout + done.stderr)[-1000:]}")
        return json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------- the collection
_LIKELIHOOD, _POLICY = "chatlib.maths.likelihood.", "chatlib.maths.policy."
_TEMPLATE, _SFT, _PPO = "chatlib.data.template.", "chatlib.train.sft.", "chatlib.train.ppo."
_SHIFTED = "ids[:, :-1], ids[:, 1:], mask[:, 1:]"
_LAST = "(positions * mask.long()).argmax(dim=1, keepdim=True)"
_DETAILS, _ROWS = "tests/train/test_ppo_details.py::", "tests/train/test_ppo_acceptance.py::"
_EQUATIONS = "tests/maths/test_policy.py::"

_OF_SFT = (
    Exhibit(
        "labels-not-shifted",
        "labels that are not shifted",
        "sft",
        (Edit(_LIKELIHOOD + "shift", _SHIFTED, "ids[:, :-1], ids[:, :-1], mask[:, 1:]"),),
        "Every place has to repeat the token that it has just read instead of saying the next one.",
        _DETAILS + "test_logits_before_a_token_predict_it",
        "many codebases (errata)",
    ),
    Exhibit(
        "labels-shifted-twice",
        "labels that are shifted twice",
        "sft",
        (Edit(_LIKELIHOOD + "shift", _SHIFTED, "ids[:, :-2], ids[:, 2:], mask[:, 2:]"),),
        "The data shifts the labels by one place and the loss does it again, so that every place "
        "predicts the token after the next one.",
        _DETAILS + "test_logits_before_a_token_predict_it",
    ),
    Exhibit(
        "loss-on-pads",
        "a loss on the padding",
        "sft",
        (
            Edit(
                _SFT + "tensors",
                "collate.pad([e.mask for e in batch], 0)",
                "collate.pad([e.mask for e in batch], 1)",
            ),
        ),
        "The mask is padded with ones, so the padding after an answer is learnt as if it were "
        "a part of it.",
        _DETAILS + "test_pad_is_not_eos_the_end_keeps_its_label_its_action_and_the_score",
    ),
    Exhibit(
        "loss-on-prompt",
        "a loss on the prompt",
        "sft",
        (Edit(_TEMPLATE + "_join", "own = 0", "own = len(part)"),),
        "The model learns to say the customer's part as well, whose names and numbers nobody "
        "can foresee.",
        "tests/data/test_template.py::test_a_dialogue_by_hand",
    ),
    Exhibit(
        "end-masked",
        "an end token without a gradient",
        "sft",
        (Edit(_TEMPLATE + "_join", "own = part.index(eos) + 1", "own = part.index(eos)"),),
        "The mask of an answer stops one place early, before the token that ends it.",
        _DETAILS + "test_every_answer_of_the_data_ends_with_eos_under_the_mask",
        "DeepSpeed-Chat {cite:p}`yao2023deepspeedchat` (errata)",
    ),
    Exhibit(
        "pad-is-end",
        "padding equal to the end token",
        "sft",
        (
            Edit(_TEMPLATE + "train_tokenizer", "pad_token=PAD", "pad_token=END"),
            Edit(
                _SFT + "tensors",
                "mask, _ = collate.pad([e.mask for e in batch], 0)",
                "mask = collate.pad([e.mask for e in batch], 0)[0] * (ids != pad_id)",
            ),
        ),
        "Padding has the end token's id and the mask is made by looking for that id, so that "
        "every end is taken for padding.",
        "tests/data/test_template.py::test_padding_is_no_end_and_no_role",
        "DeepSpeed-Chat {cite:p}`yao2023deepspeedchat` (errata)",
    ),
    Exhibit(
        "mean-of-means",
        "a mean of the ranks' means",
        "sft",
        (
            Edit(
                _SFT + "learn",
                "denominator=answer_tokens",
                "denominator=mask.sum() * recorder.world * config.gradient_accumulation_steps",
            ),
        ),
        "Each rank divides by its own number of tokens, so a token among few weighs more than "
        "one among many.",
        "tests/train/test_settings_do_what_they_say.py::"
        "test_accumulation_of_four_by_one_is_one_by_four[sft]",
    ),
)

_OF_REWARD = (
    Exhibit(
        "lora-matches-nothing",
        "adapters that no layer has",
        "reward",
        (
            Edit(
                "chatlib.train.models.add_lora",
                "if not matched:",
                "if not matched:\n"
                "        model.base_model.requires_grad_(False)\n"
                '        return "LoRA: 0 layers"',
            ),
        ),
        "The names given are those of another architecture; the weights are frozen, no adapter is "
        "added, and the score head is all that learns.",
        "tests/train/test_settings_do_what_they_say.py::test_lora_that_matches_nothing_is_an_error",
        settings={"lora": _ADAPTERS.model_copy(update={"lora_module_name": ["c_attn"]})},
    ),
)

_OF_PPO = (
    Exhibit(
        "score-one-early",
        "a score paid one token early",
        "ppo",
        (Edit(_POLICY + "shaped_rewards", _LAST, f"({_LAST} - 1).clamp(min=0)"),),
        "The score arrives before the last action, so nothing that is paid depends on ending.",
        _EQUATIONS + "test_score_is_paid_at_the_last_valid_token_whatever_the_tail",
        "Spinning Up, issue 50: rewards that stand one place off",
    ),
    Exhibit(
        "score-at-batch-end",
        "a score paid at the batch's last column",
        "ppo",
        (
            Edit(
                _POLICY + "shaped_rewards",
                _LAST,
                "torch.full_like(mask[:, :1], mask.shape[1] - 1).long()",
            ),
        ),
        "The score is written into the last column, which is padding in all but the longest "
        "answers, and is masked away there.",
        _EQUATIONS + "test_score_is_paid_at_the_last_valid_token_whatever_the_tail",
    ),
    Exhibit(
        "whitening-over-pads",
        "whitening over the padding",
        "ppo",
        (
            Edit(
                _LIKELIHOOD + "whiten",
                "masked_moments(x, mask, reduce)",
                "masked_moments(x, torch.ones_like(mask), reduce)",
            ),
        ),
        "Mean and variance of the advantages count the zeros of the padding, too.",
        "tests/maths/test_likelihood.py::"
        "test_whitening_of_advantages_shifts_the_mean_and_of_rewards_keeps_it",
    ),
    Exhibit(
        "reference-follows",
        "a reference that is the policy itself",
        "ppo",
        (Edit(_PPO + "make_experience", "log_probs(nets.reference, r", "log_probs(nets.actor, r"),),
        "The KL is measured from the policy to itself: it is 0, and so is its penalty.",
        _DETAILS + "test_the_reference_and_the_reward_model_are_frozen_and_kl_is_zero_at_first",
    ),
    Exhibit(
        "greedy-rollouts",
        "greedy answers taken for samples",
        "ppo",
        (Edit(_PPO + "generate", "stop, pad, config.temperature", "stop, pad, 0.0"),),
        "Rollouts are the likeliest answers, not draws from the policy whose gradient is taken.",
        _ROWS + "test_the_same_temperature_in_old_new_and_reference_log_probs",
        "DeepSpeed-Chat {cite:p}`yao2023deepspeedchat` (errata)",
    ),
    Exhibit(
        "value-clip-around-new",
        "a value clip around the new value",
        "ppo",
        (
            Edit(
                _POLICY + "value_loss",
                "values.clamp(old_values - limit, old_values + limit)",
                "old_values.clamp(values - limit, values + limit)",
            ),
        ),
        "Two arguments are exchanged: where the new value is better than the old one, the larger "
        "error is the old value's, which has no gradient.",
        _EQUATIONS + "test_value_clip_is_around_the_old_value_with_one_half",
    ),
    Exhibit(
        "kl-sign",
        "a KL that is rewarded",
        "ppo",
        (Edit(_POLICY + "shaped_rewards", "(-beta * kl)", "(beta * kl)"),),
        "The KL enters the reward with the wrong sign: going away from the reference is paid.",
        _EQUATIONS + "test_score_is_paid_at_the_last_valid_token_whatever_the_tail",
    ),
    Exhibit(
        "advantage-sign",
        "a loss with the wrong sign",
        "ppo",
        (
            Edit(
                _POLICY + "policy_loss",
                "-A * ratio, -A * ratio.clamp(1 - clip, 1 + clip)",
                "A * ratio, A * ratio.clamp(1 - clip, 1 + clip)",
            ),
        ),
        "The loss lacks its minus: what was better than expected is made less likely.",
        _EQUATIONS + "test_ratio_is_one_on_the_first_minibatch",
        "rlhf-book, issue 125: the sign of the PPO loss",
    ),
    Exhibit(
        "returns-after-whitening",
        "returns formed after the whitening",
        "ppo",
        (
            Edit(
                _PPO + "add_advantages",
                "r.advantages = whiten(advantages, r.mask, reduce=engine.sum_over_ranks)",
                "r.advantages = whiten(advantages, r.mask, reduce=engine.sum_over_ranks)\n"
                "        r.returns = r.advantages + r.values",
            ),
        ),
        "The critic's target is made of advantages that have lost their mean and their scale.",
        _ROWS + "test_the_reward_is_clipped_before_the_kl_is_added",
    ),
    Exhibit(
        "old-log-probs-tempered",
        "old log-probabilities of another temperature",
        "ppo",
        (
            Edit(
                _PPO + "make_experience",
                "nets.pad, config.temperature, True",
                "nets.pad, 0.9 * config.temperature, True",
            ),
        ),
        "The probabilities kept from the rollout are those of a sharper policy than the one that "
        "is trained, so the ratio is not 1 before the first step.",
        _ROWS + "test_the_same_temperature_in_old_new_and_reference_log_probs",
    ),
    Exhibit(
        "two-templates",
        "prompts in another template",
        "ppo",
        (
            Edit(
                _TEMPLATE + "encode_prompts",
                "render(tokenizer, prompts, prompt=True)",
                "render(tokenizer, prompts, prompt=False)",
            ),
        ),
        "Rollouts start without the token that opens the assistant's turn, with which SFT and "
        "the reward model were trained.",
        "tests/data/test_template.py::test_prompt_and_answer_encoded_apart_are_the_dialogue",
    ),
    Exhibit(
        "same-prompts",
        "the same prompts on both ranks",
        "ppo",
        (Edit(_PPO + "train", "recorder.rank, recorder.world", "0, recorder.world"),),
        "Every rank takes the first rank's share of the prompts: half of the data is never asked.",
        _ROWS + "test_ranks_draw_different_samples_from_one_shared_shuffle",
    ),
)

_OF_GROUPS = (
    Exhibit(
        "wrong-groups",
        "answers compared across prompts",
        "grpo",
        (Edit(_PPO + "train", "[i for i in own for _ in range(each)]", "own * each"),),
        "The prompts are repeated one after the other as a whole, so that four neighbours are "
        "answers to four prompts: an answer is compared with answers to other prompts.",
        "tests/train/test_alternatives.py::test_answers_to_one_prompt_stand_together[group]",
    ),
    Exhibit(
        "k3-cancels",
        "a KL estimate with a cancellation",
        "grpo",
        (
            Edit(
                _POLICY + "kl_estimate",
                "torch.expm1(-difference) + difference",
                "(-difference).exp() - 1 + difference",
            ),
        ),
        "Near a ratio of 1 the exponential and the 1 agree in nearly all their digits, and what "
        "is left of their difference is rounding.",
        _EQUATIONS + "test_k3_keeps_its_digits_where_the_policies_nearly_agree",
        "rlhf-book, issue 525: k3 near 0",
    ),
)

EXHIBITS: tuple[Exhibit, ...] = (*_OF_SFT, *_OF_REWARD, *_OF_PPO, *_OF_GROUPS)
