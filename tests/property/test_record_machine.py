"""The record of distribution of a server at random, in memory and on disk, beside a dumb one.

Grants, queues, heartbeats, checkins, strikes, moves to and from other servers, expiry, crashes
and what is believed after them. What a server decides before it comes to its record (leases,
borrowing, who may ask) is not played here.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.pools import ALPHA, FEATURES, licensed
from support.profiles import examples, notices
from support.record_oracle import RecordOracle, Request
from support.strategies import clients, features, record_ids, record_pauses_s, seats

from licraft.core.commands import Reason
from licraft.core.outcomes import Code
from licraft.core.record import Authorization, Record
from licraft.core.table import FeaturePool
from licraft.server.desk import Decision, Denial, Desk
from licraft.server.grants import Grants
from licraft.server.pool import ReplicatedPool
from licraft.server.record_log import RecordLog, SavedRecord
from licraft.server.tokens import ClientFields
from licraft.testing import ManualClock

TTL_S, DRIFT = 20.0, 0.01
LATE_S = 0.25
"""An expiry may be noticed so much late, and never early."""
SEATS = 8

pytestmark = pytest.mark.timeout(400)  # a failing history takes a while to shrink


class RecordMachine(RuleBasedStateMachine):
    """One server and its file, through several lives."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="record-"))
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.pool = ReplicatedPool()
        self.pool.state = licensed(0).state
        state = self.pool.state
        state.secret, state.ttl_s, state.drift = "ab" * 32, TTL_S, DRIFT
        for name in FEATURES:
            state.table.features[name] = FeaturePool(
                name, SEATS, deployed=SEATS, allocations={ALPHA: SEATS}
            )
        self.oracle = RecordOracle(
            TTL_S * (1 + DRIFT), dict.fromkeys(FEATURES, SEATS), dict.fromkeys(FEATURES, True)
        )
        self.boot, self.incarnation = 1, 1
        self.decisions: list[tuple[Request, asyncio.Future[Decision]]] = []
        self.grants = self.start()
        self.grants.begin(1, None, 0)
        self.follow()

    def teardown(self) -> None:
        self.log.abandon()
        self.loop.close()
        shutil.rmtree(self.directory)

    # -- what the rules share -----------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self.clock.now()

    def start(self) -> Grants:
        """A process begins, and reads what the one before has left."""
        self.freed: list[str] = []
        self.log = RecordLog(self.directory / "record", f"boot-{self.boot}")
        grants = Grants(ALPHA, self.pool, self.clock, self.log)
        grants.may_act = lambda: self.oracle.acts
        grants.on_freed = lambda desk: self.freed.append(desk.feature)
        return grants

    def follow(self) -> None:
        self.grants.keep_log()
        self.oracle.follow(self.now_s, self.incarnation, f"boot-{self.boot}")

    def desk(self, feature: str) -> Desk:
        return self.grants.desk(feature)

    def free_id(self, id: str) -> bool:
        """Whether a request of this id is a new one, as the calls of clients see to it."""
        gone = self.grants.has_gone(id)
        assert gone == (id in self.oracle.aside)
        return not gone and id not in self.oracle.rows

    def allocate(self, feature: str, count: int) -> None:
        """Seats come to this server, or go."""
        pool = self.pool.state.table.features[feature]
        pool.allocations[ALPHA] += count
        pool.deployed += count
        pool.entitled += count
        self.oracle.seats[feature] += count

    # -- clients ------------------------------------------------------------------------------

    @rule(id=record_ids, feature=features, count=seats, client=clients)
    def check_out(self, id: str, feature: str, count: int, client: ClientFields) -> None:
        if not self.free_id(id):
            return
        granted = self.grants.request(self.desk(feature), id, count, client)
        room = not self.oracle.line(feature) and count <= self.oracle.unused(feature)
        assert (granted is not None) == room
        if granted is not None:
            self.oracle.hold(self.now_s, id, feature, count, client)
            fields = self.grants.mint.open(granted.token)
            assert fields is not None
            said = (fields.id, fields.feature, fields.count, fields.server, fields.incarnation)
            assert said == (id, feature, count, ALPHA, self.incarnation)

    @rule(id=record_ids, feature=features, count=seats, client=clients, other=record_ids)
    def wait(self, id: str, feature: str, count: int, client: ClientFields, other: str) -> None:
        """Join the queue; the same request may wait there twice, as one that is repeated."""
        if not self.free_id(id):
            return

        async def enqueue() -> asyncio.Future[Decision]:
            desk = self.desk(feature)
            return self.grants.enqueue(desk, id, count, client, Reason.REQUEST, 10.0, 10.0)

        decision = self.loop.run_until_complete(enqueue())
        request = Request(id, feature, count, client)
        self.oracle.queue.append(request)
        self.decisions.append((request, decision))
        self.serve(feature)
        self.check_out(other, feature, 1, client)  # Whoever comes now comes later.

    @precondition(lambda self: any(not request.said for request, _ in self.decisions))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Somebody does not wait any more."""
        waiting = [pair for pair in self.decisions if not pair[0].said]
        request, decision = data.draw(st.sampled_from(waiting))
        decision.cancel()
        request.said = "gave up"

    @rule(code=st.sampled_from([Code.DRAINING, Code.NO_QUORUM]))
    def turn_away(self, code: Code) -> None:
        self.grants.turn_away(code)
        for request in self.oracle.queue:
            request.said = request.said or str(code)
        self.oracle.queue.clear()

    @rule(feature=features)
    def serve(self, feature: str) -> None:
        self.grants.serve(self.desk(feature))
        self.oracle.serve(self.now_s, feature)

    @rule(id=record_ids)
    def heartbeat(self, id: str) -> None:
        """Only what is on record is renewed: not what is on its way to another server."""
        authorization = self.grants.record.get(id)
        assert (authorization is not None) == (id in self.oracle.rows)
        if authorization is not None:
            assert self.grants.record.find(authorization.token) is authorization
            self.grants.renew(authorization)
            row = self.oracle.rows[id]
            self.oracle.hold(self.now_s, id, row.feature, row.count, row.client)

    @rule(id=record_ids, struck=st.booleans(), crash=st.sampled_from([False] * 4 + [True]))
    def check_in(self, id: str, struck: bool, crash: bool) -> None:
        done = self.grants.strike(id) if struck else bool(self.grants.release(id))
        assert done == self.oracle.ends(self.now_s, id)
        if struck and done:
            self.oracle.struck.append(id)
        if done and crash:
            self.restart(written=True, end="killed")

    # -- other servers ------------------------------------------------------------------------

    @rule(feature=features, count=st.integers(1, 4))
    def lend(self, feature: str, count: int) -> None:
        """Seats are promised to another server, and go; what is promised is not granted."""
        promised = self.oracle.promised.get(feature, 0)
        if promised:
            self.oracle.promised[feature] = self.desk(feature).set_aside = 0
            self.allocate(feature, -promised)
        else:
            count = min(count, self.grants.unused(self.desk(feature)))
            self.oracle.promised[feature] = self.desk(feature).set_aside = count

    @rule(feature=features, count=st.integers(1, 4))
    def borrow(self, feature: str, count: int) -> None:
        if self.oracle.seats[feature] <= 2 * SEATS:
            self.allocate(feature, count)
        self.serve(feature)

    @rule(id=record_ids)
    def leave(self, id: str) -> None:
        if id in self.oracle.aside:
            return
        given = self.grants.leave(id)
        row = self.oracle.rows.pop(id, None)
        assert (given is not None) == (row is not None)
        if row is not None:
            self.oracle.aside[id] = row

    @rule(id=record_ids)
    def left(self, id: str) -> None:
        """It is another's now: what was aside for that, or, as it was adopted, what is here."""
        rows = self.oracle.aside if id in self.oracle.aside else self.oracle.rows
        row = rows.pop(id, None)
        if row is not None:
            self.allocate(row.feature, -row.count)
        self.grants.left(id)

    @rule(id=record_ids)
    def stays(self, id: str) -> None:
        self.grants.stays(id)
        self.oracle.stays(self.now_s, id)

    @rule(id=record_ids, feature=features, count=seats, client=clients)
    def receive(self, id: str, feature: str, count: int, client: ClientFields) -> None:
        """One comes from another server, with its seats."""
        self.allocate(feature, count)
        self.oracle.moved_index += 1
        self.pool.state.servers[ALPHA].moved_index = self.oracle.moved_index
        self.grants.receive(feature, id, count, client)
        self.oracle.receive(self.now_s, id, feature, count, client)
        self.grants.know_moves(self.oracle.moved_index)

    @rule(id=record_ids, feature=features, count=seats, client=clients)
    def rebuild(self, id: str, feature: str, count: int, client: ClientFields) -> None:
        """A server that lost its record hears of what it had granted, by a token of its own."""
        if self.oracle.follows or not self.free_id(id) or count > self.oracle.unused(feature):
            return
        token = self.grants.mint.seal(id, feature, count, ALPHA, self.incarnation - 1, client)
        self.grants.readmit(feature, id, count, client, token)
        self.oracle.hold(self.now_s, id, feature, count, client)
        found = self.grants.record.find(token)
        assert found is not None
        assert found.id == id

    # -- time and fate ------------------------------------------------------------------------

    @rule(feature=features, valid=st.booleans())
    def relicense(self, feature: str, valid: bool) -> None:
        """The license grants nothing of a feature any more: it is not granted again."""
        pool = self.pool.state.table.features[feature]
        pool.retired = 0 if valid else 1
        self.oracle.licensed[feature] = valid
        self.serve(feature)

    @rule(acts=st.booleans())
    def lease(self, acts: bool) -> None:
        self.oracle.acts = acts

    @rule(pause_s=record_pauses_s, sweeps=st.booleans())
    def time_passes(self, pause_s: float, sweeps: bool) -> None:
        self.clock.advance(pause_s)
        if not sweeps:
            return
        before = {id: self.grants.record.get(id) for id in self.oracle.rows}
        due = {id for id, row in self.oracle.rows.items() if row.until_s <= self.now_s}
        overdue = {id for id in due if self.oracle.rows[id].until_s <= self.now_s - LATE_S}
        rows = dict(self.oracle.rows)
        self.freed = []
        self.grants.expire()
        left = {id(authorization) for authorization in self.grants.record}
        gone = {name for name, authorization in before.items() if id(authorization) not in left}
        assert overdue <= gone <= due
        assert set(self.freed) == {rows[name].feature for name in gone}
        for name in gone:
            del self.oracle.rows[name]
        for feature in dict.fromkeys(rows[name].feature for name in gone):
            self.oracle.serve(self.now_s, feature)

    @rule()
    def flush(self) -> None:
        self.log.flush()
        self.oracle.write()
        if self.oracle.disk is not None:
            self.oracle.disk.orderly = False

    @rule()
    def forget(self) -> None:
        """What it had granted is reclaimed, or not known to be right any more."""
        self.grants.forget()
        self.oracle.forget()
        assert not (self.directory / "record").exists()

    @rule()
    def recovered(self) -> None:
        self.follow()

    @rule(
        written=st.booleans(),
        end=st.sampled_from(["killed", "killed", "stopped", "reboot", "other life"]),
    )
    def restart(self, written: bool, end: str) -> None:
        """A process ends, and the next begins; somebody else may have lived in between."""
        if end == "stopped":
            self.log.close_orderly()
            self.oracle.write()
            if self.oracle.disk is not None:
                self.oracle.disk.orderly = True
        elif written:
            self.flush()
        self.log.abandon()
        self.boot += end in ("stopped", "reboot")
        self.incarnation += 1 + (end == "other life")
        self.decisions.clear()
        self.grants = self.start()
        saved = self.grants.recall(self.incarnation - 1)
        boot = f"boot-{self.boot}"
        known = self.oracle.begin(self.now_s, self.incarnation, boot, lost=True)
        assert (saved is not None) == known
        if saved is not None:
            assert saved.moved_index == self.oracle.saved_index
        assert self.grants.recall(self.incarnation - 1) is None
        self.grants.begin(self.incarnation, saved, self.oracle.moved_index)
        if known:
            self.follow()

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def they_agree(self) -> None:
        record, oracle = self.grants.record, self.oracle
        held = {id: a for id in oracle.rows if (a := record.get(id)) is not None}
        assert {
            id: (a.feature, a.count, a.client, round(a.expires_s, 6)) for id, a in held.items()
        } == {
            id: (r.feature, r.count, r.client, round(r.until_s, 6)) for id, r in oracle.rows.items()
        }
        assert sorted(a.id for a in record) == sorted([*oracle.rows, *oracle.aside])
        assert len(record) == len(oracle.rows) + len(oracle.aside)
        for feature in FEATURES:
            assert record.in_use.get(feature, 0) == oracle.in_use(feature)
            assert self.grants.unused(self.desk(feature)) == oracle.unused(feature)
        for id in oracle.struck:
            assert self.grants.was_struck(id)

    @invariant()
    def no_seat_is_held_twice(self) -> None:
        for feature in FEATURES:
            promised = self.oracle.promised.get(feature, 0)
            assert self.oracle.in_use(feature) + promised <= self.oracle.seats[feature]

    @invariant()
    def who_waits_is_told(self) -> None:
        for request, decision in self.decisions:
            said = ""
            if decision.cancelled():
                said = "gave up"
            elif decision.done():
                result = decision.result()
                said = str(result.code) if isinstance(result, Denial) else "granted"
                assert not isinstance(result, Authorization) or result.id == request.id
            assert said == request.said

    @invariant()
    def others_are_told_what_changed(self) -> None:
        for id, authorization in self.grants.changed.items():
            if id not in self.oracle.aside:
                assert authorization is self.grants.record.get(id)


TestRecord = RecordMachine.TestCase
TestRecord.settings = examples(2)


# The machine finds what it looks for.


def _renews_nothing(self: Record, authorization: Authorization, now_s: float, end_s: float) -> None:
    """A heartbeat that is forgotten."""


def _expires_early(now_s: float, ttl_s: float, drift: float) -> float:
    """The difference of the clocks' rates is forgotten."""
    return now_s + ttl_s


Patch = pytest.MonkeyPatch
FAULTS: dict[str, Callable[[Patch], None]] = {
    "a heartbeat is forgotten": lambda patch: patch.setattr(Record, "renew", _renews_nothing),
    "it expires too early": lambda patch: patch.setattr(
        "licraft.server.grants.expiry", _expires_early
    ),
    "what leaves is free at once": lambda patch: patch.setattr(Record, "leave", Record.release),
    "a checkin is not written down": lambda patch: patch.setattr(
        RecordLog, "ended", lambda self, id: None
    ),
    "any record is believed": lambda patch: patch.setattr(
        SavedRecord, "trusted", lambda self, last_incarnation, boot: True
    ),
    "who comes later is served first": lambda patch: patch.setattr(
        Grants,
        "request",
        lambda self, desk, id, count, client: _served_first(self, desk, id, count, client),
    ),
}


def _served_first(
    grants: Grants, desk: Desk, id: str, count: int, client: ClientFields
) -> Authorization | None:
    """The queue is not looked at."""
    return None if count > grants.unused(desk) else grants.grant(desk.feature, id, count, client)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault](monkeypatch)
    assert notices(RecordMachine)
