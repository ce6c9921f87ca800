"""The report of a run as one HTML file that needs nothing else: no script, no font, no network.

May import `history`, `account`, `chart` and `nemesis`. A pure function from a history and its
account to text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from chaos.account import CHECKS, Account, Span, Violation
from chaos.chart import FAMILIES, Drawing
from chaos.history import CONDITIONS, Denied, History, Order
from chaos.nemesis import IN_WORDS

STRIP_S = 240.0
_TICK_S = 15.0
_OVERVIEW_TICKS = 12
_MAX_LISTED = 100


def page(history: History, result: Account) -> str:
    """The whole report."""
    began = history.began
    title = f"Chaos run {began.seed}: {_verdict(result)}"
    drawing = Drawing(history, result.violations)
    whole = Span(began.at_s, max(history.until_s, began.at_s + 1.0))
    strips = _strips(whole)
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(history),
        _banner(history, result),
        *_violations(history, result, strips),
        "<h2>What was promised, and what came of it</h2>",
        _checks(result),
        "<h2>The run</h2>",
        _legend(),
    ]
    if len(strips) > 1:
        parts.append(drawing.overview(whole, _overview_tick(whole), strips[0].length_s))
        parts.append("<p class=quiet>Each stretch leads to its details.</p>")
    for number, span in enumerate(strips):
        minutes = f"{_clock(history, span.from_s)} to {_clock(history, span.until_s)}"
        parts.append(f'<h3 id="strip{number}">From {minutes}</h3>')
        parts.append(drawing.strip(span, _TICK_S))
    parts += ["<h2>Faults</h2>", _faults(history), "<h2>Orders and denials</h2>", _counts(history)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n{body}\n"
        "</main></body></html>\n"
    )


def _verdict(result: Account) -> str:
    broken = len(result.violations)
    if not broken:
        return "every promise was kept"
    return "a promise was broken" if broken == 1 else f"promises were broken {broken} times"


def _summary(history: History) -> str:
    began = history.began
    minutes = (history.until_s - began.at_s) / 60
    seats = ", ".join(f"{count} {feature}" for feature, count in began.seats.items())
    facts = [
        ("began", began.started),
        ("length", f"{minutes:.1f} min"),
        ("servers", ", ".join(began.servers)),
        ("license", seats),
        ("clients", f"{began.holders} and some raw ones"),
        ("lease", f"{began.lease_s:g} s"),
        ("ttl", f"{began.ttl_s:g} s"),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    again = f"<p>To repeat it: <code>{escape(began.command)}</code></p>"
    return f"<dl>{items}</dl>{again}"


def _banner(history: History, result: Account) -> str:
    ended = history.ended
    cut = "the run was killed" if ended is None else ended.cut_short
    note = f" The run did not play to its end: {escape(cut)}." if cut else ""
    if result.violations:
        checks = dict.fromkeys(violation.check for violation in result.violations)
        return f'<p class="banner bad">Broken: {escape(", ".join(checks))}.{note}</p>'
    kind = "cut" if cut else "good"
    return f'<p class="banner {kind}">No violation was found.{note}</p>'


def _violations(history: History, result: Account, strips: Sequence[Span]) -> Iterator[str]:
    if not result.violations:
        return
    yield "<h2>Violations</h2><ol>"
    for violation in result.violations[:_MAX_LISTED]:
        where = _place(history, violation, strips)
        yield f"<li>{where}<b>{escape(violation.check)}</b>: {escape(violation.text)}</li>"
    yield "</ol>"


def _place(history: History, violation: Violation, strips: Sequence[Span]) -> str:
    at_s = violation.at_s
    if at_s is None:
        return ""
    number = next((i for i, s in enumerate(strips) if at_s < s.until_s), len(strips) - 1)
    return f'<a href="#strip{number}">{_clock(history, at_s)}</a> '


def _checks(result: Account) -> str:
    rows = []
    for check, promise in CHECKS.items():
        broken = len(result.broken(check))
        kept = '<td class="cut">not checked' if check in result.unmade else "<td>&#10003; kept"
        word = f'<td class="bad">&#10007; broken {broken}&times;' if broken else kept
        figure = escape(result.figures.get(check, ""))
        rows.append((f"<td>{check}", word, f"<td>{promise}", f"<td class=quiet>{figure}"))
    return _table(("check", "", "promise", "seen"), ("".join(row) for row in rows))


def _faults(history: History) -> str:
    times: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for fault in history.faults:
        times[fault.broken.kind] += 1
        seconds[fault.broken.kind] += round(fault.until_s - fault.from_s)
    rows = (
        f"<td>{kind}<td>{escape(words)}<td class=number>{times[kind]}"
        f"<td class=number>{seconds[kind]} s"
        for kind, words in IN_WORDS.items()
        if times[kind]
    )
    return _table(("kind", "what it is", "times", "together"), rows)


def _counts(history: History) -> str:
    orders = Counter(
        (order.what.split()[0].lstrip("+-0123456789") or "seats", order.code or "done")
        for order in history.all(Order)
    )
    denied = Counter((entry.feature, entry.code) for entry in history.all(Denied))
    rows = [
        f"<td>{kind}<td>{escape(what)}<td>{escape(code)}<td class=number>{times}"
        for kind, counted in (("order", orders), ("denied", denied))
        for (what, code), times in sorted(counted.items())
    ]
    return _table(("", "what", "answer", "times"), rows)


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    titles = "".join(f"<th>{title}" for title in head)
    return f"<table><tr>{titles}{''.join(f'<tr>{row}' for row in rows)}</table>"


def _legend() -> str:
    """What the colours mean."""

    def key(name: str, words: str) -> str:
        return (
            f'<span class="key"><svg viewBox="0 0 18 12" width="18" height="12" aria-hidden="true">'
            f'<rect class="{name}" x="0" y="1" width="18" height="10"/></svg>{words}</span>'
        )

    def line(name: str, words: str) -> str:
        return (
            f'<span class="key"><svg viewBox="0 0 18 12" width="18" height="12" aria-hidden="true">'
            f'<path class="{name}" d="M0 6H18"/></svg>{words}</span>'
        )

    groups = {
        "Servers": [key("leads", "leads"), *(key(f"c-{c}", _SHOWN[c]) for c in CONDITIONS)],
        "Faults": [key(f"f-{name}", _FAMILY_WORDS[name]) for name in FAMILIES],
        "Seats": [
            key("held", "held, by their holders' clocks"),
            line("in-use", "in use, by the leader's count"),
            line("deployed", "deployed"),
            line("entitled", "licensed"),
            key("denied no-seats", "denied: no seats"),
            key("denied unavailable", "denied: no server"),
        ],
        "Pool": [
            key("whole", "a majority is whole, so that all must go well"),
            key("stall", "the machine stood still"),
            key("flag", "violation"),
        ],
    }
    rows = "".join(f"<p><b>{name}</b>{''.join(keys)}</p>" for name, keys in groups.items())
    return f'<div class="legend">{rows}</div>'


_SHOWN = {
    "serving": "up, holds its lease",
    "draining": "holds its lease, is drained",
    "recovering": "recovering",
    "no_quorum": "up, no lease",
    "starting": "starting",
    "silent": "silent",
    "paused": "stopped",
    "down": "down",
}
_FAMILY_WORDS = {
    "kill": "kill -9",
    "stop": "SIGSTOP",
    "cut": "cut from others, by direction",
    "disk": "disk full",
    "clock": "wall clock moved",
}


def _strips(whole: Span) -> list[Span]:
    """The run in parts of the same length, none longer than `STRIP_S`, each a drawing."""
    parts = max(1, math.ceil(whole.length_s / STRIP_S))
    part_s = whole.length_s / parts
    return [Span(whole.from_s + i * part_s, whole.from_s + (i + 1) * part_s) for i in range(parts)]


def _overview_tick(whole: Span) -> float:
    """A round number of seconds, so that there are about `_OVERVIEW_TICKS`."""
    wanted_s = whole.length_s / _OVERVIEW_TICKS
    return next((s for s in (30.0, 60.0, 120.0, 300.0, 600.0) if s >= wanted_s), 1800.0)


def _clock(history: History, at_s: float) -> str:
    minutes, seconds = divmod(max(0, round(at_s - history.began.at_s)), 60)
    return f"{minutes}:{seconds:02}"


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 25px; margin: 0 0 10px; } h2 { font-size: 18px; margin: 34px 0 10px; }
h3 { font-size: 14px; margin: 26px 0 6px; color: #566173; font-weight: 600; }
dl { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0; }
dt { color: #66717f; font-size: 12px; } dd { margin: 0; }
code { background: #f2f4f7; padding: 2px 6px; border-radius: 4px; }
.banner { padding: 10px 14px; border-radius: 6px; font-weight: 600; }
.good { background: #e7f5e9; color: #17622b; } .cut { background: #fff6db; color: #6d5200; }
.bad { background: #fdeaea; color: #a01818; }
table { border-collapse: collapse; font-size: 14px; }
th { text-align: left; color: #66717f; font-weight: 500; font-size: 12px; }
td, th { padding: 4px 16px 4px 8px; border-bottom: 1px solid #e8ebef; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } .quiet { color: #66717f; }
li { margin: 3px 0; } a { color: #1f5fbf; }
.legend { font-size: 13px; margin-bottom: 14px; } .legend p { margin: 3px 0; }
.legend b { display: inline-block; width: 66px; color: #66717f; font-weight: 500; }
.key { margin-right: 16px; white-space: nowrap; } .key svg { width: 18px; margin-right: 5px; }
svg { width: 100%; height: auto; display: block; } .key svg { display: inline; }
svg text { font: 11px system-ui, sans-serif; fill: #1c2430; }
svg .tick { text-anchor: middle; fill: #66717f; font-size: 10px; }
svg .label { text-anchor: end; } svg .quiet, svg .small { fill: #66717f; font-size: 10px; }
svg .name { font-weight: 600; font-size: 12px; }
svg .fault { font-size: 9px; } svg .inside { fill: #fff; } svg .beside { fill: #3c4656; }
.grid { stroke: #eceff3; } .base { stroke: #9aa4b1; stroke-width: 1; }
.c-serving { fill: #bfe3c3; } .c-draining { fill: #b5d9ea; } .c-recovering { fill: #fbeb9b; }
.c-no_quorum { fill: #f8c79b; } .c-starting { fill: #e4e7eb; } .c-silent { fill: #c9ced5; }
.c-paused { fill: #d9c8ec; } .c-down { fill: #5c6470; } .leads { fill: #1d4f91; }
.f-kill { fill: #2b313a; } .f-stop { fill: #8257b0; } .f-cut { fill: #d1741d; }
.f-disk { fill: #8a5a2b; } .f-clock { fill: #5f86d6; } .whole { fill: #6dbb78; }
.held { fill: #a9cdea; stroke: #4a8fc7; stroke-width: .8; } .in-use { fill: none;
stroke: #566173; stroke-width: .9; } .deployed { fill: none; stroke: #b8860b; stroke-width: 1.4; }
.entitled { fill: none; stroke: #1c2430; stroke-width: 1.2; stroke-dasharray: 5 3; }
.no-seats { fill: #d0604c; } .unavailable { fill: #9c5bb5; } .stall { fill: #d5d9df; }
.order { stroke: #1d4f91; stroke-width: 1; } .done { fill: #7fa8dc; } .refused { fill: #fff; }
.violation path { stroke: #d00000; stroke-width: 1.6; } .flag { fill: #d00000; }
.link { fill: transparent; } .link:hover { fill: rgba(31, 95, 191, .12); }
"""
