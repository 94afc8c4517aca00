"""What corpora share: decisions that fail, annotators who err, and the gate against word salad.

The shop came first and has these in its own module; an edit there would rename all of its runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from random import Random

from chatlib.data.corpora import Scenario, Verdict
from chatlib.data.schema import Dialogue, Preference
from chatlib.data.shop import plain, preference_probability, spans

Trigram = tuple[str, str, str]  # word classes of neighbours; "<" and ">" are a sentence's edges


def flaws(
    rng: Random, qualities: Mapping[str, float], odds: Mapping[str, Sequence[float]]
) -> tuple[str, frozenset[str]]:
    """(quality, flaws) of an answer: each decision goes wrong by itself, by the quality's odds."""
    quality = rng.choices(list(qualities), list(qualities.values()))[0]
    column = list(qualities).index(quality)
    return quality, frozenset(f for f, row in odds.items() if rng.random() < row[column])


def preferred(
    rng: Random, s: Scenario, draw: Callable[[], str], judge: Callable[[dict, str], Verdict]
) -> Preference:
    """Two different draws for one scenario, ordered by a simulated annotator."""
    a = b = draw()
    while b == a:
        b = draw()
    meta = s.meta()
    gold = {text: judge(meta, text).total for text in (a, b)}
    if rng.random() > preference_probability(gold[a], gold[b]):
        a, b = b, a
    return Preference(s.messages(), a, b, {**meta, "gold": [gold[a], gold[b]]})


def annotated(s: Scenario, texts: Sequence[str], decisions: dict) -> Dialogue:
    """A scenario with its answer, the last of its marked ``texts``, and the gold spans of all.

    Spans are ``[message, start, end, label]``.
    """
    gold = [[i, *span] for i, text in enumerate(texts) for span in spans(text)]
    messages = [*s.messages(), {"role": "assistant", "content": plain(texts[-1])}]
    return Dialogue(messages, {**s.meta(), **decisions, "spans": gold, "marked": list(texts)})


# ---------------------------------------------------------------------- fluency
def trigrams(
    sentences: Iterable[Sequence[str]], word_class: Callable[[str], str]
) -> Iterator[Trigram]:
    """The word-class trigrams of sentences, which are lists of words."""
    for words in sentences:
        tags = ["<", "<", *map(word_class, words), ">"]
        yield from zip(tags, tags[1:], tags[2:])


def fluency(
    sentences: Iterable[Sequence[str]],
    word_class: Callable[[str], str],
    known: Collection[Trigram],
) -> float:
    """Share of the trigrams that a corpus contains, 0 to 1; an unknown word fits anywhere."""
    grams = list(trigrams(sentences, word_class))
    return sum("?" in gram or gram in known for gram in grams) / max(len(grams), 1)
