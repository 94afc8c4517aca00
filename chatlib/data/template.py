"""One chat template for every stage, stored in the tokenizer: messages in, token ids out.

A dialogue is cut into segments at the edges of the assistant's turns and each segment is
tokenized by itself. So the mask of the answers needs no guessing, and an answer's tokens are
the ones that generation would produce after the same prompt, under any model's template.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from chatlib.data.schema import BadRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, END = "<|pad|>", "<|end|>"
ROLE_TOKENS = ["<|system|>", "<|user|>", "<|assistant|>"]

# <|system|>facts<|end|><|user|>question<|end|><|assistant|>answer<|end|>
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer (Sennrich et al. 2016) with the chat template stored in it.

    Texts are cut as GPT-2 cuts them (Radford et al. 2019): words, numbers and marks, each with
    its leading space. Every program that reads such models knows this split, and a code of three
    digits is one token, the same one wherever it stands, which makes it easy to copy.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, *ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=ROLE_TOKENS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give a tokenizer from elsewhere what it lacks; returns how many tokens were added.

    Without a chat template it gets ours and its tokens, and `<|end|>` ends a turn. Without a
    pad token of its own, or with pad = EOS, it gets `<|pad|>`: masks must never hide an end.
    """
    added = 0
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
        added += tokenizer.add_special_tokens({"extra_special_tokens": ROLE_TOKENS})
        added += tokenizer.add_special_tokens({"eos_token": END})
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        added += tokenizer.add_special_tokens({"pad_token": PAD})
    return added


@dataclass(frozen=True)
class Encoded:
    """Token ids of a dialogue; ``mask`` is 1 on the tokens of the assistant's turns."""

    ids: list[int]
    mask: list[int]

    def cut(self, length: int) -> Encoded:
        """The first ``length`` tokens."""
        return Encoded(self.ids[:length], self.mask[:length])


def render(
    tokenizer: PreTrainedTokenizerBase, dialogues: list[list[dict]], prompt: bool = False
) -> list[str]:
    """The dialogues as text; ``prompt`` opens the assistant's next turn at the end.

    A special token that stands in somebody's message is broken up, so that no content can end
    a turn or pose as another role.
    """
    if not dialogues:
        return []
    special = special_tokens(tokenizer)
    texts = tokenizer.apply_chat_template(
        [[_harmless(special, m) for m in messages] for messages in dialogues],
        tokenize=False,
        add_generation_prompt=prompt,
    )
    return cast("list[str]", texts)  # one text a dialogue, as they are several and not tokenized


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every text that becomes a special token, whether or not it has a role at present."""
    return [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]


def _harmless(special: list[str], message: dict) -> dict:
    content = message["content"]
    for token in special:
        if token in content:
            content = content.replace(token, token[:1] + " " + token[1:])
    return {"role": message["role"], "content": content}


def _segments(tokenizer: PreTrainedTokenizerBase, messages: list[list[dict]]) -> list[list[str]]:
    """Each dialogue's text in alternating parts: prompt, answer, prompt, answer, ...

    Raises `BadRecord` when the template rewrites earlier turns, which no mask could follow.
    """
    whole = render(tokenizer, messages)
    jobs = [(i, k) for i, turns in enumerate(messages) for k in _answers_of(turns)]
    opened = render(tokenizer, [messages[i][:k] for i, k in jobs], prompt=True)
    closed = _rendered_up_to(tokenizer, messages, jobs, whole)
    out: list[list[str]] = [[] for _ in messages]
    ends = [0] * len(messages)
    for (i, k), start, end in zip(jobs, opened, closed):
        if not (end.startswith(start) and whole[i].startswith(end)):
            raise BadRecord(
                f"the tokenizer's chat template writes turn {k} differently once more turns "
                "follow, so its tokens cannot be masked; give the tokenizer another template"
            )
        out[i] += [whole[i][ends[i] : len(start)], end[len(start) :]]
        ends[i] = len(end)
    return out


def _rendered_up_to(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[list[dict]],
    jobs: list[tuple[int, int]],
    whole: list[str],
) -> list[str]:
    """Dialogue i up to its turn k for each (i, k); one that ends there is in ``whole``."""
    last = [k + 1 == len(messages[i]) for i, k in jobs]
    rest = [messages[i][: k + 1] for (i, k), at_end in zip(jobs, last) if not at_end]
    cut = iter(render(tokenizer, rest))
    return [whole[i] if at_end else next(cut) for (i, _), at_end in zip(jobs, last)]


def _answers_of(turns: list[dict]) -> list[int]:
    return [k for k, m in enumerate(turns) if m["role"] == "assistant"]


def encode(tokenizer: PreTrainedTokenizerBase, dialogues: list[list[dict]]) -> list[Encoded]:
    """Token ids and answer masks of many dialogues (lists of messages) at once.

    Every answer ends with the end-of-sequence token, which is part of it; what a template
    writes after that token belongs to the next prompt.
    """
    segments = _segments(tokenizer, dialogues)
    flat = [text for parts in segments for text in parts]
    tokens = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
    return [_join(tokenizer.eos_token_id, [next(tokens) for _ in parts]) for parts in segments]


def _join(eos: int, parts: list[list[int]]) -> Encoded:
    ids: list[int] = []
    mask: list[int] = []
    for i, part in enumerate(parts):
        if i % 2 == 0:
            own = 0
        else:
            part = part if eos in part else [*part, eos]
            own = part.index(eos) + 1
        ids += part
        mask += [1] * own + [0] * (len(part) - own)
    while mask and not mask[-1]:  # after the last answer nothing is left to learn
        ids.pop(), mask.pop()
    return Encoded(ids, mask)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: list[list[dict]]
) -> list[list[int]]:
    """Token ids of prompts, the assistant's turn opened at the end."""
    if not prompts:
        return []
    texts = render(tokenizer, prompts, prompt=True)
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def encode_answers(
    tokenizer: PreTrainedTokenizerBase, prompts: list[list[dict]], answers: list[str]
) -> list[list[int]]:
    """Token ids of answers as they follow their prompts, each ending with end-of-sequence."""
    turns = [[*p, {"role": "assistant", "content": a}] for p, a in zip(prompts, answers)]
    segments = _segments(tokenizer, turns)
    last = [parts[-1] for parts in segments]
    tokens = tokenizer(last, add_special_tokens=False)["input_ids"] if last else []
    return [_join(tokenizer.eos_token_id, [[], ids]).ids for ids in tokens]


def decode(tokenizer: PreTrainedTokenizerBase, answers: list[list[int]]) -> list[str]:
    """Texts of answers' token ids, without special tokens."""
    return [t.strip() for t in tokenizer.batch_decode(answers, skip_special_tokens=True)]
