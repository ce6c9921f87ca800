"""A server's record of distribution: grant, renew, release, expire, with a manual time."""

from __future__ import annotations

import pytest

from licraft.core.record import Authorization, Record

TTL_S = 60.0
SLOT_S = 0.25  # expiry may be noticed this much late, never early


def seat(id: str, count: int = 1, feature: str = "cad") -> Authorization:
    return Authorization(id, feature, count, f"token-{id}", ("c", "ann", "ws1", 7, "cad.exe"), 0.0)


def granted(record: Record, id: str, now_s: float, count: int = 1) -> Authorization:
    authorization = seat(id, count)
    record.grant(authorization, now_s, now_s + TTL_S)
    return authorization


def ids(gone: list[Authorization]) -> set[str]:
    return {authorization.id for authorization in gone}


def test_grant_is_found_by_id_and_by_token_and_counted() -> None:
    record = Record()
    a = granted(record, "a", 100.0, count=3)
    record.grant(seat("b", 2, "cam"), 100.0, 160.0)
    assert record.get("a") is a is record.find("token-a")
    assert record.get("x") is None
    assert record.find("token-") is None
    assert record.in_use == {"cad": 3, "cam": 2}
    assert len(record) == 2
    assert [authorization.id for authorization in record] == ["a", "b"]
    assert (a.heard_s, a.expires_s) == (100.0, 160.0)


def test_an_id_is_granted_once() -> None:
    record = Record()
    granted(record, "a", 100.0)
    with pytest.raises(ValueError, match="authorization a is on record"):
        granted(record, "a", 101.0)
    assert record.in_use == {"cad": 1}


def test_release_gives_the_seats_back_once() -> None:
    record = Record()
    a = granted(record, "a", 100.0, count=3)
    granted(record, "b", 100.0)
    assert record.release("a") is a
    assert record.release("a") is None
    assert record.in_use == {"cad": 1}
    assert record.get("a") is record.find("token-a") is None
    assert ids(record.expire(1000.0)) == {"b"}


def test_expires_after_its_time_and_never_before() -> None:
    record = Record()
    granted(record, "a", 100.0)
    assert record.expire(159.99) == []
    assert record.in_use == {"cad": 1}
    assert ids(record.expire(160.0 + SLOT_S)) == {"a"}
    assert record.in_use == {"cad": 0}
    assert len(record) == 0
    assert record.release("a") is None


def test_a_renewal_counts_from_when_it_was_heard() -> None:
    record = Record()
    a = granted(record, "a", 100.0)
    for now_s in (120.0, 150.0, 209.9):
        record.renew(a, now_s, now_s + TTL_S)
        assert record.expire(now_s) == []
    assert a.heard_s == 209.9
    assert record.expire(269.8) == []
    assert ids(record.expire(269.9 + SLOT_S)) == {"a"}


def test_a_renewed_authorization_can_be_released_after_a_sweep_moved_it() -> None:
    record = Record()
    a = granted(record, "a", 100.0)
    record.renew(a, 150.0, 210.0)
    assert record.expire(170.0) == []
    assert record.release("a") is a
    assert record.expire(1000.0) == []


@pytest.mark.parametrize("pause_s", [1.0, 1e3, 1e6, 1e9])
def test_a_long_pause_costs_what_is_on_record_not_the_time(pause_s: float) -> None:
    record = Record()
    granted(record, "a", 100.0)
    assert record.expire(101.0) == []
    granted(record, "b", 101.0 + pause_s)
    assert ids(record.expire(101.0 + pause_s)) == ({"a"} if pause_s > 60 else set())
    assert ids(record.expire(101.0 + pause_s + TTL_S + SLOT_S)) == {"a", "b"} - (
        {"a"} if pause_s > 60 else set()
    )


def test_granted_already_overdue_goes_at_the_next_sweep() -> None:
    record = Record()
    record.expire(1000.0)
    record.grant(seat("a"), 900.0, 960.0)
    assert ids(record.expire(1000.0 + SLOT_S)) == {"a"}


def test_the_first_sweep_may_come_late() -> None:
    record = Record()
    for number in range(10):
        granted(record, str(number), 100.0 * number)
    assert ids(record.expire(560.0 + SLOT_S)) == set("012345")


def test_sweeping_the_same_time_again_finds_nothing() -> None:
    record = Record()
    granted(record, "a", 0.0)
    assert record.expire(0.0) == []
    assert ids(record.expire(100.0)) == {"a"}
    assert record.expire(100.0) == []
    assert record.expire(99.0) == []


def test_clear_forgets_everything() -> None:
    record = Record()
    granted(record, "a", 100.0)
    record.clear()
    assert (len(record), record.in_use, record.get("a")) == (0, {}, None)
    granted(record, "a", 100.0)
    assert ids(record.expire(1000.0)) == {"a"}


def test_a_hundred_thousand_are_swept_by_slots_not_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sweep files again only what came up: each authorization once for each ttl."""
    record = Record()
    total = 100_000
    seats = [granted(record, str(n), n * TTL_S / total) for n in range(total)]
    filed = 0
    file = Record._file

    def counting(self: Record, authorization: Authorization) -> None:
        nonlocal filed
        filed += 1
        file(self, authorization)

    monkeypatch.setattr(Record, "_file", counting)
    for authorization in seats:
        record.renew(authorization, TTL_S + 1, 2 * TTL_S + 1)
    assert filed == 0
    for tick in range(240, 481):
        assert record.expire(tick * SLOT_S) == []
    assert filed == total
    assert len(record.expire(2 * TTL_S + 1 + SLOT_S)) == total
    assert filed == total
    assert record.in_use == {"cad": 0}


def test_what_leaves_is_in_use_and_is_neither_found_nor_expires() -> None:
    record = Record()
    a = granted(record, "a", 100.0, count=3)
    granted(record, "b", 100.0)
    assert record.leave("a") is a
    assert record.leave("a") is None
    assert record.leaves("a")
    assert not record.leaves("b")
    assert record.get("a") is record.find("token-a") is record.release("a") is None
    assert record.in_use == {"cad": 4}
    assert (len(record), {authorization.id for authorization in record}) == (2, {"a", "b"})
    assert ids(record.expire(1000.0)) == {"b"}
    assert record.in_use == {"cad": 3}


def test_what_has_left_is_off_the_record_once() -> None:
    record = Record()
    a = granted(record, "a", 100.0, count=3)
    assert record.left("a") is None
    record.leave("a")
    assert record.left("a") is a
    assert record.left("a") is None
    assert not record.leaves("a")
    assert (len(record), record.in_use) == (0, {"cad": 0})
    granted(record, "a", 200.0, count=3)
    assert record.in_use == {"cad": 3}


def test_what_left_beside_a_newer_one_of_its_id_does_not_take_that_along() -> None:
    record = Record()
    granted(record, "a", 100.0, count=3)
    record.leave("a")
    newer = granted(record, "a", 101.0, count=1)
    assert record.in_use == {"cad": 4}
    record.left("a")
    assert record.get("a") is newer
    assert record.in_use == {"cad": 1}


def test_clear_forgets_what_leaves_too() -> None:
    record = Record()
    granted(record, "a", 100.0)
    record.leave("a")
    record.clear()
    assert not record.leaves("a")
    assert (len(record), record.in_use, record.left("a")) == (0, {}, None)
