"""One server's part in moving authorizations: asking, being asked, and what it then knows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from licraft.core.commands import Adopt, Claim, Command, HandOver
from licraft.core.outcomes import DONE, OVERTAKEN, Claimed, Moved, Outcome
from licraft.core.record import Authorization
from licraft.core.state import PoolState, ServerState, ServerStatus
from licraft.errors import NotExecuted, OutcomeUnknown
from licraft.server import moves as moves_module
from licraft.server.grants import Grants
from licraft.server.moves import Moves
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.server.record_log import RecordLog, SavedRecord
from licraft.server.standing import Standing
from licraft.server.tokens import TokenFields
from licraft.testing import ManualClock, run_virtual

ANN = ("c", "ann", "ws1", 7, "cad.exe")
BOOT = "boot-1"
LEASE_S = 3.0


class Commands:
    """Stands for the proposer: keeps what it is given."""

    def __init__(self) -> None:
        self.attempted: list[Command] = []
        self.submitted: list[Command] = []
        self.futures: list[asyncio.Future[Outcome]] = []

    def attempt(self, *commands: Command) -> None:
        self.attempted += commands

    def submit(self, command: Command) -> asyncio.Future[Outcome]:
        self.submitted.append(command)
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]


class Stand:
    """Stands for the server's standing."""

    def __init__(self) -> None:
        self.incarnation = 2
        self.leased = True
        self.recovers = 0.0

    def acts(self) -> bool:
        return self.leased

    def recovering_s(self) -> float:
        return self.recovers


class Bench:
    """`beta`, incarnation 2, of a pool with alpha and gamma; it has a record log."""

    def __init__(self, directory: Path, *, incarnation: int = 2) -> None:
        state = PoolState("acme", "00" * 32, LEASE_S, 12.0, 0.1)
        for name in ("alpha", "beta", "gamma"):
            up = ServerStatus.UP
            state.servers[name] = ServerState(name, "", "", incarnation=2, status=up)
        machine = ReplicatedPool()
        machine.state = state
        self.state = state
        self.clock = ManualClock()
        self.log = RecordLog(directory / "record.log", BOOT)
        self.grants = Grants("beta", machine, self.clock, self.log)
        self.stand = Stand()
        self.stand.incarnation = incarnation
        self.commands = Commands()
        self.moves = Moves(
            "beta",
            self.grants,
            cast(Standing, self.stand),
            cast(Proposer, self.commands),
            self.clock,
        )
        if incarnation:
            self.grants.begin(incarnation, None, 0)
            self.grants.keep_log()

    def fields(self, id: str = "A", count: int = 2) -> TokenFields:
        """What the token of an authorization of gamma says."""
        token = self.grants.mint.seal(id, "cad", count, "gamma", 2, ANN)
        fields = self.grants.mint.open(token)
        assert fields is not None
        return fields

    def granted(self, id: str = "A", count: int = 2) -> Authorization:
        """An authorization on beta's own record."""
        return self.grants.grant("cad", id, count, ANN)

    def asked(self, id: str = "A", count: int = 2) -> None:
        """The log brings that gamma asks for an authorization of beta."""
        self.moves.claimed(Claimed(id, "cad", count, "beta", "gamma", 2))

    def on_disk(self) -> list[str]:
        """The ids that another process would find on record."""
        self.log.flush()
        saved = RecordLog(self.log._path, BOOT).load()
        return [a.id for a in saved.authorizations] if saved is not None else []


def came(id: str = "A", count: int = 2) -> Moved:
    return Moved(id, "cad", count, ANN, "gamma", "beta", False)


def went(id: str = "A", count: int = 2, *, adopted: bool = False) -> Moved:
    return Moved(id, "cad", count, ANN, "beta", "gamma", adopted)


# Asking


def test_a_claim_is_repeated_not_more_often_than_needed(tmp_path: Path) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        first = bench.moves.claim(bench.fields(), "gamma")
        assert bench.commands.attempted == [Claim("A", "cad", 2, "gamma", "beta", 2)]
        assert bench.moves.claim(bench.fields(), "gamma") is first
        assert len(bench.commands.attempted) == 1
        bench.clock.advance(1.1)
        assert bench.moves.claim(bench.fields(), "gamma") is first
        assert len(bench.commands.attempted) == 2

    run_virtual(program())


def test_so_many_claims_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def program() -> None:
        monkeypatch.setattr(moves_module, "MAX_CLAIMS", 2)
        bench = Bench(tmp_path)
        assert bench.moves.claim(bench.fields("A"), "gamma") is not None
        assert bench.moves.claim(bench.fields("B"), "gamma") is not None
        assert bench.moves.claim(bench.fields("C"), "gamma") is None
        assert bench.moves.claim(bench.fields("A"), "gamma") is not None
        assert len(bench.commands.attempted) == 2

    run_virtual(program())


def test_a_claim_that_nobody_repeats_is_dropped(tmp_path: Path) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        answer = bench.moves.claim(bench.fields(), "gamma")
        assert answer is not None
        bench.clock.advance(2 * LEASE_S - 0.1)
        bench.moves.tick()
        assert not answer.done()
        bench.clock.advance(0.2)
        bench.moves.tick()
        assert answer.cancelled()
        assert bench.moves.claim(bench.fields(), "gamma") is not answer

    run_virtual(program())


def test_who_went_down_or_came_back_answers_no_claim(tmp_path: Path) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        of_gamma = bench.moves.claim(bench.fields("A"), "gamma")
        of_alpha = bench.moves.claim(bench.fields("B"), "alpha")
        assert of_gamma is not None
        assert of_alpha is not None
        bench.moves.forget_claims("gamma")
        assert (of_gamma.cancelled(), of_alpha.cancelled()) == (True, False)

    run_virtual(program())


@pytest.mark.parametrize("count", [2, 0])
def test_a_claim_is_answered_by_what_the_log_brings(tmp_path: Path, count: int) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        answer = bench.moves.claim(bench.fields(), "gamma")
        assert answer is not None
        bench.moves.moved(came(count=count), 9)
        assert answer.result() is (count > 0)
        assert bench.grants.record.in_use.get("cad", 0) == count
        assert bench.grants.moved_index == (9 if count else 0)
        assert bench.on_disk() == (["A"] if count else [])

    run_virtual(program())


def test_an_adoption_is_proposed_once_at_a_time(tmp_path: Path) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        first = bench.moves.adopt(bench.fields(), "gamma", 7)
        assert bench.moves.adopt(bench.fields(), "gamma", 7) is first
        assert bench.commands.submitted == [Adopt("A", "cad", 2, ANN, "gamma", 7, "beta")]
        first.set_result(OVERTAKEN)
        await asyncio.sleep(0)
        bench.moves.adopt(bench.fields(), "gamma", 8)
        assert len(bench.commands.submitted) == 2

    run_virtual(program())


def test_what_came_does_not_replace_what_its_client_was_granted_meanwhile(tmp_path: Path) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        own = bench.granted()
        bench.moves.moved(came(), 9)
        assert bench.grants.record.get("A") is own
        assert bench.grants.record.in_use == {"cad": 2}

    run_virtual(program())


# Being asked


def test_who_has_it_sets_it_aside_and_hands_it_over(tmp_path: Path) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        bench.granted()
        bench.asked()
        assert bench.commands.submitted == [HandOver("A", "cad", 2, ANN, "beta", "gamma", 2)]
        record = bench.grants.record
        assert record.leaves("A")
        assert (record.get("A"), record.in_use) == (None, {"cad": 2})
        assert bench.on_disk() == ["A"]
        bench.asked()
        assert len(bench.commands.submitted) == 1
        bench.moves.moved(went(), 9)
        assert (len(record), record.in_use) == (0, {"cad": 0})
        assert bench.grants.moved_index == 9
        assert bench.on_disk() == []
        bench.commands.futures[0].set_result(DONE)
        await asyncio.sleep(0)
        assert len(record) == 0

    run_virtual(program())


@pytest.mark.parametrize(("id", "count"), [("B", 2), ("A", 1)])
def test_who_does_not_have_it_like_that_says_so(tmp_path: Path, id: str, count: int) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        own = bench.granted()
        bench.asked(id, count)
        (answer,) = bench.commands.submitted
        assert isinstance(answer, HandOver)
        assert (answer.id, answer.count) == (id, 0)
        assert bench.grants.record.get("A") is own

    run_virtual(program())


def test_without_a_lease_or_a_whole_record_nothing_is_said(tmp_path: Path) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        bench.granted()
        bench.stand.leased = False
        bench.asked()
        bench.stand.leased, bench.stand.recovers = True, 1.0
        bench.asked()
        bench.asked("B")
        bench.moves.claimed(Claimed("A", "cad", 2, "alpha", "gamma", 2))  # Another is asked.
        assert bench.commands.submitted == []

    run_virtual(program())


@pytest.mark.parametrize("fate", [OVERTAKEN, NotExecuted("it is another incarnation")])
def test_what_did_not_move_stays_and_counts_as_just_renewed(
    tmp_path: Path, fate: Outcome | Exception
) -> None:
    """Also once its server is back as another incarnation, whose log has no effect of it."""

    async def program() -> None:
        bench = Bench(tmp_path)
        bench.granted()
        bench.asked()
        bench.clock.advance(100.0)
        bench.grants.expire()
        if isinstance(fate, Exception):
            bench.grants.incarnation = 3
            bench.commands.futures[0].set_exception(fate)
        else:
            bench.commands.futures[0].set_result(fate)
        await asyncio.sleep(0)
        stayed = bench.grants.record.get("A")
        assert stayed is not None
        assert stayed.expires_s == pytest.approx(bench.clock.now() + 12.0 * 1.1)
        assert bench.grants.record.in_use == {"cad": 2}

    run_virtual(program())


def test_what_became_of_it_is_unknown_to_a_server_that_stops(tmp_path: Path) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        bench.granted()
        bench.asked()
        bench.commands.futures[0].set_exception(OutcomeUnknown("the server is stopping"))
        await asyncio.sleep(0)
        assert bench.grants.record.leaves("A")
        assert bench.on_disk() == ["A"]

    run_virtual(program())


def test_a_grant_of_the_same_id_outlives_what_left(tmp_path: Path) -> None:
    """A checkout that is repeated while its authorization is on its way to another server."""

    async def program() -> None:
        bench = Bench(tmp_path)
        bench.granted()
        bench.asked()
        newer = bench.granted(count=1)
        bench.moves.moved(went(), 9)
        assert bench.grants.record.get("A") is newer
        assert bench.grants.record.in_use == {"cad": 1}
        assert bench.on_disk() == ["A"]
        assert bench.grants.changed["A"] is newer

    run_virtual(program())


def test_what_was_adopted_while_this_server_was_down_is_struck(tmp_path: Path) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        bench.granted("A")
        bench.granted("B")
        bench.moves.moved(went("A", adopted=True), 9)
        assert [a.id for a in bench.grants.record] == ["B"]
        assert bench.grants.moved_index == 0
        assert bench.on_disk() == ["B"]

    run_virtual(program())


# What a process knows of what moved before it was up


def saved(*ids: str, moved_index: int = 0) -> SavedRecord:
    live = tuple(Authorization(id, "cad", 1, f"token-{id}", ANN, 0.0) for id in ids)
    return SavedRecord(1, BOOT, False, live, moved_index)


def recalled(bench: Bench, record: SavedRecord, *adopted: str) -> list[str] | None:
    known = bench.moves.recall(record, adopted)
    return None if known is None else sorted(a.id for a in known.authorizations)


def starting(directory: Path, record: SavedRecord, moved_index: int) -> Bench:
    """A process that is not up yet, and has read `record`."""
    bench = Bench(directory, incarnation=0)
    bench.grants._saved = record
    bench.state.servers["beta"].moved_index = moved_index
    return bench


def test_the_log_tells_what_the_record_does_not(tmp_path: Path) -> None:
    record = saved("A", "B", "C", moved_index=5)
    bench = starting(tmp_path, record, 8)
    bench.moves.moved(went("C", 1), 4)  # Before the record was written: C came back since.
    bench.moves.moved(came("D", 1), 5)
    bench.moves.moved(went("A", 1), 6)
    bench.moves.moved(came("E", 1), 7)
    bench.moves.moved(came("F", 1), 7)
    bench.moves.moved(went("F", 1), 8)
    assert recalled(bench, record, "B") == ["C", "E"]


def test_a_record_that_misses_a_move_is_not_believed(tmp_path: Path) -> None:
    record = saved("A", moved_index=5)
    assert recalled(starting(tmp_path, record, 5), record) == ["A"]
    assert recalled(starting(tmp_path, record, 6), record) is None


def test_an_adoption_from_it_makes_up_for_no_move_that_was_missed(tmp_path: Path) -> None:
    record = saved("A", moved_index=5)
    bench = starting(tmp_path, record, 6)
    bench.moves.moved(went("A", 1, adopted=True), 7)
    assert recalled(bench, record) is None


def test_a_move_that_a_snapshot_hid_is_missed_whatever_the_log_brings_after_it(
    tmp_path: Path,
) -> None:
    record = saved("A", moved_index=5)
    bench = starting(tmp_path, record, 6)
    assert not bench.moves.restored(0)
    bench.state.servers["beta"].moved_index = 9
    bench.moves.moved(came("B", 1), 9)
    assert recalled(bench, record) is None


def test_a_snapshot_that_hides_nothing_is_no_reason_to_wait(tmp_path: Path) -> None:
    record = saved("A", moved_index=5)
    bench = starting(tmp_path, record, 5)
    assert bench.moves.restored(0)
    bench.state.servers["beta"].moved_index = 9
    bench.moves.moved(came("B", 1), 9)
    assert bench.moves.restored(9)
    assert recalled(bench, record) == ["A", "B"]


def test_a_server_that_works_knows_by_the_index_whether_a_snapshot_hid_a_move(
    tmp_path: Path,
) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        bench.granted("A")
        bench.granted("B")
        bench.moves.moved(came("C", 1), 9)
        me = bench.state.servers["beta"]
        me.moved_index, me.gone = 9, {"A": ("gamma", 8)}
        assert bench.moves.restored(7)
        assert sorted(a.id for a in bench.grants.record) == ["B", "C"]
        me.moved_index = 10
        assert not bench.moves.restored(9)

    run_virtual(program())


def test_a_snapshot_takes_nothing_that_was_granted_after_its_namesake_had_gone(
    tmp_path: Path,
) -> None:
    async def program() -> None:
        bench = Bench(tmp_path)
        bench.granted("A")
        bench.state.servers["beta"].gone = {"A": ("gamma", 8)}
        assert bench.moves.restored(8)
        assert [a.id for a in bench.grants.record] == ["A"]

    run_virtual(program())
