"""The drawings of a report: a stretch of a run as SVG, a row for each server and each feature.

May import `history` and `account`. Pure: from a history to text. What is pointed at explains
itself (`<title>`), so that nothing here needs a script.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from chaos.account import Span, Violation, held_over_time, limits, whole_spans
from chaos.history import Count, Denied, Fault, History, Order, Seen, Stalled

WIDTH, LEFT, RIGHT = 1160, 92, 18
PLOT = WIDTH - LEFT - RIGHT
_BAND, _LANE, _GAP = 15, 12, 10
_SEATS = 78
_LETTER = 5.2
_NARROW = 3.0
_DENIALS = 18.0
_DENIED_BIN_PX = 4

FAMILIES = ("kill", "stop", "cut", "disk", "clock")
"""What a fault does: the begin of its kind; each has a colour."""


def family(kind: str) -> str:
    """The family of a kind of fault."""
    return next((name for name in FAMILIES if kind.startswith(name)), "cut")


class Drawing:
    """A history, made ready to be drawn again and again."""

    def __init__(self, history: History, violations: Sequence[Violation]) -> None:
        self.history = history
        self.violations = violations
        self.faults = history.faults
        self.whole = whole_spans(history)
        self.held = {f: held_over_time(history, f) for f in history.began.seats}
        self.seen = {name: _seen(history, name) for name in history.began.servers}

    def strip(self, span: Span, every_s: float) -> str:
        """All rows for a stretch of the run, with the time every so many seconds."""
        scale = Scale(span, self.history.began.at_s)
        y, parts = 22.0, list(_axis(scale, every_s))
        y = _add(parts, self._whole(scale, y), y + 14)
        for name in self.history.began.servers:
            lanes = _lanes(scale, [f for f in self.faults if name in f.broken.targets])
            parts += self._server(scale, name, y)
            parts += _bars(scale, lanes, y + _BAND + 2)
            y += _BAND + 2 + _LANE * max(1, len(lanes)) + _GAP
        y = _add(parts, self._orders(scale, y), y + 24)
        for feature in self.history.began.seats:
            y = _add(parts, self._feature(scale, feature, y), y + _SEATS + 18)
        before = [*self._stalls(scale, y), *_grid(scale, every_s, y)]
        return _svg(y, [*before, *parts, *self._marks(scale, y)], "Timeline")

    def overview(self, span: Span, every_s: float, part_s: float) -> str:
        """The whole run on one drawing; each stretch leads to its strip."""
        scale = Scale(span, self.history.began.at_s)
        y, parts = 22.0, list(_axis(scale, every_s))
        y = _add(parts, self._whole(scale, y), y + 12)
        for name in self.history.began.servers:
            parts += self._server(scale, name, y, height=10)
            parts += self._fault_marks(scale, name, y + 11)
            y += 20
        y += 4
        for feature in self.history.began.seats:
            y = _add(parts, self._feature(scale, feature, y, height=36), y + 50)
        parts += self._marks(scale, y)
        at_s, number = span.from_s, 0
        while at_s < span.until_s:
            to_s = min(at_s + part_s, span.until_s)
            parts.append(
                f'<a href="#strip{number}"><rect class="link" x="{scale.x(at_s):.1f}" y="0"'
                f' width="{scale.width(at_s, to_s):.1f}" height="{y:.0f}">'
                f"<title>to the details from {scale.clock(at_s)} on</title></rect></a>"
            )
            at_s, number = to_s, number + 1
        return _svg(y, parts, "The whole run")

    # --- Rows ---

    def _whole(self, scale: Scale, y: float) -> Iterator[str]:
        yield _label(y + 7, "majority")
        for span in self.whole:
            title = f"a majority of the servers is whole: {scale.words(span)}"
            yield scale.rect(span, y, 6, "whole", title)

    def _server(self, scale: Scale, name: str, y: float, height: float = _BAND) -> Iterator[str]:
        yield _label(y + height - 3, name, "name")
        for span, seen in self.seen[name]:
            word = "leads, " if seen.leads else ""
            title = f"{name}: {word}{seen.condition}: {scale.words(span)}"
            yield scale.rect(span, y, height, f"c-{seen.condition}", title)
            if seen.leads and seen.condition not in ("down", "paused", "silent"):
                yield scale.rect(span, y, height / 3, "leads", title)

    def _fault_marks(self, scale: Scale, name: str, y: float) -> Iterator[str]:
        for fault in self.faults:
            if name in fault.broken.targets:
                title = f"{fault.broken.text}: {scale.words(_span(fault))}"
                yield scale.rect(
                    _span(fault), y, 5, f"f-{family(fault.broken.kind)}", title, least=2
                )

    def _orders(self, scale: Scale, y: float) -> Iterator[str]:
        yield _label(y + 11, "orders")
        for order in self.history.all(Order):
            if scale.shows(order.at_s):
                title = f"administrator at {order.server}: {order.what}: {order.code or 'done'}"
                kind = "refused" if order.code else "done"
                yield (
                    f'<circle class="order {kind}" cx="{scale.x(order.at_s):.1f}"'
                    f' cy="{y + 7:.0f}" r="3.5"><title>{escape(title)}</title></circle>'
                )

    def _feature(
        self, scale: Scale, feature: str, y: float, height: float = _SEATS
    ) -> Iterator[str]:
        """The seats relied upon, and the lines that they must not cross."""
        began = self.history.began
        counts = [c for c in self.history.all(Count) if c.feature == feature]
        deployed = [(began.at_s, began.seats[feature])]
        deployed += [(limit.at_s, limit.seats) for limit in limits(self.history, feature)]
        in_use = [(c.at_s, c.in_use) for c in counts]
        most = max(
            [began.seats[feature], *(n for _, n in self.held[feature]), *(n for _, n in in_use)]
        )
        up = (height - 4) / max(1, most * 1.06)
        base = y + height

        def line(steps: Sequence[tuple[float, int]], name: str, title: str) -> str:
            points = scale.line(steps, base, up)
            return f'<path class="{name}" d="{points}"><title>{escape(title)}</title></path>'

        yield _label(y + height / 2 + 6, feature, "name")
        yield _label(base - began.seats[feature] * up + 4, str(began.seats[feature]), "small")
        yield _label(base, "0", "small")
        yield f'<path class="base" d="M{LEFT} {base:.1f}H{LEFT + PLOT}"/>'
        peaks = scale.peaks(self.held[feature])
        yield (
            f'<path class="held" d="{_area(peaks, base, up)}"><title>{escape(feature)}: seats'
            " that their holders rely upon (the most within each pixel)</title></path>"
        )
        yield from self._denials(scale, feature, base)
        yield line(in_use, "in-use", f"{feature}: seats in use, as the leader tells it")
        entitled = [(began.at_s, began.seats[feature])]
        yield line(entitled, "entitled", f"{feature}: {began.seats[feature]} seats are licensed")
        yield line(
            deployed, "deployed", f"{feature}: seats deployed, by the administrator's orders"
        )

    def _denials(self, scale: Scale, feature: str, base: float) -> Iterator[str]:
        bins: dict[tuple[int, str], int] = {}
        for denied in self.history.all(Denied):
            if denied.feature == feature and scale.shows(denied.at_s):
                place = int((scale.x(denied.at_s) - LEFT) // _DENIED_BIN_PX)
                bins[place, denied.code] = bins.get((place, denied.code), 0) + 1
        for (place, code), times in sorted(bins.items()):
            height = min(_DENIALS, 2.0 + 2.0 * times)
            kind = "no-seats" if code == "no_seats" else "unavailable"
            yield (
                f'<rect class="denied {kind}" x="{LEFT + place * _DENIED_BIN_PX}"'
                f' y="{base - height:.1f}" width="{_DENIED_BIN_PX - 1}" height="{height:.1f}">'
                f"<title>{times} denied: {escape(code)}</title></rect>"
            )

    def _stalls(self, scale: Scale, y: float) -> Iterator[str]:
        for stall in self.history.all(Stalled):
            span = Span(stall.at_s - stall.for_s, stall.at_s)
            title = f"the machine let nobody of {stall.who} run for {stall.for_s:.1f} s"
            yield scale.rect(span, 16, y - 16, "stall", title, least=1)

    def _marks(self, scale: Scale, y: float) -> Iterator[str]:
        for violation in self.violations:
            if violation.at_s is not None and scale.shows(violation.at_s):
                x = scale.x(violation.at_s)
                yield (
                    f'<g class="violation"><path d="M{x:.1f} 14V{y:.0f}"/>'
                    f'<path class="flag" d="M{x - 6:.1f} 4h12l-6 10z"/>'
                    f"<title>{escape(violation.text)}</title></g>"
                )


@dataclass(frozen=True, slots=True)
class Scale:
    """From times to places on a drawing."""

    span: Span
    begin_s: float

    def x(self, at_s: float) -> float:
        """Where a moment is, which may be beyond the ends."""
        return LEFT + (at_s - self.span.from_s) / self.span.length_s * PLOT

    def width(self, from_s: float, until_s: float) -> float:
        """How wide a stretch is."""
        return (until_s - from_s) / self.span.length_s * PLOT

    def shows(self, at_s: float) -> bool:
        """Whether a moment is on the drawing."""
        return self.span.from_s <= at_s < self.span.until_s

    def clock(self, at_s: float) -> str:
        """A moment as minutes and seconds of the run."""
        minutes, seconds = divmod(max(0, round(at_s - self.begin_s)), 60)
        return f"{minutes}:{seconds:02}"

    def words(self, span: Span) -> str:
        """A stretch for people."""
        return f"{span.length_s:.1f} s from {self.clock(span.from_s)}"

    def rect(
        self, span: Span, y: float, height: float, name: str, title: str, least: float = 0.0
    ) -> str:
        """A bar as long as a stretch, cut at the ends of the drawing; nothing if it is beyond."""
        from_s = max(span.from_s, self.span.from_s)
        until_s = min(span.until_s, self.span.until_s)
        if until_s < from_s or (until_s == from_s and not least):
            return ""
        width = max(least, self.width(from_s, until_s))
        return (
            f'<rect class="{name}" x="{self.x(from_s):.1f}" y="{y:.1f}" width="{width:.1f}"'
            f' height="{height:.1f}"><title>{escape(title)}</title></rect>'
        )

    def peaks(self, steps: Sequence[tuple[float, int]]) -> list[int]:
        """The highest value of a step function within each pixel."""
        found = [0] * PLOT
        for (at_s, value), (until_s, _) in zip(
            steps, [*steps[1:], (self.span.until_s, 0)], strict=True
        ):
            if until_s >= self.span.from_s and at_s < self.span.until_s and value:
                first = max(0, int(self.x(at_s) - LEFT))
                last = min(PLOT - 1, int(self.x(until_s) - LEFT))
                for place in range(first, last + 1):
                    found[place] = max(found[place], value)
        return found

    def line(self, steps: Sequence[tuple[float, int]], base: float, up: float) -> str:
        """The path of a step function."""
        points: list[str] = []
        before = 0
        for at_s, value in steps:
            if at_s < self.span.from_s:
                before = value
            elif at_s < self.span.until_s:
                if not points:
                    points.append(f"M{LEFT} {base - before * up:.1f}")
                points.append(f"H{self.x(at_s):.1f}V{base - value * up:.1f}")
        if not points:
            points.append(f"M{LEFT} {base - before * up:.1f}")
        return f"{''.join(points)}H{LEFT + PLOT}"


def _area(peaks: Sequence[int], base: float, up: float) -> str:
    """The area below some values, one for each pixel."""
    points, before = [f"M{LEFT} {base:.1f}"], 0
    for place, value in enumerate(peaks):
        if value != before:
            points.append(f"H{LEFT + place}V{base - value * up:.1f}")
            before = value
    return f"{''.join(points)}H{LEFT + PLOT}V{base:.1f}Z"


def _seen(history: History, name: str) -> list[tuple[Span, Seen]]:
    """In what condition a server was seen, from when to when."""
    seen = [entry for entry in history.all(Seen) if entry.server == name]
    ends = [entry.at_s for entry in seen[1:]] + [history.until_s]
    return [(Span(s.at_s, end), s) for s, end in zip(seen, ends, strict=False)]


def _span(fault: Fault) -> Span:
    return Span(fault.from_s, fault.until_s)


def _lanes(scale: Scale, faults: Iterable[Fault]) -> list[list[Fault]]:
    """Faults in as many rows as they need for no two to overlap, with their names beside them."""
    lanes: list[list[Fault]] = []
    ends: list[float] = []
    for fault in faults:
        if fault.until_s < scale.span.from_s or fault.from_s >= scale.span.until_s:
            continue
        begin = scale.x(max(fault.from_s, scale.span.from_s))
        end = max(scale.x(fault.until_s), begin + _NARROW + 4 + _LETTER * len(fault.broken.kind))
        place = next((i for i, taken in enumerate(ends) if taken <= begin), len(ends))
        if place == len(ends):
            lanes.append([])
            ends.append(0.0)
        lanes[place].append(fault)
        ends[place] = end + 4
    return lanes


def _bars(scale: Scale, lanes: Sequence[Sequence[Fault]], y: float) -> Iterator[str]:
    for number, lane in enumerate(lanes):
        for fault in lane:
            kind, span = fault.broken.kind, _span(fault)
            title = f"{fault.broken.text}: {scale.words(span)}"
            top = y + number * _LANE
            yield scale.rect(span, top, _LANE - 2, f"f-{family(kind)}", title, least=_NARROW)
            begin = scale.x(max(span.from_s, scale.span.from_s))
            wide = min(scale.x(span.until_s), LEFT + PLOT) - begin
            fits = wide > _LETTER * len(kind) + 4
            x = begin + 2 if fits else begin + max(wide, _NARROW) + 2
            where = f'class="fault {"inside" if fits else "beside"}" x="{x:.1f}"'
            yield f'<text {where} y="{top + 8.5:.1f}">{escape(kind)}</text>'


def _axis(scale: Scale, every_s: float) -> Iterator[str]:
    for at_s in _ticks(scale, every_s):
        yield f'<text class="tick" x="{scale.x(at_s):.1f}" y="11">{scale.clock(at_s)}</text>'


def _grid(scale: Scale, every_s: float, y: float) -> Iterator[str]:
    for at_s in _ticks(scale, every_s):
        yield f'<path class="grid" d="M{scale.x(at_s):.1f} 15V{y:.0f}"/>'


def _ticks(scale: Scale, every_s: float) -> Iterator[float]:
    number = -(-(scale.span.from_s - scale.begin_s) // every_s)
    while (at_s := scale.begin_s + number * every_s) <= scale.span.until_s:
        yield at_s
        number += 1


def _label(y: float, text: str, name: str = "quiet") -> str:
    return f'<text class="label {name}" x="{LEFT - 8}" y="{y:.1f}">{escape(text)}</text>'


def _add(parts: list[str], more: Iterable[str], y: float) -> float:
    parts += more
    return y


def _svg(height: float, parts: Iterable[str], title: str) -> str:
    box = f'viewBox="0 0 {WIDTH} {height + 6:.0f}"'
    return f'<svg {box} role="img" aria-label="{title}">{"".join(parts)}</svg>'
