"""The only two records of the project: a dialogue, and a preference between two answers.

Messages are in the ecosystem's conversational form: a list of dicts with the keys
``role`` (``system``, ``user`` or ``assistant``) and ``content`` (text).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

ROLES = ("system", "user", "assistant")


class BadRecord(ValueError):
    """A record that cannot be used; the message names the field, the value and the remedy."""


def check_messages(messages: list[dict], where: str = "messages") -> None:
    """Raise `BadRecord` unless every message has a known role and some text."""
    if not isinstance(messages, list) or not messages:
        raise BadRecord(f"`{where}` holds no messages; give a list of role/content pairs")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRecord(
                f"`{where}[{i}]` is {type(message).__name__}; give a dict with `role` and `content`"
            )
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise BadRecord(f"`{where}[{i}].role` is {role!r}; use one of {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise BadRecord(f"`{where}[{i}].content` is empty; remove the turn or give it text")


@dataclass(frozen=True)
class Dialogue:
    """A conversation to imitate: ``messages`` end with the assistant's answer.

    ``meta`` carries what is known besides the text (source, intent, gold spans) and never
    takes part in training. Raises `BadRecord` when no assistant turn is there to learn from.
    """

    messages: list[dict]
    meta: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_messages(self.messages)
        if self.messages[-1]["role"] != "assistant":
            raise BadRecord(
                f"the last turn is from {self.messages[-1]['role']!r}; "
                "a dialogue to imitate ends with an assistant turn"
            )

    @property
    def prompt(self) -> list[dict]:
        """Everything before the last answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, of which an annotator preferred ``chosen``.

    ``prompt`` is a list of messages that ends with the user's turn. Raises `BadRecord` when
    an answer is empty or both are the same text (such a pair carries no preference).
    """

    prompt: list[dict]
    chosen: str
    rejected: str
    meta: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_messages(self.prompt, "prompt")
        for name in ("chosen", "rejected"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise BadRecord(f"`{name}` is empty; remove the pair or give it text")
        if self.chosen.strip() == self.rejected.strip():
            raise BadRecord("`chosen` equals `rejected`; remove the pair, it prefers nothing")

    def dialogue(self) -> Dialogue:
        """The preferred answer as a dialogue to imitate."""
        answer = {"role": "assistant", "content": self.chosen}
        return Dialogue([*self.prompt, answer], self.meta)


Record = Dialogue | Preference


def content_hash(messages: list[dict]) -> str:
    """A hash of roles and texts, equal on every machine; splits are made from a prompt's."""
    text = json.dumps([(m["role"], m["content"]) for m in messages], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
