"""The audit chain: what is recorded of each command, and which tampering is found."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pools import ALPHA, BETA, CAD, GAMMA, Pool, code, license_file, licensed

from licraft.core.audit import (
    FIRST,
    KEPT,
    MAX_TEXT,
    AuditFault,
    AuditRecord,
    AuditTail,
    Gap,
    chain_faults,
    read_line,
)
from licraft.core.codec import decode_state, encode_state
from licraft.core.commands import (
    AddAllocations,
    AddServer,
    Audited,
    Borrow,
    Command,
    Drain,
    InstallLicense,
    Member,
    PreferLeader,
    Reason,
    RemoveAuthorization,
    RemoveServer,
    SetDistribution,
)
from licraft.core.outcomes import STALE, Effect, Outcome

WHO, WHERE = "admin 3f2a91bc (ann@ws12)", "10.0.0.7"


def ask(pool: Pool, command: Command, who: str = WHO, where: str = WHERE) -> Outcome:
    """Have an administrator ask for a command."""
    (outcome,) = pool.now(Audited(who, where, command)).outcomes
    return outcome


def last(pool: Pool) -> AuditRecord:
    return pool.state.audit.recent[-1]


def test_a_record_says_who_from_where_what_before_and_after() -> None:
    pool = licensed(30)
    outcome = ask(pool, Drain(GAMMA, on=True))
    assert outcome.effect is Effect.DONE
    assert pool.state.servers[GAMMA].drained
    record = last(pool)
    assert (record.number, record.index, record.previous) == (1, len(pool.log), FIRST)
    assert record.time == "2026-11-21T12:00:00Z"
    assert (record.who, record.where) == (WHO, WHERE)
    assert record.what == "drain server=gamma on=True"
    assert record.before == "state up, drained False"
    assert record.after == "state draining, drained True"
    assert record.outcome == "done"


@pytest.mark.parametrize(
    ("command", "what", "before", "after", "outcome"),
    [
        (
            PreferLeader(BETA),
            "prefer leader server=beta",
            "leader by wish -",
            "leader by wish beta",
            "done",
        ),
        (RemoveServer(GAMMA), "remove server server=gamma", "state up", "state removing", "done"),
        (RemoveServer("delta"), "remove server server=delta", "", "", "refused not_found"),
        (
            AddServer(Member("delta", "http://d:1", "d:2")),
            "add server member=(name=delta api=http://d:1 peer=d:2)",
            "",
            "state joining, drained False",
            "done",
        ),
        (
            RemoveAuthorization("alpha-1-7", "1 of cad, ann@ws12"),
            "remove authorization id=alpha-1-7 holder=1 of cad, ann@ws12",
            "",
            "",
            "done",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_recorded_of_each_command(
    command: Command, what: str, before: str, after: str, outcome: str
) -> None:
    pool = licensed(30)
    ask(pool, command)
    record = last(pool)
    assert (record.what, record.before, record.after) == (what, before, after)
    assert record.outcome == outcome


def test_an_installed_license_is_recorded_with_what_it_changed() -> None:
    pool = licensed(30)
    assert ask(pool, InstallLicense(license_file(2, code(50)))).effect is Effect.DONE
    record = last(pool)
    assert record.what.startswith("install license license=number 2 of 1 codes (")
    assert record.before.startswith("license 1, sha256 ")
    assert record.before.endswith("entitled cad 30")
    assert record.after.endswith("entitled cad 50")
    assert ask(pool, InstallLicense(license_file(1, code(60)))).effect is Effect.REFUSED
    assert (last(pool).before, last(pool).after) == ("", "")
    assert last(pool).outcome == "refused stale_sequence"


def test_a_changed_feature_is_recorded_with_what_differs_whatever_the_command_is_called() -> None:
    pool = licensed(30)
    ask(pool, AddAllocations(CAD, -6, ""))
    assert last(pool).what == "add allocations feature=cad count=-6"
    assert "retired 0" in last(pool).before
    assert "retired 6" in last(pool).after
    ask(pool, SetDistribution(CAD, ((ALPHA, 20), (BETA, 4))))
    assert last(pool).what == "set distribution feature=cad target=alpha:20^beta:4"
    assert "target alpha:20^beta:4" in last(pool).after
    assert "feature" not in last(pool).after  # what is the same is not told


def test_an_unasked_command_is_not_recorded() -> None:
    pool = licensed(30)
    pool.now(Drain(GAMMA, on=True))
    assert pool.state.audit == AuditTail()


@pytest.mark.parametrize(
    "command",
    [
        Audited("x", "y", Drain(GAMMA, on=True)),
        Borrow("b-1", CAD, ALPHA, 1, 1, Reason.REQUEST, 0, False),
    ],
    ids=lambda command: type(command).__name__,
)
def test_what_only_servers_may_do_is_not_done_by_asking(command: Command) -> None:
    pool = licensed(30)
    assert ask(pool, command) == STALE
    assert pool.state.audit.count == 0


def test_texts_and_records_are_bounded_whatever_a_server_proposes() -> None:
    pool = licensed(30)
    for n in range(KEPT + 10):
        ask(pool, RemoveAuthorization("i" * 5_000, "h" * 5_000), who=f"{n}" * 9_000, where="w" * 99)
    tail = pool.state.audit
    assert (tail.count, len(tail.recent)) == (KEPT + 10, KEPT)
    assert max(len(r.what) for r in tail.recent) == MAX_TEXT
    assert max(len(r.line()) for r in tail.recent) < 2_000
    assert [r.number for r in tail.after(KEPT + 7)] == [KEPT + 8, KEPT + 9, KEPT + 10]
    assert tail.after(0) == tail.recent
    assert tail.after(tail.count) == ()
    assert decode_state(encode_state(pool.state)) == pool.state


def test_a_chain_that_contradicts_itself_is_a_broken_invariant() -> None:
    pool = licensed(30)
    ask(pool, PreferLeader(BETA))
    ask(pool, PreferLeader(ALPHA))
    tail = pool.state.audit
    assert tail.fault() is None
    assert replace(tail, count=3).fault() is not None
    assert replace(tail, sha256=FIRST).fault() is not None
    assert replace(tail, recent=()).fault() is not None
    forged = replace(tail.recent[-1], who="nobody")
    assert replace(tail, recent=(tail.recent[0], forged)).fault() is not None


# Tampering with a file

ODD = st.text(max_size=30)


def lines(count: int, texts: tuple[str, ...] = ("Ann \u2028\n\u00e9",)) -> list[str]:
    """The lines of a whole chain of this length."""
    made: list[str] = []
    previous = FIRST
    for n in range(1, count + 1):
        text = texts[n % len(texts)]
        record = AuditRecord(
            n,
            10 * n,
            "2026-11-21T12:00:00Z",
            text,
            "10.0.0.7",
            f"drain {n}",
            "a",
            text,
            "done",
            previous,
        )
        made.append(record.line())
        previous = record.sha256
    return made


def faults(written: list[str]) -> list[str]:
    """What a reader of these lines finds wrong."""
    found, records = [], []
    for text in written:
        try:
            read = read_line(text)
        except AuditFault as fault:
            found.append(str(fault))
        else:
            assert isinstance(read, AuditRecord)
            records.append(read)
    return [*found, *chain_faults(records)]


@given(st.integers(1, 6), st.lists(ODD, min_size=1, max_size=3).map(tuple))
def test_a_whole_chain_is_good(count: int, texts: tuple[str, ...]) -> None:
    written = lines(count, texts)
    assert faults(written) == []
    assert all("\n" not in line and line.isascii() for line in written)


@given(st.data())
def test_a_line_altered_removed_repeated_or_moved_is_found(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 6))
    written = lines(count)
    at = data.draw(st.integers(0, count - 1))
    kind = data.draw(st.sampled_from(["alter", "remove", "repeat", "swap", "rewrite"]))
    if kind == "alter":
        place = data.draw(st.integers(0, len(written[at]) - 1))
        new = data.draw(st.characters(codec="ascii", exclude_characters=written[at][place]))
        written[at] = written[at][:place] + new + written[at][place + 1 :]
    elif kind == "remove":
        del written[min(at, count - 2)]  # that the last one is gone, only others can tell
    elif kind == "repeat":
        written.insert(at, written[at])
    elif kind == "swap":
        other = (at + 1) % count
        written[at], written[other] = written[other], written[at]
    else:
        # One who knows how hashes are made writes another record in the place of one.
        record = read_line(written[min(at, count - 2)])
        assert isinstance(record, AuditRecord)
        written[min(at, count - 2)] = replace(record, who="somebody else").line()
    assert faults(written)


def test_a_chain_may_begin_where_it_is_said_to_begin() -> None:
    written = [read_line(text) for text in lines(5)]
    records = [read for read in written if isinstance(read, AuditRecord)]
    assert list(chain_faults(records[2:])) == ["record 1 to 2 are missing before record 3"]
    assert list(chain_faults(records[2:], begin=3)) == []
    assert list(chain_faults(records[:2] + records[3:])) == ["record 3 is missing before record 4"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "1",
        '{"gap":[0,1]}',
        '{"gap":[3,2]}',
        '{"gap":[1]}',
        '{"gap": [1,2]}',
        '{"number":1}',
        "[" * 100_000,
        "\ufffd",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(AuditFault):
        read_line(text)


def test_a_gap_is_a_line_too() -> None:
    assert read_line(Gap(3, 9).line()) == Gap(3, 9)


def test_a_record_with_numbers_as_texts_is_refused() -> None:
    plain = json.loads(lines(1)[0])
    with pytest.raises(AuditFault):
        read_line(json.dumps(plain | {"number": "1"}, separators=(",", ":")))
