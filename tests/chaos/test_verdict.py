"""The judge of the chaos suite finds what it is there for."""

from __future__ import annotations

import math

import pytest

from chaos.reports import FAR, NEAR, Hold, HolderReport, Renewal
from chaos.verdict import Bounds, Trouble, judge, percentile, served_after

BOUNDS = Bounds(lease_s=1.0, ttl_s=6.0, counts={"cad": 2})
TROUBLE = Trouble(10.0, 14.0, 16.0, victim="beta", has_far=True)


def report(
    *holds: Hold,
    beats: tuple[float, ...] = (8.0, 11.0),
    renewed: tuple[Renewal, ...] = (Renewal(8.0, 8.1, "beta"), Renewal(11.0, 12.0, "alpha")),
    side: str = NEAR,
    hungry: bool = False,
) -> HolderReport:
    return HolderReport(
        "cad", 1, side, hungry, list(holds or (Hold(5.0, 20.0),)), list(beats), list(renewed)
    )


def test_all_is_well_where_everybody_is_served_in_time() -> None:
    verdict = judge([report(), report()], TROUBLE, BOUNDS)
    assert verdict.violations == ()
    assert (verdict.holders, verdict.lost, verdict.served, verdict.over_issued) == (2, 0, 2, 0)
    assert (verdict.p99_s, verdict.healed_after_s) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("reports", "trouble", "said"),
    [
        ([report(Hold(5.0, 14.0, "expired"))], TROUBLE, "1 holders lost their seats: 1 expired"),
        ([report()] * 3, TROUBLE, "3 of cad were held, 2 exist"),
        (
            [report(), report(), report(Hold(19.0, 21.0), hungry=True)],
            TROUBLE,
            "3 of cad were held, 2 exist",
        ),
        (
            [report(renewed=(Renewal(8.0, 8.1, "beta"), Renewal(13.0, 14.5, "alpha")))],
            TROUBLE,
            "served again after 3.50 s at p99; the bound is 3 s",
        ),
        (
            [report(beats=(11.0,), renewed=(Renewal(1.0, 1.0, "beta"), Renewal(8.0, 8.6, "beta")))],
            TROUBLE,
            "not judged fairly: heartbeats took 0.60 s before it began",
        ),
        ([report(Hold(11.0, 20.0))], TROUBLE, "1 holders held nothing when it began"),
        (
            [report()],
            Trouble(10.0, 14.0, 23.5, "beta", True),
            "the seats added up after 9.5 s; the bound is 9 s",
        ),
        (
            [report()],
            Trouble(10.0, 14.0, None, "beta", True),
            "the seats added up after inf s; the bound is 9 s",
        ),
        (
            [report(Hold(5.0, 12.0, "no_seats"), side=FAR)],
            TROUBLE,
            "1 holders on the minority's side lost their seats before ttl",
        ),
    ],
)
def test_what_is_broken_is_found(reports: list[HolderReport], trouble: Trouble, said: str) -> None:
    assert judge(reports, trouble, BOUNDS).violations == (said,)


def test_seats_that_run_out_by_ttl_on_the_minority_s_side_are_no_violation() -> None:
    renewed = (Renewal(8.0, 8.1, "beta"),)
    far = report(Hold(5.0, 14.0, "expired"), renewed=renewed, side=FAR)
    later = report(Hold(14.0, 20.0), hungry=True)
    verdict = judge([far, report(), later], TROUBLE, BOUNDS)
    assert verdict.violations == ()
    assert (verdict.lost, verdict.ran_out) == (0, 1)


def test_a_holder_that_is_never_served_again_waits_for_ever() -> None:
    gone = report(Hold(5.0, 14.0, "expired"), renewed=(Renewal(8.0, 8.1, "beta"),))
    assert served_after(gone, 10.0) == math.inf
    assert served_after(report(beats=(8.0,)), 10.0) is None


def test_percentiles_are_values_of_the_list() -> None:
    assert percentile([], 0.99) == 0.0
    assert percentile([1.0], 0.5) == 1.0
    assert percentile([float(i) for i in range(1, 101)], 0.99) == 99.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
