"""The four models of the pipeline: policy, reference, reward model and critic.

All are plain transformers models; two small wrappers say what is computed from them. Sequences
are padded on the right here, so causal attention alone keeps padding out of every valid token
and no attention mask is needed.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from chatlib.data.template import PAD, prepare_tokenizer
from chatlib.maths.likelihood import entropy, shift, token_log_probs
from chatlib.runs.identity import resolve
from chatlib.runs.recorder import Recorder
from chatlib.settings.deepspeed import Role
from chatlib.settings.stages import Lora, StageConfig, TinyModel
from chatlib.train.throughput import Size

if TYPE_CHECKING:
    from peft import PeftConfig

HEADS = ("score", "classifier")  # what sequence classifiers call their last layer
LOGITS = 2**26  # numbers that the output layer makes at a time where no gradient is taken


@contextlib.contextmanager
def no_bar() -> Iterator[None]:
    """Without transformers' progress bar: a page that loads a folder should show no trace of it."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def tiny_policy(tiny: TinyModel, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama-shaped model with random weights; tied embeddings help a tiny model to copy."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=tiny.hidden_size,
            intermediate_size=tiny.intermediate_size,
            num_hidden_layers=tiny.layers,
            num_attention_heads=tiny.heads,
            max_position_embeddings=tiny.context,
            rope_parameters={"rope_type": "default", "rope_theta": tiny.rope_theta},
            initializer_range=tiny.init_std,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _from(reference: str) -> tuple[str, dict]:
    """What `from_pretrained` takes: a folder or hub name, and how it is to be read."""
    found = resolve(reference)
    name, revision = found if isinstance(found, tuple) else (str(found), None)
    return name, {"revision": revision}


def load_tokenizer(reference: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model, prepared for chat. Raises one sentence when there is none."""
    name, options = _from(reference)
    known = ("tokenizer.json", "vocab.json", "tokenizer.model", "vocab.txt")
    if Path(name).is_dir() and not any((Path(name) / f).exists() for f in known):
        raise ValueError(
            f"{name} holds a model without a tokenizer; save the model's tokenizer into that folder"
        )
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    prepare_tokenizer(tokenizer)
    return tokenizer


def load_reward_tokenizer(reference: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a reward model that reads texts: as it is, but for a pad if it has none.

    What is too long loses its beginning, as the answer stands at the end.
    """
    name, options = _from(reference)
    tokenizer = AutoTokenizer.from_pretrained(
        name, truncation_side="left", trust_remote_code=False, **options
    )
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def load_policy(
    reference: str, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A causal language model; its vocabulary grows where the tokenizer got new tokens."""
    name, options = _from(reference)
    model = AutoModelForCausalLM.from_pretrained(
        name, dtype=dtype, use_safetensors=True, trust_remote_code=False, **options
    )
    _fit(model, tokenizer)
    check_head(model)
    return model


def load_scorer(
    reference: str, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A sequence classifier with one output: the score of what was read so far.

    From a language model's folder, its score head starts at zeros: every answer gets 0. Raises
    `ValueError` for an encoder's folder without a trained head, which could not score anything.
    """
    name, options = _from(reference)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        name,
        num_labels=1,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    missing = [key for key in info["missing_keys"] if key.split(".")[0] in HEADS]
    if missing and not hasattr(model, "score"):
        raise ValueError(
            f"{reference} ({type(model).__name__}) holds no trained head ({', '.join(missing)}); "
            "give a folder that was saved as a sequence classifier with one output"
        )
    if missing:
        nn.init.zeros_(model.score.weight)
    _fit(model, tokenizer)
    return model


def _fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Room for the tokenizer's tokens, and its end and pad in the configuration.

    New rows are drawn from a seed of their own: every copy of a model must get the same ones,
    or the policy would differ from its reference before the first step.
    """
    table = cast(nn.Embedding, model.get_input_embeddings())  # of a text model it is one
    if len(tokenizer) > table.num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # `torch.manual_seed` would seed the cards', too
            model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A second model on the very weights of the first: what it is before `add_lora` adapts it.

    The adapters' own weights are trained, these stay as they are; a copy would need their memory
    once more.
    """
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def disable_dropout(model: PreTrainedModel) -> None:
    """Set every dropout to 0: with it on, the same weights give two different probabilities.

    Many layers keep a rate of their own beside the configuration's (OPT's all do).
    """
    for owner in (model.config, *model.modules()):
        if isinstance(owner, nn.Dropout):
            owner.p = 0.0
        for name, value in vars(owner).copy().items():
            if "drop" in name and isinstance(value, float):
                setattr(owner, name, 0.0)


def max_length(model: PreTrainedModel, max_seq_len: int) -> int:
    """Tokens a sequence may have: what was asked for, and no more than the model's positions."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return min(max_seq_len, limit or max_seq_len)


def head_of(model: PreTrainedModel) -> nn.Module:
    """The layer that makes scores or logits of hidden states; some heads have several matrices."""
    heads = [getattr(model, name) for name in HEADS if hasattr(model, name)]
    return heads[0] if heads else model.get_output_embeddings()


def size_of(model: PreTrainedModel) -> Size:
    """What the model's arithmetic depends on; ask before it gets adapters."""
    body, top = (
        sum(
            getattr(m.weight, "ds_numel", m.weight.numel())
            for m in part.modules()
            if isinstance(m, nn.Linear | Conv1D)
        )
        for part in (model.base_model, head_of(model))
    )
    known = model.config
    wide = getattr(known, "head_dim", None) or known.hidden_size // known.num_attention_heads
    return Size(body, top, known.num_hidden_layers, known.num_attention_heads * wide)


def hidden_states(
    model: PreTrainedModel,
    ids: Tensor,
    where: Tensor,
    together: int | None = None,
    **context: Tensor | None,
) -> Tensor:
    """Last hidden states (N, width) at the places where a (batch, time) mask is 1, row by row.

    At most ``together`` rows are computed at once (all by default), those of similar length:
    attention is causal, so nothing after a row's last marked place matters; rows are cut there.
    """
    if together is None or len(ids) <= together:
        out = model.base_model(input_ids=ids, use_cache=False, **context)
        return out.last_hidden_state[where.bool()]
    ends = (where * torch.arange(1, ids.shape[1] + 1, device=ids.device)).amax(1)
    counts = where.sum(1)
    parts: dict[int, Tensor] = {}
    for rows in ends.argsort().tensor_split(-(-len(ids) // together)):
        end = int(ends[rows[-1]])
        found = hidden_states(model, ids[rows, :end], where[rows, :end])
        parts |= zip(rows.tolist(), found.split(counts[rows].tolist()))
    return torch.cat([parts[row] for row in range(len(ids))])


def packed_states(
    model: PreTrainedModel, ids: Tensor, where: Tensor, positions: Tensor, seen: Tensor
) -> Tensor:
    """`hidden_states` of rows that hold several texts each, all at once; see `packing`."""
    smallest = torch.finfo(model.dtype).min
    bias = torch.zeros_like(seen, dtype=model.dtype).masked_fill_(~seen, smallest)
    return hidden_states(model, ids, where, position_ids=positions, attention_mask=bias[:, None])


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether a model is told the tokens' positions; one that counts them itself is not."""
    return "position_ids" in inspect.signature(model.base_model.forward).parameters


def require_positions(model: PreTrainedModel) -> None:
    """Raise `ValueError` for a model that cannot read several answers in one row (`packing`)."""
    if not takes_positions(model):
        raise ValueError(
            f"share_prompts: {type(model).__name__} counts its positions itself, so answers cannot "
            "stand side by side; leave share_prompts out"
        )


def exact_head(head: nn.Module) -> None:
    """Let an output layer's products leave 16 bits: logits (.., vocabulary) or scores in fp32.

    Its inputs stay rounded, but rounded again a logit between 16 and 32 would move by up to 1/16 in
    bf16, and a probability ratio with it. With weights in fp32 nothing changes. On a GPU
    `engine.start` lets such products run in TF32, which holds every bf16 number exactly.
    """
    for layer in head.modules():  # with adapters it has several
        if isinstance(layer, nn.Linear):
            # Not a new module: its hooks gather it at ZeRO stage 3. A method, so that a copy of
            # the layer computes with the copy's weights.
            layer.forward = MethodType(_exact_product, layer)  # type: ignore[method-assign]


def _exact_product(layer: nn.Linear, hidden: Tensor) -> Tensor:
    """What a linear layer computes, in fp32 where its weights have 16 bits."""
    weight: Tensor = layer.weight
    bias: Tensor | None = layer.bias
    if weight.dtype in (torch.bfloat16, torch.float16):
        bias = None if bias is None else bias.float()
        hidden, weight = hidden.float(), weight.float()
    return nn.functional.linear(hidden, weight, bias)


class AnswerLM(nn.Module):
    """Log-probabilities of the marked tokens of a batch, and nothing computed for the others.

    The head's (vocabulary x width) product is the largest of a small model, so it is taken
    only at the positions that predict a marked token. ``together``: see `hidden_states`.

    In fp32 two passes over the same rows agree to 1e-5, however they are batched. In bf16 hidden
    states may be rounded in another order: tolerated is a log-ratio of 0.05, a quarter of the clip,
    on PPO's first minibatch, where it should be 0. On a CPU it is; no card was measured.
    """

    def __init__(self, model: PreTrainedModel, together: int | None = None) -> None:
        super().__init__()
        self.model, self.together = model, together
        exact_head(model.get_output_embeddings())

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        temperature: float = 1.0,
        with_entropy: bool = False,
        positions: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(log pi of marked tokens (N,), entropy there (N,) or None), row by row.

        ``ids`` and ``mask`` are (batch, time), padded on the right; mask is 1 on the tokens to
        predict. Position t - 1 predicts token t, so a marked first token cannot be predicted.
        Rows that hold more than one text come with ``positions`` and ``seen``, as in `packing`.
        """
        inputs, labels, marked = shift(ids, mask)
        if positions is None or seen is None:
            hidden = hidden_states(self.model, inputs, marked, self.together)
        else:
            hidden = packed_states(self.model, inputs, marked, positions[:, :-1], seen[:, :-1, :-1])
        head, labels = self.model.get_output_embeddings(), labels[marked.bool()]
        parts = []
        for h, y in zip(*self._chunks(hidden, labels)):
            logits = head(h)
            bonus = entropy(logits, temperature) if with_entropy else None
            parts.append((token_log_probs(logits, y, temperature), bonus))
        logp, bonuses = zip(*parts)
        return torch.cat(logp), torch.cat(bonuses) if with_entropy else None

    def _chunks(self, hidden: Tensor, labels: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Hidden states and labels in parts of at most `LOGITS` logits; whole under gradients.

        With a gradient every part would be kept until the backward pass, and nothing be saved.
        """
        size = len(hidden)
        if not torch.is_grad_enabled():
            size = max(1, LOGITS // self.model.config.get_text_config().vocab_size)
        return hidden.split(max(size, 1)), labels.split(max(size, 1))


class TokenScorer(nn.Module):
    """The scalar head of a sequence classifier, read where a mask says.

    Read at the last token of an answer it is the reward model's score; read at every position
    that chooses a token it is the critic's value of that state. ``score_mean`` and ``score_std``
    in the model's configuration (the reward stage puts them there) normalise it. ``together``:
    see `hidden_states`.
    """

    def __init__(self, model: PreTrainedModel, together: int | None = None) -> None:
        super().__init__()
        self.model, self.together = model, together
        self.takes_positions = takes_positions(model)
        exact_head(head_of(model))

    def forward(
        self,
        ids: Tensor,
        where: Tensor,
        positions: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Scalars (N,) at the places where the (batch, time) mask is 1, row by row.

        Rows that hold more than one text come with the ``positions`` (batch, time) of their
        tokens and with which tokens each token attends to: ``seen`` (batch, time, time), bool.
        """
        if positions is None or seen is None:
            hidden = hidden_states(self.model, ids, where, self.together)
        else:
            hidden = packed_states(self.model, ids, where, positions, seen)
        raw, known = head_of(self.model)(hidden).squeeze(-1), self.model.config
        return (raw - getattr(known, "score_mean", 0.0)) / getattr(known, "score_std", 1.0)


class TextScorer(nn.Module):
    """A sequence classifier of any shape, encoders included, read as its own forward does.

    For a reward model that was not made of the policy: it has a tokenizer of its own, and perhaps
    no place at every token where a value could be read. Normalised as `TokenScorer` is.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **texts: Tensor) -> Tensor:
        """Scores (N,) of N texts: what a tokenizer returns for them, ``input_ids`` and the rest."""
        raw, known = self.model(**texts).logits[:, 0].float(), self.model.config
        return (raw - getattr(known, "score_mean", 0.0)) / getattr(known, "score_std", 1.0)

    @property
    def max_length(self) -> int:
        """Tokens that the model reads; RoBERTa's positions begin after the pad's."""
        known = self.model.config
        first = known.pad_token_id + 1 if "roberta" in known.model_type else 0
        return (getattr(known, "max_position_embeddings", None) or 2**30) - first


Reader = AnswerLM | TokenScorer | TextScorer  # what an engine wraps


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Assert that the head alone gives the model's logits (some models scale them after it).

    Raises `ValueError` naming the model: its log-probabilities would be wrong otherwise.
    """
    ids = torch.arange(2, 8, device=model.device)[None]
    training, _ = model.training, model.eval()
    hidden = model.base_model(input_ids=ids).last_hidden_state
    same = torch.allclose(
        model.get_output_embeddings()(hidden), model(ids).logits, rtol=1e-3, atol=1e-3
    )
    model.train(training)
    if not same:
        raise ValueError(
            f"{type(model).__name__} changes its logits after the output layer; "
            "chatlib.train.models.AnswerLM would have to be taught how"
        )


def adapt(
    model: PreTrainedModel,
    config: StageConfig,
    task: str,
    recorder: Recorder,
    role: Role = "model",
) -> None:
    """Make ready for training as the settings of this role ask: adapters, checkpointing."""
    if lora := config.of(role, "lora"):
        recorder.say(add_lora(model, lora, task))
    if config.of(role, "gradient_checkpointing"):
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()


def add_lora(model: PreTrainedModel, lora: Lora, task: str) -> str:
    """Give a model adapters as its only trained weights; returns a line with their share.

    Raises `ValueError` when no layer has one of the names: LoRA that matches nothing would
    train nothing, silently. ``task`` is CAUSAL_LM or SEQ_CLS (whose score head trains too).
    """
    from peft import LoraConfig, get_peft_model

    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    matched = [n for n in linear if n.split(".")[-1] in lora.lora_module_name]
    if not matched:
        names = sorted({n.split(".")[-1] for n in linear})
        raise ValueError(
            f"lora_module_name {lora.lora_module_name} matches no layer; "
            f"this model has {', '.join(names)}"
        )
    wrapped = get_peft_model(
        model,
        LoraConfig(
            r=lora.lora_dim,
            lora_alpha=lora.lora_alpha,  # type: ignore[arg-type]  # peft divides it: any number
            lora_dropout=lora.lora_dropout,
            target_modules=lora.lora_module_name,
            layers_to_transform=upper_layers(model, lora),
            task_type=task,
        ),
    )
    trained, total = wrapped.get_nb_trainable_parameters()
    share = 100 * trained / total
    return f"LoRA: {len(matched)} layers, {trained} of {total} weights ({share:.2f} %)"


def upper_layers(model: PreTrainedModel, lora: Lora) -> list[int] | None:
    """Which blocks get adapters, by number; None for all. Raises `ValueError` for too many."""
    if lora.top_layers is None:
        return None
    layers = model.config.get_text_config().num_hidden_layers
    if lora.top_layers > layers:
        raise ValueError(f"lora top_layers {lora.top_layers}: this model has {layers} layers")
    return list(range(layers - lora.top_layers, layers))


def merged_state(state: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """A model's weights with its adapters, if any, added into the layers they adapt."""
    if not state or not hasattr(model, "peft_config"):
        return state
    from peft import get_peft_model

    adapters = cast("PeftConfig", model.peft_config["default"])  # transformers knows less of it
    twin = get_peft_model(type(model)(model.config), adapters)
    twin.get_base_model().load_state_dict(state)
    return twin.merge_and_unload().state_dict()
