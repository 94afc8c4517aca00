"""Verifiable rewards: a function that checks an answer pays it, in place of a reward model.

A checker is named `MODULE:FUNCTION`; the function takes a record's ``meta`` and the answer's text
and returns what it pays, a number (True is 1). Lambert et al. 2024 (Tulu 3), section 6.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence

from chatlib.data.schema import Record

Checker = Callable[[dict, str], float]


def checker(name: str) -> Checker:
    """The function of a name. Raises `ValueError` when there is none."""
    module, _, function = name.partition(":")
    try:
        found: Checker = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"reward {name}: {error}; name a function of a module that python finds, as "
            "MODULE:FUNCTION"
        ) from error
    return found


def paid(name: str, records: Sequence[Record], answers: Sequence[str]) -> list[float]:
    """What a checker pays for answers to the records' prompts.

    Raises `ValueError` with the answer at which it failed, or for which it paid no finite number.
    """
    check = checker(name)
    return [_paid(name, check, record, text) for record, text in zip(records, answers)]


def _paid(name: str, check: Checker, record: Record, text: str) -> float:
    try:
        found = float(check(record.meta, text))
    except Exception as error:  # whatever somebody's function raises
        raise ValueError(
            f"reward {name} raised {type(error).__name__}: {error}, on the answer {text!r} to "
            f"{record.prompt[-1]['content']!r}; mend the checker"
        ) from error
    if not math.isfinite(found):
        raise ValueError(
            f"reward {name} paid {found} for the answer {text!r} to "
            f"{record.prompt[-1]['content']!r}; let it return a finite number"
        )
    return found
