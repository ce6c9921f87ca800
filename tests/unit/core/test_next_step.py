"""Whom the leader asks next: golden traces to read, and a dumb oracle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.pools import CAD, Pool, licensed

from licraft.core.borrowing import Ask, Exhausted, Give, Step, Wait, next_step
from licraft.core.commands import Level, Reason
from licraft.core.table import FeaturePool, PendingBorrow

FOUR = ("alpha", "beta", "gamma", "delta")
SPARE, UNUSED = Level.SPARE, Level.UNUSED


def hunt(
    pool: Pool, borrower: str, leader: str, gives: dict[tuple[str, Level], int | None]
) -> list[str]:
    """Lead a borrow to its end; `gives` says what each server answers, None for silence."""
    spare = {name: gives.get((name, SPARE)) or 0 for name in FOUR}
    passed: set[tuple[str, Level]] = set()
    trace: list[str] = []
    for _ in range(50):
        borrow = pool.feature().pending.get(borrower)
        if borrow is None:
            return [*trace, "served"]
        step = next_step(pool.feature(), borrow, leader, spare, passed)
        match step:
            case Exhausted():
                pool.end(borrower, exhausted=True)
                return [*trace, f"exhausted, lacks {borrow.want}"]
            case Give(level=level):
                count = gives.get((leader, level)) or 0
                trace.append(f"{leader} gives {count} {level}")
                pool.give(leader, count, borrower, level=level, leader=True)
            case Ask(giver=giver, level=level):
                trace.append(f"ask {giver} {level}")
                pool.solicit(giver, borrower, level)
            case Wait(giver=giver, level=level):
                count_or_none = gives.get((giver, level), 0)
                if count_or_none is None:
                    trace.append(f"{giver} is silent")
                    passed.add((giver, level))
                else:
                    trace.append(f"{giver} gives {count_or_none}")
                    pool.give(giver, count_or_none, borrower, level=level)
    raise AssertionError(f"no end: {trace}")


def test_within_thresholds_first_then_all_that_is_unused() -> None:
    pool = licensed(40, "alpha:10^beta:10^gamma:10^delta:10", FOUR)
    pool.borrow("delta", want=12)
    gives: dict[tuple[str, Level], int | None] = {
        ("alpha", SPARE): 1,
        ("beta", SPARE): 2,
        ("gamma", SPARE): 4,
        ("alpha", UNUSED): 1,
        ("beta", UNUSED): 1,
        ("gamma", UNUSED): 1,
    }
    assert hunt(pool, "delta", "alpha", gives) == [
        "alpha gives 1 spare",
        "ask gamma spare",
        "gamma gives 4",
        "ask beta spare",
        "beta gives 2",
        "alpha gives 1 unused",
        "ask gamma unused",
        "gamma gives 1",
        "ask beta unused",
        "beta gives 1",
        "exhausted, lacks 2",
    ]
    assert pool.seats() == {"alpha": 8, "beta": 7, "gamma": 5, "delta": 20}


def test_stops_at_the_first_who_has_enough() -> None:
    pool = licensed(40, "alpha:10^beta:10^gamma:10^delta:10", FOUR)
    pool.borrow("delta", want=3)
    gives: dict[tuple[str, Level], int | None] = {("alpha", SPARE): 0, ("beta", SPARE): 5}
    assert hunt(pool, "delta", "alpha", gives) == [
        "alpha gives 0 spare",
        "ask beta spare",
        "beta gives 5",
        "served",
    ]
    assert pool.seats() == {"alpha": 10, "beta": 7, "gamma": 10, "delta": 13}


def test_comfort_alone_leaves_the_others_within_their_thresholds() -> None:
    pool = licensed(40, "alpha:10^beta:10^gamma:10^delta:10", FOUR)
    pool.borrow("delta", want=3, need=0)
    assert hunt(pool, "delta", "alpha", {}) == [
        "alpha gives 0 spare",
        "ask beta spare",
        "beta gives 0",
        "ask gamma spare",
        "gamma gives 0",
        "exhausted, lacks 3",
    ]


def test_the_silent_are_passed_over_and_the_empty_are_not_asked() -> None:
    pool = licensed(30, "alpha:10^gamma:10^delta:10", FOUR)
    pool.borrow("delta", want=2)
    gives: dict[tuple[str, Level], int | None] = {
        ("gamma", SPARE): None,
        ("gamma", UNUSED): None,
    }
    assert hunt(pool, "delta", "alpha", gives) == [
        "alpha gives 0 spare",
        "ask gamma spare",
        "gamma is silent",
        "alpha gives 0 unused",
        "ask gamma unused",
        "gamma is silent",
        "exhausted, lacks 2",
    ]


def test_a_leader_that_borrows_asks_the_others() -> None:
    pool = licensed(30, "beta:10^gamma:10^delta:10", FOUR)
    pool.borrow("alpha", want=2)
    gives: dict[tuple[str, Level], int | None] = {("delta", SPARE): 1, ("beta", UNUSED): 9}
    assert hunt(pool, "alpha", "alpha", gives) == [
        "ask delta spare",
        "delta gives 1",
        "ask beta spare",
        "beta gives 0",
        "ask gamma spare",
        "gamma gives 0",
        "ask delta unused",
        "delta gives 0",
        "ask beta unused",
        "beta gives 9",
        "served",
    ]


def test_a_leader_without_seats_answers_once_so_that_the_free_pool_follows() -> None:
    pool = licensed(20, "beta:10", FOUR)
    pool.borrow("delta", want=15, reason=Reason.FAILOVER)
    assert hunt(pool, "delta", "alpha", {("beta", SPARE): 5}) == [
        "alpha gives 0 spare",
        "ask beta spare",
        "beta gives 5",
        "served",
    ]
    assert pool.seats() == {"beta": 5, "delta": 15}


def test_a_leader_that_borrows_for_failover_gets_the_free_pool_too() -> None:
    """B14: leader, free pool, down servers; here the leader is the one that lacks seats."""
    pool = licensed(20, "beta:10", FOUR)
    pool.borrow("alpha", want=3, reason=Reason.FAILOVER)
    assert hunt(pool, "alpha", "alpha", {}) == ["alpha gives 0 spare", "served"]
    assert pool.seats() == {"free": 7, "alpha": 3, "beta": 10}


def test_a_new_leader_goes_on_where_the_old_one_stopped() -> None:
    pool = licensed(40, "alpha:10^beta:10^gamma:10^delta:10", FOUR)
    pool.borrow("delta", want=20)
    assert pool.give("alpha", 1, "delta", leader=True).count == 1
    pool.solicit("gamma", "delta")
    assert pool.give("gamma", 2, "delta").count == 2
    pool.solicit("beta", "delta")
    spare = {"beta": 3, "gamma": 9}  # alpha, the old leader, is not functioning now
    step = next_step(pool.feature(), pool.pending("delta"), "beta", spare)
    assert step == Give(SPARE)
    assert pool.give("beta", 3, "delta", leader=True).count == 3
    step = next_step(pool.feature(), pool.pending("delta"), "beta", spare)
    assert step == Give(UNUSED)


def plan(
    pool: FeaturePool, borrow: PendingBorrow, leader: str, spare: dict[str, int]
) -> list[tuple[str, Level]]:
    """Everybody who can be asked, in the order of section 6, without regard to what was done."""
    others = [s for s in spare if s not in (leader, borrow.server) and pool.allocations.get(s, 0)]
    others = sorted(others, key=lambda s: -spare[s])
    first = [leader] if borrow.server != leader else []
    levels = [SPARE, UNUSED] if borrow.need else [SPARE]
    return [
        (server, level)
        for level in levels
        for server in first + others
        if server != leader or pool.allocations.get(leader, 0) or not borrow.leader_gave
    ]


def oracle(
    pool: FeaturePool,
    borrow: PendingBorrow,
    leader: str,
    spare: dict[str, int],
    passed: set[tuple[str, Level]],
) -> Step:
    """The first of the plan that is neither answered nor passed over."""
    if borrow.reason is Reason.FAILOVER and borrow.server == leader and not borrow.leader_gave:
        return Give(SPARE)  # B14 puts the leader first, even if it is the one that borrows
    answers = {s: [lv] if lv is SPARE else [SPARE, UNUSED] for s, lv in borrow.answered.items()}
    for server, level in plan(pool, borrow, leader, spare):
        if level in answers.get(server, []) or (server, level) in passed:
            continue
        if server == leader:
            return Give(level)
        asked = borrow.asked.get(server) == level
        return Wait(server, level) if asked else Ask(server, level)
    return Exhausted()


levels = st.dictionaries(st.sampled_from(FOUR), st.sampled_from([SPARE, UNUSED]))


@given(
    allocations=st.dictionaries(st.sampled_from(FOUR), st.integers(0, 5)),
    spare=st.dictionaries(st.sampled_from(FOUR), st.integers(0, 5)),
    leader=st.sampled_from(FOUR),
    need=st.integers(0, 2),
    reason=st.sampled_from(Reason),
    gave=st.booleans(),
    asked=levels,
    answered=levels,
    passed=st.sets(st.tuples(st.sampled_from(FOUR), st.sampled_from([SPARE, UNUSED]))),
)
def test_against_the_oracle(
    allocations: dict[str, int],
    spare: dict[str, int],
    leader: str,
    need: int,
    reason: Reason,
    gave: bool,
    asked: dict[str, Level],
    answered: dict[str, Level],
    passed: set[tuple[str, Level]],
) -> None:
    borrow = PendingBorrow(
        "delta-1", "delta", 2, need, reason, 1, False, gave, False, asked, answered
    )
    pool = FeaturePool(CAD, allocations=allocations)
    found = next_step(pool, borrow, leader, spare, passed)
    assert found == oracle(pool, borrow, leader, spare, passed)
