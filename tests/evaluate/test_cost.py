"""The price of a million tokens, held against seconds counted one by one."""

import pytest

from chatlib.evaluate.cost import per_million


def test_a_price_a_second_over_a_rate():
    assert per_million(3.6, 1000) == pytest.approx(1)
    assert per_million(3.6, 1000, busy=0.5) == pytest.approx(2)


@pytest.mark.parametrize("price, rate, idle_every", [(0.10, 400, 4), (2.0, 37, 2), (1.5, 5000, 10)])
def test_counting_seconds_comes_to_the_same(price, rate, idle_every):
    """A machine that works in one of ``idle_every`` seconds, until a million tokens are there."""
    tokens = seconds = 0
    while tokens < 1_000_000:
        tokens += rate if seconds % idle_every == 0 else 0
        seconds += 1
    paid = seconds * price / 3600
    assert paid == pytest.approx(per_million(price, rate, 1 / idle_every), rel=0.01)


@pytest.mark.parametrize("rate, busy", [(0, 1), (-5, 1), (10, 0), (10, 1.5)])
def test_a_rate_or_a_share_that_cannot_be_gets_a_sentence(rate, busy):
    with pytest.raises(ValueError, match="give a rate above 0 and a share up to 1"):
        per_million(1.0, rate, busy)
