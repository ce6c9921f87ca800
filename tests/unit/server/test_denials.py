"""What a denial says when there are seats that limits of borrowing keep elsewhere."""

from __future__ import annotations

import pytest

from licraft.core.commands import Limits
from licraft.core.outcomes import Code
from licraft.core.table import FeaturePool
from licraft.server.answers import Answers
from licraft.server.license_keeper import LicenseKeeper
from licraft.server.standing import Standing

ALL_IN_USE = 30


def detail(limits: dict[str, Limits], count: int = 1, in_use: int = 10) -> str:
    """The words for a request at beta, which has 10 of 30 seats."""
    pool = FeaturePool("cad", 30, deployed=30, allocations={"alpha": 20, "beta": 10}, limits=limits)
    answers = Answers("beta", object.__new__(Standing), object.__new__(LicenseKeeper))
    return answers.denied(Code.NO_SEATS, pool, count, in_use, waiting=0).detail


@pytest.mark.parametrize(
    ("limits", "count", "words"),
    [
        ({"beta": Limits(cap=10)}, 1, "beta has 10 of them, and may not borrow beyond 10"),
        ({"": Limits(cap=15)}, 20, "beta has 10 of them, and may not borrow beyond 15"),
        ({"beta": Limits(enabled=False)}, 1, "beta has 10 of them, and borrowing is off there"),
        ({"alpha": Limits(floor=20)}, 1, "others keep theirs"),
        ({"alpha": Limits(enabled=False)}, 1, "others keep theirs"),
    ],
)
def test_a_limit_that_keeps_seats_away_is_named(
    limits: dict[str, Limits], count: int, words: str
) -> None:
    assert words in detail(limits, count)


@pytest.mark.parametrize("limits", [{}, {"beta": Limits(floor=5, cap=40)}])
def test_nothing_is_said_of_limits_that_do_not_matter(limits: dict[str, Limits]) -> None:
    assert detail(limits) == "cad: none left, 10 of 30 seats are in use"


def test_nothing_is_said_of_limits_when_every_seat_is_in_use() -> None:
    assert detail({"beta": Limits(cap=10)}, in_use=ALL_IN_USE).endswith("30 seats are in use")
