"""Text into pieces: words of English and of Chinese, and how byte-pair encoding finds subwords.

The subword tokenizer that models use is trained by `template.train_tokenizer` (the `tokenizers`
library); `learn_merges` is the same algorithm in the open, for reading and for checking.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from types import ModuleType

_WORD = re.compile(r"\d+(?:[.,]\d+)*(?!\w)|\w+(?:['’]\w+)*|[^\w\s]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")

# Frequent words that say little about a topic: what search engines leave out, and what the
# experiment of chapter 2 removes. (Negations and question words are among them: see there.)
STOP_WORDS = frozenset(
    """a about all also am an and any are as at be been but by can could did do does for from had
    has have how i if in is it its just me my no not of on only or our please should so some than
    that the their them then there these they this to too very was we were what when where which
    who why will with within would yes you your""".split()
)


def is_chinese(text: str) -> bool:
    """Whether a text has a Chinese character: then words have no spaces between them."""
    return _HAN.search(text) is not None


def word_spans(text: str, language: str | None = None) -> list[tuple[int, int]]:
    """(start, end) of every word, number and punctuation mark, in order.

    `language` is `en` or `zh`; when not given, a text with Chinese characters is Chinese.
    Chinese is cut by jieba: the most probable path through a dictionary's words, and a hidden
    Markov model for what the dictionary lacks. Raises `ValueError` for another language.
    """
    language = language or ("zh" if is_chinese(text) else "en")
    if language == "en":
        return [match.span() for match in _WORD.finditer(text)]
    if language != "zh":
        raise ValueError(f"language {language!r} is unknown; use en or zh")
    return [(i, j) for word, i, j in dictionary().tokenize(text) if word.strip()]


def words(text: str, language: str | None = None) -> list[str]:
    """The words, numbers and punctuation marks of a text (see `word_spans`)."""
    return [text[i:j] for i, j in word_spans(text, language)]


def dictionary() -> ModuleType:
    """jieba, silent; its dictionary is loaded at first use (about a second)."""
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba


def without_stop_words(text: str) -> str:
    """An English text without stop words and punctuation, as some tutorials advise."""
    kept = [w for w in words(text, "en") if w[0].isalnum() and w.lower() not in STOP_WORDS]
    return " ".join(kept)


# --- byte-pair encoding


def learn_merges(counts: Mapping[str, int], n: int) -> list[tuple[str, str]]:
    """The first `n` merges of byte-pair encoding (Sennrich et al. 2016, algorithm 1).

    Words start as characters; again and again the most frequent pair of neighbours becomes one
    symbol. Of equally frequent pairs the one of older symbols wins, as in `tokenizers`.
    """
    split = {word: list(word) for word in counts}
    age = {symbol: i for i, symbol in enumerate(sorted({c for word in counts for c in word}))}
    merges: list[tuple[str, str]] = []
    while len(merges) < n:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in split.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], age[p[0]], age[p[1]]))
        merges.append(best)
        age.setdefault("".join(best), len(age))
        split = {word: merge(symbols, best) for word, symbols in split.items()}
    return merges


def merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """The symbols with every occurrence of the pair, from the left, made one symbol."""
    out: list[str] = []
    i = 0
    while i < len(symbols):
        met = tuple(symbols[i : i + 2]) == pair
        out.append("".join(pair) if met else symbols[i])
        i += 2 if met else 1
    return out


def apply_merges(word: str, merges: Iterable[tuple[str, str]]) -> list[str]:
    """The subwords of a word: its characters after all merges, in the order they were learnt."""
    symbols = list(word)
    for pair in merges:
        symbols = merge(symbols, pair)
    return symbols
