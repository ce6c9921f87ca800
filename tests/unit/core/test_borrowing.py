"""When a server is insufficient and how much it wants: tables, and a dumb exact oracle."""

from __future__ import annotations

from fractions import Fraction

import pytest

from licraft.core.borrowing import insufficient, shortage, sufficient_allocation, surplus

THRESHOLDS = (0.1, 0.25, 1 / 3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 1.0)


@pytest.mark.parametrize(
    ("in_use", "allocation", "threshold", "lacks", "spares"),
    [
        (27, 33, 0.8, 1, 0),  # the example of the protocol: 0.818 > 0.8 >= 27 / 34
        (26, 33, 0.8, 0, 0),
        (24, 33, 0.8, 0, 3),
        (0, 33, 0.8, 0, 33),
        (33, 33, 0.8, 9, 0),
        (4, 5, 0.8, 0, 0),  # exactly at the threshold is sufficient
        (7, 10, 0.7, 0, 0),
        (8, 10, 0.7, 2, 0),
        (10, 10, 1.0, 0, 0),
        (11, 10, 1.0, 1, 0),
        (1, 0, 0.8, 2, 0),
        (0, 0, 0.8, 0, 0),
        (0, 1, 0.8, 0, 1),
        (1, 1, 0.01, 99, 0),
        (800_000, 1_000_000, 0.8, 0, 0),
        (800_001, 1_000_000, 0.8, 2, 0),
    ],
)
def test_shortage_and_surplus(
    in_use: int, allocation: int, threshold: float, lacks: int, spares: int
) -> None:
    assert shortage(in_use, allocation, threshold) == lacks
    assert surplus(in_use, allocation, threshold) == spares
    assert insufficient(in_use, allocation, threshold) is (lacks > 0)


def too_full(in_use: int, allocation: int, threshold: Fraction) -> bool:
    """B1 in exact numbers; nothing of nothing in use is not too much."""
    return Fraction(in_use, allocation) > threshold if allocation else in_use > 0


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_against_exact_fractions(threshold: float) -> None:
    # 0.7 means seven tenths, as the user wrote it, not the nearest binary number.
    exact = Fraction(str(threshold))
    if threshold == 1 / 3:
        exact = Fraction(1, 3)
    for allocation in range(41):
        for in_use in range(41):
            assert insufficient(in_use, allocation, threshold) == too_full(
                in_use, allocation, exact
            )
            n = 0
            while too_full(in_use, allocation + n, exact):
                n += 1
            assert shortage(in_use, allocation, threshold) == n
            gives = [
                n
                for n in range(allocation + 1)
                if not too_full(in_use, allocation - n, exact) and in_use <= allocation - n
            ]
            assert surplus(in_use, allocation, threshold) == max(gives, default=0)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_the_sufficient_allocation_is_the_least(threshold: float) -> None:
    for in_use in [*range(300), 99_999, 123_457, 1_000_000]:
        size = sufficient_allocation(in_use, threshold)
        assert not insufficient(in_use, size, threshold)
        assert size == 0 or size == in_use or insufficient(in_use, size - 1, threshold)
        assert size >= in_use
