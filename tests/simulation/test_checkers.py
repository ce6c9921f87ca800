"""Each checker notices what it looks for, and nothing where all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from support.next_release import Note

from licraft.core.audit import FIRST, AuditRecord, AuditTail
from licraft.core.commands import Command, Reason, RenewLease, ServerDown
from licraft.core.license import LicenseFile
from licraft.core.priority import priority_list
from licraft.core.state import PoolState, ServerState, ServerStatus
from licraft.core.table import AllocationTable, FeaturePool, PendingBorrow
from licraft.testing import InProcessPool, run_virtual
from licraft.wire import CheckoutRequest
from simulation.checkers.acknowledged import Acknowledged, Told
from simulation.checkers.borrows import Borrows
from simulation.checkers.bounds import grown
from simulation.checkers.conserved import Conserved
from simulation.checkers.entry import Entry
from simulation.checkers.leader_list import LeaderList
from simulation.checkers.license_order import LicenseOrder
from simulation.checkers.one_order import OneOrder
from simulation.checkers.releases import Releases

DOWN = ServerDown("gamma", 1, 7)
RENEWED = RenewLease("gamma", 1, 8, {}, 0)


def entry(state: PoolState, index: int, *commands: Command, server: str = "alpha") -> Entry:
    return Entry(server, index, state, commands or (DOWN,), index - 1)


def state(**parts: Any) -> PoolState:
    servers = {
        name: ServerState(name, f"http://{name}", f"{name}:1", status=ServerStatus.UP)
        for name in ("alpha", "beta", "gamma")
    }
    return replace(PoolState("acme", servers=servers), **parts)


def test_states_that_differ_at_one_index_are_noticed() -> None:
    checker = OneOrder()
    assert checker.check(entry(state(), 32)) == ""
    assert checker.check(entry(state(), 32, server="beta")) == ""
    other = state(clock_s=9)
    assert "gamma and alpha differ" in checker.check(entry(other, 32, server="gamma"))
    # Only every so often: it is costly, and a state that differs once differs for good.
    assert checker.check(entry(other, 33, server="gamma")) == ""


def test_seats_that_do_not_add_up_are_noticed() -> None:
    pool = FeaturePool("cad", entitled=9, deployed=9, free=9)
    whole = state(table=AllocationTable({"cad": pool}))
    assert Conserved().check(entry(whole, 5)) == ""
    pool.free = 8
    assert "add up to 8, not 9" in Conserved().check(entry(whole, 5))
    assert Conserved().check(entry(whole, 5, RENEWED)) == ""


def license(sequence: int, text: str = "text") -> LicenseFile:
    return LicenseFile("acme", sequence, text, ())


def test_a_license_that_goes_back_or_changes_is_noticed() -> None:
    checker = LicenseOrder()
    assert checker.check(entry(state(license=license(2)), 5)) == ""
    assert checker.check(entry(state(license=license(3, "newer")), 6)) == ""
    assert "goes back from license 3 to 2" in checker.check(entry(state(license=license(2)), 7))
    another = entry(state(license=license(3, "other")), 8, server="beta")
    assert "another text under license 3" in checker.check(another)


def test_a_borrow_that_comes_again_is_noticed() -> None:
    borrow = PendingBorrow("alpha:1:1", "alpha", 2, 1, Reason.REQUEST, 5, hold=False)
    pool = FeaturePool("cad", pending={"alpha": borrow})
    table = AllocationTable({"cad": pool})
    checker = Borrows()
    assert checker.check(entry(state(table=table), 5)) == ""
    pool.pending = {}
    assert checker.check(entry(state(table=table), 6)) == ""
    pool.pending = {"alpha": borrow}
    assert "alpha:1:1" in checker.check(entry(state(table=table), 7))


def test_a_list_in_a_wrong_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    down = state()
    down.servers["beta"].status = ServerStatus.DOWN
    assert LeaderList().check(entry(down, 5)) == ""

    def asked(change: Any) -> str:
        monkeypatch.setattr(
            "simulation.checkers.leader_list.priority_list",
            lambda state, leader: change(priority_list(state, leader)),
        )
        return LeaderList().check(entry(down, 5))

    assert asked(lambda places: places) == ""
    assert "lists" in asked(lambda places: places[:-1])
    assert "one that is up" in asked(lambda places: sorted(places, key=lambda p: p.name))
    assert "leads" in asked(lambda places: sorted(places, key=lambda p: p.leads))


def audited(*orders: str) -> PoolState:
    records = tuple(
        AuditRecord(n + 1, n + 5, "", who, "", "add allocations", "", "", "done", FIRST)
        for n, who in enumerate(orders)
    )
    return state(audit=AuditTail(len(records), FIRST, records))


def test_what_was_said_of_an_order_and_is_not_so_is_noticed() -> None:
    checker = Acknowledged()
    assert "said to be done, and is not" in checker.told("order 1", Told.DONE)
    assert checker.check(entry(audited("order 1"), 5)) == ""
    assert checker.told("order 1", Told.DONE) == ""
    assert "said not to be done, and is" in checker.told("order 1", Told.NOT_DONE)
    assert checker.told("order 2", Told.NOT_DONE) == ""
    assert "was said not to" in checker.check(entry(audited("order 1", "order 2"), 6))
    again = audited("order 1", "order 2", "order 1")
    assert "took effect twice" in checker.check(entry(again, 7))
    assert checker.told("order 3", Told.UNKNOWN) == ""


def test_a_command_that_an_older_server_does_not_know_is_noticed() -> None:
    note = cast(Command, Note("news"))
    checker = Releases({"alpha": 2})
    assert checker.check(entry(state(), 5, note)) == ""
    assert "beta knows version 1" in checker.check(entry(state(), 5, note, server="beta"))
    assert checker.check(entry(state(), 5, server="beta")) == ""


def test_what_is_kept_though_all_is_quiet_is_noticed() -> None:
    async def program() -> list[str]:
        async with InProcessPool(3, raft=True) as pool:
            await pool.install({"cad": 9})
            assert list(grown(pool)) == []
            await pool.checkout("beta", CheckoutRequest("cad"))
            return list(grown(pool))

    (told,) = run_virtual(program())
    assert told == "beta keeps 1 authorizations, at most 0"
