"""What an answer costs to give, as far as a machine is rented by the hour (chapter 14)."""

from __future__ import annotations

HOUR = 3600  # seconds
MILLION = 1_000_000


def per_million(price: float, rate: float, busy: float = 1.0) -> float:
    """Price of a million tokens, c = 10^6 p / (3600 u R).

    ``price`` p of an hour of the machine, ``rate`` R in tokens a second while it works, ``busy``
    the share u of the rented time in which it does. Raises `ValueError` outside 0 < u <= 1.
    """
    if not (rate > 0 and 0 < busy <= 1):
        raise ValueError(f"rate {rate} and busy {busy}; give a rate above 0 and a share up to 1")
    return MILLION * price / (HOUR * busy * rate)
