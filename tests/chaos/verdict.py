"""What the reports of the holders prove: pure functions over times.

May import `reports` and `support.over_issue`. The bounds are the promises of the pool
protocol, sections 2, 4 and 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from support.over_issue import Interval, peaks

from chaos.reports import FAR, HolderReport

SLACK_S = 2.0
HEALED_LEASES = 3
BUSY_S = 0.5
"""A machine on which a heartbeat takes longer than this, while all is well, is too busy."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """When the pool was broken and mended, what was hit, and when all seats added up again.

    `healed_s` is None if they never did while it was waited for.
    """

    broken_s: float
    mended_s: float
    healed_s: float | None
    victim: str
    has_far: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """The pool's times (s) and the seats of its license.

    Clients of a dead server are served again within `lease_s + slack_s` of a heartbeat.
    """

    lease_s: float
    ttl_s: float
    counts: Mapping[str, int]
    slack_s: float = SLACK_S


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the table.

    `served` is how many holders of the victim had to be served again, and the three times are
    how long that took; `ran_out` how many of those on its side of a cut had to stop by ttl.
    """

    holders: int
    lost: int
    ran_out: int
    served: int
    p50_s: float
    p99_s: float
    worst_s: float
    over_issued: int
    healed_after_s: float
    violations: tuple[str, ...]


def judge(reports: Sequence[HolderReport], trouble: Trouble, bounds: Bounds) -> Verdict:
    """Hold what the holders went through against what the pool promises."""
    steady = [report for report in reports if not report.hungry]
    cut_off = [r for r in steady if trouble.has_far and r.side == FAR]
    ours = [r for r in steady if not (trouble.has_far and r.side == FAR)]
    lost = [r for r in ours if any(hold.lost for hold in r.holds)]
    absent = [r for r in ours if not r.held_at(trouble.broken_s)]
    waits = sorted(
        wait
        for r in ours
        if r.home_at(trouble.broken_s) == trouble.victim
        and (wait := served_after(r, trouble.broken_s)) is not None
    )
    p99_s = percentile(waits, 0.99)
    most = peaks(
        Interval(r.feature, r.count, hold.from_s, hold.until_s) for r in reports for hold in r.holds
    )
    over = [peak for peak in most.values() if peak.held > bounds.counts.get(peak.feature, 0)]
    over_issued = sum(peak.held - bounds.counts[peak.feature] for peak in over)
    healed_after_s = math.inf if trouble.healed_s is None else trouble.healed_s - trouble.mended_s

    violations = [f"{len(absent)} holders held nothing when it began"] if absent else []
    before_s = _usual(steady, trouble.broken_s)
    if before_s > BUSY_S:
        violations.append(f"not judged fairly: heartbeats took {before_s:.2f} s before it began")
    if lost:
        violations.append(f"{len(lost)} holders lost their seats: {_reasons(lost)}")
    limit_s = bounds.lease_s + bounds.slack_s
    if p99_s > limit_s:
        violations.append(f"served again after {p99_s:.2f} s at p99; the bound is {limit_s:g} s")
    violations += [
        f"{o.held} of {o.feature} were held, {bounds.counts[o.feature]} exist" for o in over
    ]
    limit_s = bounds.ttl_s + HEALED_LEASES * bounds.lease_s
    if healed_after_s > limit_s:
        violations.append(
            f"the seats added up after {healed_after_s:.1f} s; the bound is {limit_s:g} s"
        )
    violations += _kept_too_briefly(cut_off, trouble, bounds)
    return Verdict(
        len(steady),
        len(lost),
        sum(any(hold.lost for hold in r.holds) for r in cut_off),
        len(waits),
        percentile(waits, 0.5),
        p99_s,
        waits[-1] if waits else 0.0,
        over_issued,
        healed_after_s,
        tuple(violations),
    )


def served_after(report: HolderReport, at_s: float) -> float | None:
    """Seconds from the first heartbeat after a moment to the first success after it.

    None if it sent none, or had no need to send one before it ended.
    """
    beat_s = next((sent_s for sent_s in report.beats if sent_s >= at_s), None)
    if beat_s is None:
        return None
    success = next((r for r in report.renewals if r.sent_s >= beat_s), None)
    if success is None:
        return None if not any(hold.lost for hold in report.holds) else math.inf
    return success.seen_s - beat_s


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value that `part` of an ordered list does not exceed; 0 of none."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0


def _usual(reports: Sequence[HolderReport], at_s: float) -> float:
    """Seconds that heartbeats took at the 99th percentile before a moment."""
    return percentile(
        sorted(
            renewal.seen_s - renewal.sent_s
            for report in reports
            for renewal in report.renewals[1:]  # the first is a checkout, which may wait
            if renewal.seen_s <= at_s
        ),
        0.99,
    )


def _kept_too_briefly(
    cut_off: Sequence[HolderReport], trouble: Trouble, bounds: Bounds
) -> list[str]:
    """Those on the minority's side keep their seats until `ttl` after their last success.

    That they do not keep them longer is their own client's doing; that nobody else has
    them before is what the count of seats relied upon shows.
    """
    brief = 0
    for report in cut_off:
        ended = [h for h in report.holds if h.lost and h.until_s > trouble.broken_s]
        success = [r.sent_s for r in report.renewals if r.seen_s <= trouble.mended_s]
        if ended and success and ended[0].until_s < max(success) + bounds.ttl_s - 0.01:
            brief += 1
    return [f"{brief} holders on the minority's side lost their seats before ttl"] if brief else []


def _reasons(lost: Sequence[HolderReport]) -> str:
    reasons = [hold.lost for report in lost for hold in report.holds if hold.lost]
    return ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
