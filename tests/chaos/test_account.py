"""The judge of a long run finds each kind of failure, and excuses what is to be excused."""

from __future__ import annotations

import pytest

from chaos.account import CHECKS, Span, account, limits, table, whole_spans
from chaos.histories import LENGTH_S, SERVERS, fault, held, quiet
from chaos.history import (
    AnyEntry,
    Audited,
    Checked,
    Denied,
    Exited,
    Finding,
    Order,
    Seen,
    Stalled,
    history_of,
)
from chaos.reports import FAR


def order(at_s: float, what: str, index: int, deployed: int | None = None, code: str = "") -> Order:
    return Order(at_s - 1.0, at_s, "alpha", what, code, index, "cad", deployed)


def seen(server: str, *conditions: tuple[float, str]) -> list[AnyEntry]:
    return [Seen(at_s, server, condition) for at_s, condition in conditions]


def checks(*entries: AnyEntry) -> list[str]:
    return [violation.check for violation in account(quiet(*entries)).violations]


def test_a_run_in_which_all_goes_well_has_no_violation() -> None:
    result = account(quiet())
    assert result.violations == ()
    assert result.figures["over-issue"] == "1 of 2 cad at most"
    assert "BROKEN" not in table(result)


@pytest.mark.parametrize(
    ("name", "entries", "broken"),
    [
        ("a seat too many", [held(103.0, 105.0, 2)], ["over-issue"]),
        ("a feature that nobody licensed", [held(109.5, 109.6, 3)], ["over-issue"]),
        (
            "more than was left after some were retired",
            [order(100.5, "-1 cad", 26, deployed=1), held(103.0, 104.0)],
            ["over-issue"],
        ),
        ("lost while all was well", [held(100.0, 130.0, 1, "expired", 118.0)], ["lost seats"]),
        ("lost by a server's word", [held(100.0, 123.0, 1, "no_seats", 119.0)], ["lost seats"]),
        (
            "lost although a majority was whole",
            [
                *fault(1, "kill", 118.0, 135.0, "beta"),
                held(100.0, 130.0, 1, "expired", 118.0),
            ],
            ["lost seats"],
        ),
        (
            "a server that does not come back",
            [*fault(1, "stop", 100.0, 105.0, "beta"), *seen("beta", (100.2, "paused"))],
            ["come back"],
        ),
        ("a server that crashed", [Exited(100.0, "beta", -6)], ["processes"]),
        (
            "a server that crashed while another was killed",
            [*fault(1, "kill", 99.0, 101.0, "alpha"), Exited(100.0, "beta", -9)],
            ["processes"],
        ),
        ("a license that lapsed", [Denied(100.0, "cad", "not_licensed")], ["license"]),
        ("an order that was forgotten", [order(100.0, "drain beta", 20)], ["orders"]),
        (
            "an order that was done three times",
            [
                order(90.0, "undrain beta", 30),
                order(100.0, "drain beta", 40),
                Audited([29, 36, 37, 38]),
            ],
            ["orders"],
        ),
        ("digests that differ", [Finding(600.0, "digests", "differ")], ["digests"]),
        ("an audit with a gap", [Finding(600.0, "audit", "gap")], ["audit"]),
        ("a seat that is missing", [Finding(600.0, "table", "1 of 2")], ["table"]),
        ("an error in a log", [Finding(600.0, "logs", "error")], ["logs"]),
        ("visitors that ended", [Finding(600.0, "suite", "ended")], ["suite"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_failure_is_found(name: str, entries: list[AnyEntry], broken: list[str]) -> None:
    assert checks(*entries) == broken
    assert set(broken) <= set(CHECKS)


def test_what_a_run_did_not_come_to_is_not_said_to_be_kept() -> None:
    history = quiet()
    entries = [e for e in history.entries if not isinstance(e, Audited | Checked)]
    result = account(type(history)(history.began, entries))
    assert result.unmade == {"table", "audit", "digests", "logs", "orders"}
    assert table(result).count("not checked") == 5
    assert not account(history).unmade


def test_a_pool_that_stands_still_is_found() -> None:
    entries = [e for e in quiet().entries if getattr(e, "from_s", 0.0) < 300.0]
    history = type(quiet())(quiet().began, entries)
    found = account(history).violations
    assert [(violation.check, violation.text) for violation in found] == [
        ("grants", "nothing was granted for 310 s")
    ]


def test_servers_that_are_drained_need_not_grant() -> None:
    entries = [e for e in quiet().entries if getattr(e, "from_s", 0.0) < 300.0]

    def still(drained: tuple[str, ...]) -> list[str]:
        """What is found where nothing is granted from 300 to 590, and these are drained."""
        states = [s for n in drained for s in seen(n, (299.0, "draining"), (595.0, "serving"))]
        down = fault(1, "kill", 301.0, 590.0, "alpha")
        back = seen("alpha", (301.5, "down"), (591.0, "serving"))
        history = history_of([*entries, *states, *down, *back, held(596.0, 600.0)])
        return [violation.text for violation in account(history).violations]

    assert still(("beta", "gamma")) == []
    (found,) = still(("beta",))
    assert found.startswith("nothing was granted for 30")


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        (
            "a majority was down",
            [
                *fault(1, "kill-all", 115.0, 127.0, *SERVERS),
                *(s for name in SERVERS for s in seen(name, (115.1, "down"), (129.0, "serving"))),
                held(100.0, 128.0, 1, "expired", 116.0),
            ],
        ),
        (
            "it was cut off with a minority",
            [
                *fault(1, "minority", 115.0, 135.0, "beta", far_cut=True),
                held(100.0, 128.0, 1, "expired", 116.0, FAR),
            ],
        ),
        (
            "the machine stood still",
            [Stalled(128.0, 10.0, "visitors"), held(100.0, 129.0, 1, "expired", 117.0)],
        ),
        (
            "the disk was full",
            [*fault(1, "disk-full", 99.0, 101.0, "beta"), Exited(100.0, "beta", 70)],
        ),
        ("it was killed", [*fault(1, "kill", 99.0, 101.0, "beta"), Exited(99.1, "beta", -9)]),
        (
            "fewer were asked for, and then all again",
            [
                order(100.5, "-1 cad", 26, deployed=1),
                order(102.5, "+1 cad", 27, deployed=2),
                Audited([27]),
                held(103.0, 104.0),
            ],
        ),
        (
            "an order was done though its answer was lost",
            [
                order(90.0, "undrain beta", 30),
                order(95.0, "drain beta", 0, code="outcome_unknown"),
                order(100.0, "drain beta", 40),
                Audited([29, 36, 38]),
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_a_cause_is_excused(name: str, entries: list[AnyEntry]) -> None:
    assert checks(*entries) == []


def test_a_majority_is_whole_again_when_its_servers_were_seen_to_serve() -> None:
    history = quiet(
        *fault(1, "stop-majority", 100.0, 110.0, "alpha", "beta"),
        *seen("alpha", (100.5, "paused"), (112.0, "serving")),
        *seen("beta", (100.5, "paused"), (114.0, "serving")),
    )
    assert whole_spans(history) == [Span(0.0, 100.0), Span(112.0, LENGTH_S)]


def test_there_are_as_many_seats_as_the_administrator_may_have_made() -> None:
    history = quiet(
        order(100.0, "-1 cad", 26, deployed=1), order(200.0, "+1 cad", 0, code="outcome_unknown")
    )
    assert [(limit.at_s, limit.seats) for limit in limits(history, "cad")] == [
        (0.0, 2),
        (100.0, 1),
        (199.0, 2),
    ]


def test_a_table_names_what_was_broken() -> None:
    text = table(account(quiet(held(103.0, 105.0, 2))))
    assert "over-issue   BROKEN 1x" in text
    assert "VIOLATED: 3 seats of cad were relied upon, 2 exist" in text
