"""The same scenarios with new words of one kind: what a loss of grounding is due to.

The shop's held-out scenarios change names, products and phrasings together. Here each can be
changed alone, in scenarios that stay the same otherwise, so that two answers can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

from chatlib.data import shop
from chatlib.data.shop_text import (
    ADJECTIVES,
    CITIES,
    HELD_OUT_NAMES,
    HELD_OUT_QUESTIONS,
    NAMES,
    NOUNS,
)

WORDS = ("names", "products", "phrasings")
HELD_OUT_PRODUCTS = [
    f"{adjective} {noun}"
    for a, adjective in enumerate(ADJECTIVES)
    for n, noun in enumerate(NOUNS)
    if (a + 3 * n) % 7 == 0
]


def renewed(
    cases: Sequence[shop.Scenario], kinds: Iterable[str], seed: int = 0
) -> list[shop.Scenario]:
    """The scenarios with words that no training has: of some of `WORDS`, all else the same."""
    unknown = set(kinds) - set(WORDS)
    if unknown:
        raise ValueError(f"no kind of words {sorted(unknown)}; use {', '.join(WORDS)}")
    return [_renewed(case, set(kinds), Random(f"{seed} {i}")) for i, case in enumerate(cases)]


def _renewed(case: shop.Scenario, kinds: set[str], rng: Random) -> shop.Scenario:
    name, city = rng.choice(HELD_OUT_NAMES), rng.choice(CITIES)
    products = rng.sample(HELD_OUT_PRODUCTS, 2)
    question = rng.choice(HELD_OUT_QUESTIONS[case.intent])
    if "names" in kinds:
        case = named(case, name)
    if "phrasings" in kinds:
        case = _rephrased(case, question, city)
    if "products" in kinds:
        case = _restocked(case, products)
    return case


def named(case: shop.Scenario, name: str) -> shop.Scenario:
    """The scenario of another customer."""
    context = re.sub(r"^customer \[NAME\|[^\]]*\]", f"customer [NAME|{name}]", case.context)
    return replace(case, customer=name, context=context)


def invented_name(rng: Random) -> str:
    """A name of one to four syllables that nobody has; the shop's own are left out."""
    starts, vowels, ends = "b d f g h j k l m n p r s t v z br st th".split(), "aeiou", "lnrs"
    while True:
        parts = [rng.choice(starts) + rng.choice(vowels) for _ in range(rng.randint(1, 4))]
        name = ("".join(parts) + rng.choice(["", *ends])).capitalize()
        if len(name) > 2 and name not in (*NAMES, *HELD_OUT_NAMES):
            return name


def _rephrased(case: shop.Scenario, question: str, city: str) -> shop.Scenario:
    """The scenario with another question; what the assistant asked in between stays."""
    person = re.search(r"phone\S* \S+ of \[NAME\|([^\]]*)\]", case.context)
    slots = {**case.facts, "city": city, "person": person[1] if person else ""}
    mine = tuple(text.format(**slots) for text in question.split(" // "))
    turns = mine if len(mine) == 1 else (mine[0], case.turns[1], mine[1])
    return replace(case, turns=turns)


def _restocked(case: shop.Scenario, products: list[str]) -> shop.Scenario:
    """The scenario with other products, the same one wherever the same one stood."""
    said = " ".join((case.context, *case.turns))
    old = list(dict.fromkeys([case.facts["product"], *re.findall(r"\[PRODUCT\|([^\]]*)\]", said)]))
    new = dict(zip(old, products))

    def swap(text: str) -> str:
        return re.sub(r"\[PRODUCT\|([^\]]*)\]", lambda m: f"[PRODUCT|{new[m[1]]}]", text)

    facts = {**case.facts, "product": new[case.facts["product"]]}
    return replace(
        case, facts=facts, context=swap(case.context), turns=tuple(map(swap, case.turns))
    )
