"""Overlap metrics: BLEU (Papineni et al. 2002) through sacrebleu, ROUGE (Lin 2004) through
rouge-score, for English and Chinese, for a whole corpus and answer by answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

KINDS = ("rouge1", "rouge2", "rougeL")
_WORD = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")  # a Latin word or number; one Chinese character


class Words:
    """Tokenizer for rouge-score: its own cuts on English, one token a character on Chinese.

    rouge-score's default keeps only a-z and 0-9, so every Chinese text scores 0 with it.
    """

    def tokenize(self, text: str) -> list[str]:
        """The lower-case words, numbers and Chinese characters of ``text``, in order."""
        return _WORD.findall(text.lower())


def _paired(answers: Sequence[str], references: Sequence) -> list[list[str]]:
    """One list of references an answer. Raises ValueError when nothing pairs up."""
    if not answers:
        raise ValueError("`answers` is empty; an overlap metric needs at least one answer")
    if len(answers) != len(references):
        raise ValueError(
            f"{len(answers)} answers but {len(references)} references; give one (or a list) each"
        )
    return [[r] if isinstance(r, str) else list(r) for r in references]


def _tokenizer(language: str) -> str:
    """sacrebleu's name of the tokenizer for ``language``."""
    names = {"en": "13a", "zh": "zh"}
    if language not in names:
        raise ValueError(f"`language` is {language!r}; use one of {', '.join(names)}")
    return names[language]


def bleu(answers: Sequence[str], references: Sequence, language: str = "en") -> dict[str, float]:
    """Corpus BLEU, 0 to 100 (Papineni et al. 2002, section 2.3).

    BLEU = min(1, exp(1 - r/c)) * (p_1 p_2 p_3 p_4)^(1/4), with p_n the clipped n-gram
    precisions summed over the corpus, c the answers' length and r the references'.

    ``references`` holds one text, or a list of texts, for each answer. Returns ``bleu``,
    ``p1`` to ``p4`` (percent), ``brevity`` (the first factor) and ``length_ratio`` c/r.
    """
    from sacrebleu.metrics import BLEU

    lists = _paired(answers, references)
    most = max(map(len, lists))
    streams: Any = [[refs[i] if i < len(refs) else None for refs in lists] for i in range(most)]
    score = BLEU(tokenize=_tokenizer(language)).corpus_score(list(answers), streams)
    precisions = {f"p{n}": p for n, p in enumerate(score.precisions, 1)}
    ratio = {"brevity": score.bp, "length_ratio": score.sys_len / score.ref_len}
    return {"bleu": score.score, **precisions, **ratio}


def rouge(answers: Sequence[str], references: Sequence) -> dict[str, float]:
    """Mean ROUGE-1, ROUGE-2 and ROUGE-L F1 over the answers, 0 to 100 (Lin 2004)."""
    return per_answer(answers, references)[list(KINDS)].mean().to_dict()


def per_answer(answers: Sequence[str], references: Sequence, language: str = "en") -> pd.DataFrame:
    """BLEU and ROUGE of each answer by itself, 0 to 100: one row an answer.

    Columns ``bleu`` (smoothed, effective order: short answers have no 4-grams), ``rouge1``,
    ``rouge2``, ``rougeL`` (F1; of several references the best counts).
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    sentence = BLEU(tokenize=_tokenizer(language), effective_order=True)
    scorer = RougeScorer(list(KINDS), tokenizer=Words())
    rows = []
    for answer, refs in zip(answers, _paired(answers, references)):
        best = scorer.score_multi(refs, answer)
        row = {"bleu": sentence.sentence_score(answer, refs).score}
        rows.append(row | {kind: 100 * best[kind].fmeasure for kind in KINDS})
    return pd.DataFrame(rows)
