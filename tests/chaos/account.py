"""What the history of a run proves: every promise that was broken, and when.

May import `history` and `nemesis`. Pure. The promises are those of the pool protocol, sections 2
and 12; a holder that lost its seat is excused only if, from its last success on, no majority of
servers was whole for as long as a client may need to be served again.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.history import (
    Audited,
    Checked,
    Denied,
    Exited,
    Fault,
    Finding,
    Held,
    History,
    Order,
    Seen,
    Stalled,
)
from chaos.reports import FAR

SLACK_S = 2.0
ELECTION_S = 2.0
BACK_S = 20.0
"""Within this a server serves again when nothing is done to it any more, on a busy machine."""

STILL_S = 20.0
"""A pool of which a majority is whole grants something at least once in this time."""

DISK_ENDS_S = 15.0
KILLED = -9
_MAX_LISTED = 50

CHECKS: Mapping[str, str] = {
    "over-issue": "Never were more seats relied upon than there are",
    "lost seats": "Nobody lost a seat while a majority of servers was whole",
    "grants": "A pool with a whole majority goes on granting",
    "come back": "Every server serves again when its trouble is over",
    "processes": "No server ended by itself, but for a full disk",
    "license": "Nobody was denied for a reason that does not exist",
    "orders": "What an administrator was told is done, is done, once",
    "table": "In the end every seat is in the table, and none in use",
    "audit": "The audit is whole, and the same at every server",
    "digests": "All servers have the same state, byte for byte",
    "logs": "No server logged an error that has no cause",
    "suite": "The run itself went as it should",
}
"""Every check, and the promise that it is about."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken: which, when (None: not at one moment), and how."""

    check: str
    at_s: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time."""

    from_s: float
    until_s: float

    @property
    def length_s(self) -> float:
        """How long it is."""
        return self.until_s - self.from_s


@dataclass(frozen=True, slots=True)
class Account:
    """What came of a run: what was broken, and figures for the checks, in words."""

    violations: tuple[Violation, ...]
    figures: Mapping[str, str]
    unmade: frozenset[str] = frozenset()
    """The checks to which a run that was cut short did not come."""

    def broken(self, check: str) -> list[Violation]:
        """The violations of one check."""
        return [violation for violation in self.violations if violation.check == check]


def account(history: History) -> Account:
    """Hold a history against what the pool promises."""
    whole = whole_spans(history)
    found = [
        *_over_issue(history),
        *_lost(history, whole),
        *_still(history, [span for s in whole for span in _without(s, _drained(history))]),
        *_not_back(history),
        *_exits(history),
        *_reasons(history),
        *_orders(history),
        *(Violation(f.check, f.at_s, f.text) for f in history.all(Finding)),
    ]
    if len(found) > _MAX_LISTED:
        more = len(found) - _MAX_LISTED
        found = [*found[:_MAX_LISTED], Violation("suite", None, f"and {more} more violations")]
    return Account(tuple(found), _figures(history, whole), _unmade(history))


def _unmade(history: History) -> frozenset[str]:
    made = {checked.check for checked in history.all(Checked)}
    if history.all(Audited):
        made.add("orders")
    return frozenset({"table", "audit", "digests", "logs", "orders"} - made)


# --- When the pool must serve ---


def hurt_spans(history: History) -> dict[str, list[Span]]:
    """For each server, when it need not serve: while it is hurt, and until it serves again.

    One that does not serve within `BACK_S` is not excused any longer. A stall of the machine
    hurts everybody.
    """
    hurt: dict[str, list[Span]] = {name: [] for name in history.began.servers}
    for name, spans in hurt.items():
        for fault in history.faults:
            if name in fault.broken.hurt:
                spans.append(Span(fault.from_s, _served_again(history, name, fault)))
        spans += [Span(s.at_s - s.for_s, s.at_s + SLACK_S) for s in history.all(Stalled)]
    return hurt


def whole_spans(history: History) -> list[Span]:
    """When a majority of the servers was whole, and nothing kept it from serving."""
    begin_s, end_s = history.began.at_s, history.until_s
    majority = len(history.began.servers) // 2 + 1
    changes = [(end_s, -majority)]
    for spans in hurt_spans(history).values():
        for span in _merged(spans):
            changes += [(span.from_s, -1), (span.until_s, 1)]
    well, since_s, found = len(history.began.servers), begin_s, []
    for at_s, change in sorted(changes):
        was_whole = well >= majority
        well += change
        if was_whole and well < majority and since_s < at_s:
            found.append(Span(since_s, min(at_s, end_s)))
        if not was_whole and well >= majority:
            since_s = at_s
        if at_s >= end_s:
            break
    return found


def _served_again(history: History, name: str, fault: Fault) -> float:
    """When a server was first seen to serve after a fault, or ought to have been."""
    latest_s = fault.until_s + BACK_S
    since = [seen for seen in history.all(Seen) if seen.server == name]
    before = [seen for seen in since if seen.at_s <= fault.until_s]
    # A fault may be over before anybody saw that it had an effect.
    after = [*before[-1:], *(seen for seen in since if fault.until_s < seen.at_s <= latest_s)]
    for seen in after:
        if seen.condition in ("serving", "draining"):
            return max(seen.at_s, fault.until_s)
    return latest_s


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same time, without overlaps."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda span: span.from_s):
        if found and span.from_s <= found[-1].until_s:
            found[-1] = Span(found[-1].from_s, max(found[-1].until_s, span.until_s))
        else:
            found.append(span)
    return found


# --- The promises ---


@dataclass(frozen=True, slots=True)
class Limit:
    """From a moment on there are so many seats of a feature."""

    at_s: float
    seats: int


def limits(history: History, feature: str) -> list[Limit]:
    """How many seats may be relied upon, by what the administrator was told.

    Fewer from when a smaller number was confirmed, all from when more was asked for: in
    between both may be true.
    """
    entitled = history.began.seats.get(feature, 0)
    found = [Limit(history.began.at_s, entitled)]
    about = [o for o in history.all(Order) if o.feature == feature and _is_resize(o)]
    for order in sorted(about, key=lambda order: order.sent_s):
        if not order.what.startswith("-"):
            found.append(Limit(order.sent_s, entitled))
        if order.deployed is not None:
            found.append(Limit(order.at_s, min(order.deployed, entitled)))
    return sorted(found, key=lambda limit: limit.at_s)


def held_over_time(history: History, feature: str) -> list[tuple[float, int]]:
    """How many seats of a feature are relied upon from each moment on, by their holders' word."""
    changes: Counter[float] = Counter()
    for held in history.all(Held):
        if held.feature == feature and held.until_s > held.from_s:
            changes[held.from_s] += held.count
            changes[held.until_s] -= held.count
    seats, found = 0, []
    for at_s in sorted(changes):
        seats += changes[at_s]
        found.append((at_s, seats))
    return found


def _over_issue(history: History) -> list[Violation]:
    found = []
    features = {held.feature for held in history.all(Held)} | set(history.began.seats)
    for feature in sorted(features):
        allowed = limits(history, feature)
        over = False
        for at_s, seats, there_are in _beside(held_over_time(history, feature), allowed):
            if seats > there_are and not over:
                text = f"{seats} seats of {feature} were relied upon, {there_are} exist"
                found.append(Violation("over-issue", at_s, text))
            over = seats > there_are
    return found


def _beside(
    held: Sequence[tuple[float, int]], allowed: Sequence[Limit]
) -> Iterable[tuple[float, int, int]]:
    """At each moment at which either changes: when, what is held, what there is."""
    moments = sorted({at_s for at_s, _ in held} | {limit.at_s for limit in allowed})
    held_s = [at_s for at_s, _ in held]
    limit_s = [limit.at_s for limit in allowed]
    for at_s in moments:
        i, j = bisect.bisect_right(held_s, at_s), bisect.bisect_right(limit_s, at_s)
        yield at_s, held[i - 1][1] if i else 0, allowed[max(0, j - 1)].seats


def needed_s(history: History) -> float:
    """Seconds of a whole majority within which every holder can renew its seat.

    A third of ttl until its next heartbeat, a lease until a dead server is down, an election.
    """
    began = history.began
    return began.ttl_s / 3 + began.lease_s + ELECTION_S + SLACK_S


def _lost(history: History, whole: Sequence[Span]) -> list[Violation]:
    far_cut = [Span(f.from_s, f.until_s) for f in history.faults if f.broken.far_cut]
    return [
        Violation(
            "lost seats",
            held.until_s,
            f"a holder of {held.count} {held.feature} lost them ({held.lost}); it had last"
            f" been renewed {held.until_s - held.renewed_s:.1f} s before, by {held.server}",
        )
        for held in history.all(Held)
        if held.lost and not _excused(history, held, whole, far_cut)
    ]


def _excused(history: History, held: Held, whole: Sequence[Span], far_cut: Sequence[Span]) -> bool:
    window = Span(held.renewed_s, held.until_s)
    if held.side == FAR and any(_overlap(window, span) > 0 for span in far_cut):
        return True
    longest_s = max((_overlap(window, span) for span in whole), default=0.0)
    # A server's word ends a seat sooner than its time would: then all of it must have been whole.
    return longest_s < min(needed_s(history), window.length_s - 0.1)


def _overlap(one: Span, other: Span) -> float:
    return min(one.until_s, other.until_s) - max(one.from_s, other.from_s)


def _drained(history: History) -> list[Span]:
    """When every server was drained or hurt: an administrator may stop all grants so."""
    away = hurt_spans(history)
    changes: list[tuple[float, int]] = []
    for name, spans in away.items():
        since_s: float | None = None
        for seen in (s for s in history.all(Seen) if s.server == name):
            if seen.condition == "draining" and since_s is None:
                since_s = seen.at_s
            elif seen.condition == "serving" and since_s is not None:
                spans.append(Span(since_s, seen.at_s))
                since_s = None
        if since_s is not None:
            spans.append(Span(since_s, history.until_s))
        for span in _merged(spans):
            changes += [(span.from_s, 1), (span.until_s, -1)]
    found, count, begun_s = [], 0, 0.0
    for at_s, change in sorted(changes):
        if count == len(away):
            found.append(Span(begun_s, at_s))
        count, begun_s = count + change, at_s
    return found


def _without(span: Span, others: Sequence[Span]) -> list[Span]:
    """What is left of a stretch of time."""
    found, from_s = [], span.from_s
    for other in others:
        if other.from_s < span.until_s and other.until_s > from_s:
            found.append(Span(from_s, max(from_s, other.from_s)))
            from_s = min(other.until_s, span.until_s)
    return [s for s in (*found, Span(from_s, span.until_s)) if s.length_s > 0]


def _still(history: History, whole: Sequence[Span]) -> list[Violation]:
    granted = sorted(held.from_s for held in history.all(Held))
    end_s = min([c.at_s for c in history.all(Checked)], default=history.until_s)
    found = []
    for span in whole:
        until_s = min(span.until_s, end_s)
        inside = granted[bisect.bisect(granted, span.from_s) : bisect.bisect(granted, until_s)]
        moments = [span.from_s, *inside, until_s]
        for before_s, after_s in pairwise(moments):
            if after_s - before_s > STILL_S:
                text = f"nothing was granted for {after_s - before_s:.0f} s"
                found.append(Violation("grants", before_s, text))
    return found


def _not_back(history: History) -> list[Violation]:
    """Servers that did not serve within `BACK_S`, unless something was done to them again."""
    found = []
    for fault in history.faults:
        limit_s = fault.until_s + BACK_S
        for name in fault.broken.hurt:
            again = any(
                other is not fault and name in other.broken.hurt and other.until_s > fault.until_s
                for other in history.faults
                if other.from_s <= limit_s
            )
            late = _served_again(history, name, fault) >= limit_s and limit_s < history.until_s
            if late and not again and not _stalled(history, Span(fault.until_s, limit_s)):
                text = f"{name} did not serve {BACK_S:g} s after: {fault.broken.text}"
                found.append(Violation("come back", limit_s, text))
    return found


def _stalled(history: History, span: Span) -> bool:
    stalls = (Span(s.at_s - s.for_s, s.at_s) for s in history.all(Stalled))
    return any(_overlap(stall, span) > 0 for stall in stalls)


def _exits(history: History) -> list[Violation]:
    end_s = min([c.at_s for c in history.all(Checked)], default=history.until_s)
    return [
        Violation("processes", e.at_s, f"{e.server} ended by itself with status {e.status}")
        for e in history.all(Exited)
        if e.at_s < end_s and not _meant(history, e)
    ]


def _meant(history: History, exited: Exited) -> bool:
    """Whether what was done to a server explains its end."""
    ends = {"kill": SLACK_S, "disk": DISK_ENDS_S}
    reason = "kill" if exited.status == KILLED else "disk"
    return any(
        fault.from_s <= exited.at_s <= fault.until_s + ends[reason]
        for fault in history.faults
        if exited.server in fault.broken.targets and fault.broken.kind.startswith(reason)
    )


EXPECTED_DENIALS = ("no_seats", "unavailable")


def _reasons(history: History) -> list[Violation]:
    return [
        Violation("license", denied.at_s, f"{denied.feature} was denied: {denied.code}")
        for denied in history.all(Denied)
        if denied.code not in EXPECTED_DENIALS
    ]


def _is_resize(order: Order) -> bool:
    return order.what[:1] in ("+", "-")


def _orders(history: History) -> list[Violation]:
    """What was answered as done must be in the audit, and no order more often than it was given.

    An answer names a log index at or after that of the change, and orders are given one after
    the other: so a change is between its own answer's index and that of the one before. Orders
    without a good answer may be in the audit too, once each.
    """
    audited = sorted(index for record in history.all(Audited) for index in record.indices)
    found: list[Violation] = []
    if not audited:
        return found
    before, unsure = 1, len(audited)  # what was done before the first order is not known
    for order in sorted(history.all(Order), key=lambda order: order.sent_s):
        if order.code:
            unsure += 1
            continue
        between = bisect.bisect(audited, order.index) - bisect.bisect(audited, before)
        if not 1 <= between <= 1 + unsure:
            text = f"{order.what}: done at log index {order.index}, {between} times in the audit"
            found.append(Violation("orders", order.at_s, text))
        before, unsure = order.index, 0
    return found


# --- Figures ---


def _figures(history: History, whole: Sequence[Span]) -> dict[str, str]:
    held, orders, denied = history.all(Held), history.all(Order), history.all(Denied)
    lost = [h for h in held if h.lost]
    exits = history.all(Exited)
    figures = {
        "over-issue": ", ".join(_peak(history, feature) for feature in history.began.seats),
        "lost seats": f"{len(lost)} of {len(held)} holds were lost, with or without an excuse",
        "grants": f"{len(held)} grants; a majority was whole {_part(history, whole)} of the time",
        "come back": f"{len(history.faults)} faults",
        "processes": f"{len(exits)} ends of processes",
        "license": ", ".join(f"{n} {code}" for code, n in Counter(d.code for d in denied).items())
        or "no denials",
        "orders": f"{sum(not o.code for o in orders)} of {len(orders)} orders were done",
    }
    stalls = history.all(Stalled)
    if stalls:
        longest_s = max(stall.for_s for stall in stalls)
        figures["suite"] = f"the machine stalled {len(stalls)} times, for {longest_s:.1f} s at most"
    return figures | {checked.check: checked.text for checked in history.all(Checked)}


def _peak(history: History, feature: str) -> str:
    most = max((seats for _, seats in held_over_time(history, feature)), default=0)
    return f"{most} of {history.began.seats[feature]} {feature} at most"


def _part(history: History, whole: Sequence[Span]) -> str:
    length_s = history.until_s - history.began.at_s
    return f"{sum(span.length_s for span in whole) / length_s:.0%}" if length_s else "0%"


def table(result: Account) -> str:
    """The account as a table for a terminal."""
    rows = []
    for check, promise in CHECKS.items():
        broken = result.broken(check)
        kept = "not checked" if check in result.unmade else "kept"
        verdict = f"BROKEN {len(broken)}x" if broken else kept
        rows.append(f"{check:<12} {verdict:<12} {promise}")
        if result.figures.get(check):
            rows.append(f"{'':<25} {result.figures[check]}")
        rows += [f"{'':<12} VIOLATED: {violation.text}" for violation in broken]
    return "\n".join(rows)
