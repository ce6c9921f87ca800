"""The record of distribution beside a naive one: what is in use, and when it runs out."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from licraft.core.record import Authorization, Record

TTL_S = 20.0
SLOT_S = 0.25  # the record may notice an expiry this much late, never early

ids = st.sampled_from([f"id{n}" for n in range(8)])
steps = st.sampled_from([0.0, 0.01, 0.24, 0.25, 0.3, 1.0, 5.0, 19.9, 20.0, 100.0, 1e5])


class RecordMachine(RuleBasedStateMachine):
    """Rows by id: feature, count and expiry."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self.rows: dict[str, tuple[str, int, float]] = {}
        self.leaving: dict[str, tuple[str, int]] = {}
        self.now_s = 1000.0

    @rule(id=ids, feature=st.sampled_from(["cad", "cam"]), count=st.integers(1, 5))
    def grant(self, id: str, feature: str, count: int) -> None:
        if id in self.rows:
            return
        authorization = Authorization(id, feature, count, f"t-{id}", ("", "", "", 0, ""), 0.0)
        self.record.grant(authorization, self.now_s, self.now_s + TTL_S)
        self.rows[id] = (feature, count, self.now_s + TTL_S)

    @rule(id=ids)
    def renew(self, id: str) -> None:
        authorization = self.record.find(f"t-{id}")
        assert (authorization is not None) == (id in self.rows)
        if authorization is not None:
            self.record.renew(authorization, self.now_s, self.now_s + TTL_S)
            feature, count, _ = self.rows[id]
            self.rows[id] = (feature, count, self.now_s + TTL_S)

    @rule(id=ids)
    def release(self, id: str) -> None:
        found = self.record.release(id)
        assert (found is not None) == (self.rows.pop(id, None) is not None)

    @rule(id=ids)
    def leave(self, id: str) -> None:
        if id in self.leaving:
            return
        found = self.record.leave(id)
        row = self.rows.pop(id, None)
        assert (found is not None) == (row is not None)
        if row is not None:
            self.leaving[id] = row[:2]

    @rule(id=ids)
    def left(self, id: str) -> None:
        found = self.record.left(id)
        assert (found is not None) == (self.leaving.pop(id, None) is not None)

    @rule(step_s=steps)
    def wait(self, step_s: float) -> None:
        self.now_s += step_s

    @rule(step_s=steps)
    def sweep(self, step_s: float) -> None:
        self.now_s += step_s
        gone = {authorization.id for authorization in self.record.expire(self.now_s)}
        due = {id for id, (_, _, expires_s) in self.rows.items() if expires_s <= self.now_s}
        overdue = {id for id in due if self.rows[id][2] <= self.now_s - SLOT_S}
        assert overdue <= gone <= due
        for id in gone:
            del self.rows[id]

    @rule()
    def clear(self) -> None:
        self.record.clear()
        self.rows.clear()
        self.leaving.clear()

    @invariant()
    def agrees(self) -> None:
        in_use: dict[str, int] = {}
        held = [row[:2] for row in self.rows.values()] + list(self.leaving.values())
        for feature, count in held:
            in_use[feature] = in_use.get(feature, 0) + count
        assert {f: n for f, n in self.record.in_use.items() if n} == in_use
        found = {id: self.record.get(id) for id in self.rows}
        assert {i: (a.feature, a.count, a.expires_s) for i, a in found.items() if a} == self.rows
        assert {id for id in self.leaving if self.record.leaves(id)} == set(self.leaving)
        ids_on_record = sorted(authorization.id for authorization in self.record)
        assert ids_on_record == sorted([*self.rows, *self.leaving])
        assert len(self.record) == len(self.rows) + len(self.leaving)


TestRecord = RecordMachine.TestCase
TestRecord.settings = settings(stateful_step_count=50)
