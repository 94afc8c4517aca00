"""Labels on text: roles on tokens, entities on spans, classes on words, and their scores.

Entities and word classes are learnt by one method, the decision list (Rivest 1987; Yarowsky
1994): the most reliable clue decides, and can be shown as the reason.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chatlib.data.schema import Dialogue
from chatlib.data.segment import word_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int, str]  # start, end (exclusive), label, in characters of a text
OUTSIDE = "O"


# --- roles


def role_tags(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """Whose turn each token belongs to, the role token `<|role|>` itself included."""
    role, tags = OUTSIDE, []
    for token in tokenizer.convert_ids_to_tokens(ids):
        opens = re.fullmatch(r"<\|(system|user|assistant)\|>", token)
        role = opens[1] if opens else role
        tags.append(role)
    return tags


# --- the decision list


class Rule(NamedTuple):
    """If a word shows `clue`, its label is `label`; right in `share` of `seen` cases."""

    clue: tuple[str, ...]
    label: str
    share: float
    seen: int


def shape(word: str) -> str:
    """What a word looks like: `ddd` for 314, `Xx` for Ana, `x` for is, or the mark itself."""
    if word.isdigit():
        return "d" * len(word)
    if not word[0].isalnum():
        return word
    return "Xx" if word[0].isupper() else "x"


def clues(words: list[str], i: int, before: str) -> list[tuple[str, ...]]:
    """What may decide the label of word `i`, most specific first; `before` is the last label.

    Numbers stand for their shape: 314 and 271 are the same clue.
    """
    form = [shape(w) if w.isdigit() else w.lower() for w in ("<", *words, ">")][i : i + 3]
    left, word, right = form
    look = shape(words[i])
    return [
        ("words", left, word, right),
        ("left, word", left, word),
        ("word, right", word, right),
        ("word", word),
        ("left, shape, right", left, look, right),
        ("left, shape", left, look),
        ("shape, right", look, right),
        ("label, shape", before, look),
        ("ending", word[-3:], look),
        ("shape", look),
    ]


@dataclass(frozen=True)
class DecisionList:
    """A tagger: of the rules that apply to a word, the one with the highest share decides."""

    rules: dict[tuple[str, ...], Rule]

    @classmethod
    def fit(cls, sentences: Iterable[tuple[list[str], list[str]]]) -> DecisionList:
        """Count, for every clue, the labels of the words that show it.

        share = (n(clue, label) + 1/2) / (n(clue) + 1): a clue seen once is not yet reliable.
        """
        counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for words, labels in sentences:
            for i, label in enumerate(labels):
                for clue in clues(words, i, labels[i - 1] if i else OUTSIDE):
                    counts[clue][label] += 1
        rules = {}
        for clue, found in counts.items():
            (label, n), seen = found.most_common(1)[0], found.total()
            rules[clue] = Rule(clue, label, (n + 0.5) / (seen + 1), seen)
        return cls(rules)

    def reasons(self, words: list[str]) -> list[Rule]:
        """The deciding rule of each word; the earlier clue decides between equal shares."""
        found: list[Rule] = []
        nothing = Rule(("nothing",), OUTSIDE, 0.0, 0)
        for i in range(len(words)):
            seen = clues(words, i, found[-1].label if found else OUTSIDE)
            rules = [self.rules[clue] for clue in seen if clue in self.rules]
            found.append(max(rules, key=lambda r: r.share, default=nothing))
        return found

    def tag(self, words: list[str]) -> list[str]:
        """A label for each word."""
        return [rule.label for rule in self.reasons(words)]


# --- entities: spans <-> labels of words or tokens


def annotated(dialogues: Iterable[Dialogue]) -> list[tuple[str, list[Span]]]:
    """Every message that has gold spans in its dialogue's meta: (text, spans)."""
    out = []
    for dialogue in dialogues:
        by_message: dict[int, list[Span]] = {i: [] for i in range(len(dialogue.messages))}
        for i, *span in dialogue.meta["spans"]:
            by_message[i].append(tuple(span))
        out += [(dialogue.messages[i]["content"], found) for i, found in by_message.items()]
    return out


def labels_of(spans: list[Span], offsets: list[tuple[int, int]]) -> list[str]:
    """The label of each piece of text: that of the span it overlaps, else `O`.

    `offsets` are (start, end) of words, or a tokenizer's offset mapping: so spans are carried
    over to subwords. Pieces without characters (special tokens) are outside.
    """
    return [
        next((label for i, j, label in spans if max(i, start) < min(j, end)), OUTSIDE)
        for start, end in offsets
    ]


def spans_of(labels: list[str], offsets: list[tuple[int, int]], text: str) -> list[Span]:
    """Neighbouring pieces with one label as spans, without the spaces at their edges.

    Two entities of the same label that touch become one.
    """
    spans: list[Span] = []
    last = OUTSIDE
    for label, (start, end) in zip(labels, offsets):
        start += len(text[start:end]) - len(text[start:end].lstrip())
        if label != OUTSIDE:
            if label == last:
                start = spans.pop()[0]
            spans.append((start, end, label))
        last = label
    return spans


def fit_entities(examples: Iterable[tuple[str, list[Span]]]) -> DecisionList:
    """An entity tagger from texts with gold spans."""
    sentences = []
    for text, spans in examples:
        offsets = word_spans(text)
        sentences.append(([text[i:j] for i, j in offsets], labels_of(spans, offsets)))
    return DecisionList.fit(sentences)


def find_entities(tagger: DecisionList, text: str) -> list[Span]:
    """The entities of a text."""
    offsets = word_spans(text)
    return spans_of(tagger.tag([text[i:j] for i, j in offsets]), offsets, text)


# --- word classes of Chinese


def chinese_classes(text: str) -> list[tuple[str, str]]:
    """Words and classes of a Chinese text by jieba (ICTCLAS tags: n noun, v verb, r pronoun)."""
    from chatlib.data.segment import dictionary

    dictionary()
    import jieba.posseg

    return [(pair.word, pair.flag) for pair in jieba.posseg.cut(text) if pair.word.strip()]


# --- scores


class Scores(NamedTuple):
    """`precision` of what was found, `recall` of what is there, their harmonic mean `f1`."""

    precision: float
    recall: float
    f1: float
    gold: int


def score_spans(gold: list[list[Span]], found: list[list[Span]]) -> dict[str, Scores]:
    """Scores for each label and for `all` together; a span counts if edges and label agree.

    (The measure of CoNLL-2003, Tjong Kim Sang and De Meulder 2003.)
    """
    if len(gold) != len(found):
        raise ValueError(f"{len(gold)} texts with gold spans, {len(found)} with found ones")
    wanted = {(n, *span) for n, spans in enumerate(gold) for span in spans}
    given = {(n, *span) for n, spans in enumerate(found) for span in spans}
    labels = sorted({item[3] for item in wanted | given})
    table = {label: _scores(*(_of(label, s) for s in (wanted, given))) for label in labels}
    return {**table, "all": _scores(wanted, given)}


def _of(label: str, items: set) -> set:
    return {item for item in items if item[3] == label}


def _scores(wanted: set, given: set) -> Scores:
    right = len(wanted & given)
    precision = right / len(given) if given else 0.0
    recall = right / len(wanted) if wanted else 0.0
    f1 = 2 * right / (len(wanted) + len(given)) if wanted or given else 0.0
    return Scores(precision, recall, f1, len(wanted))


def accuracy(gold: list[list[str]], found: list[list[str]]) -> float:
    """Share of words with the right label."""
    pairs = [
        (g, f) for gs, fs in zip(gold, found, strict=True) for g, f in zip(gs, fs, strict=True)
    ]
    return sum(g == f for g, f in pairs) / max(len(pairs), 1)
