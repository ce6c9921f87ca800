"""What happened in a run of chaos, entry by entry, kept as lines of JSON.

May import msgspec. Times are seconds of the machine's boot clock, which all processes and
network namespaces of a machine share. Each process writes a file of its own, a line at a
time, so that a run that is cut short has its history too; `read` lays the files together.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True, tag_field="is", tag=str.lower):
    """One line of a history."""


class Began(Entry, frozen=True):
    """The run: `seats` is the license, `started` is UTC for people, `command` repeats it."""

    at_s: float
    started: str
    command: str
    seed: int
    servers: list[str]
    seats: dict[str, int]
    holders: int
    lease_s: float
    ttl_s: float
    length_s: float


class Broken(Entry, frozen=True):
    """A fault begins: `hurt` are the servers that need not serve while it lasts.

    `far_cut` says that the far clients reach no majority; `id` is that of its `Mended`.
    """

    at_s: float
    id: int
    kind: str
    targets: list[str]
    hurt: list[str]
    text: str
    far_cut: bool = False


class Mended(Entry, frozen=True):
    """A fault is over."""

    at_s: float
    id: int


class Seen(Entry, frozen=True):
    """From now on a server is seen so: one of `CONDITIONS`; `leads` if it says that it leads."""

    at_s: float
    server: str
    condition: str
    leads: bool = False


CONDITIONS = (
    "serving",
    "recovering",
    "draining",
    "no_quorum",
    "starting",
    "silent",
    "paused",
    "down",
)


class Exited(Entry, frozen=True):
    """A server's process ended, by itself or not."""

    at_s: float
    server: str
    status: int


class Count(Entry, frozen=True):
    """The seats of a feature by a server's word."""

    at_s: float
    feature: str
    in_use: int
    deployed: int


class Held(Entry, frozen=True):
    """Seats relied upon in [from_s, until_s); `lost` says why they ended, if not by choice.

    `renewed_s` is when the last request was sent that was answered with success.
    """

    feature: str
    count: int
    side: str
    from_s: float
    until_s: float
    renewed_s: float
    server: str
    lost: str = ""


class Denied(Entry, frozen=True):
    """Somebody asked for seats and did not get them."""

    at_s: float
    feature: str
    code: str


class Order(Entry, frozen=True):
    """An administrator's order, and its answer: no `code` if it was done, at log index `index`.

    `deployed` are the feature's seats after it, if it is about their number.
    """

    sent_s: float
    at_s: float
    server: str
    what: str
    code: str = ""
    index: int = 0
    feature: str = ""
    deployed: int | None = None


class Stalled(Entry, frozen=True):
    """The machine, or its disk, let nobody of a process run for so long until `at_s`."""

    at_s: float
    for_s: float
    who: str


class Audited(Entry, frozen=True):
    """The log indices of all records of the audit, as the servers' files have them in the end."""

    indices: list[int]


class Finding(Entry, frozen=True):
    """Something that must not be was found by `check`."""

    at_s: float
    check: str
    text: str


class Checked(Entry, frozen=True):
    """A check of the end was made, and what it saw."""

    at_s: float
    check: str
    text: str


class Ended(Entry, frozen=True):
    """The run is over; `cut_short` says by what, if it did not play to its end."""

    at_s: float
    cut_short: str = ""


AnyEntry = (
    Began
    | Broken
    | Mended
    | Seen
    | Exited
    | Count
    | Held
    | Denied
    | Order
    | Stalled
    | Audited
    | Finding
    | Checked
    | Ended
)


class Keeper:
    """Writes entries to a file, each at once; usable from any thread."""

    def __init__(self, file: Path) -> None:
        self._file: IO[bytes] = file.open("ab", buffering=0)
        self._lock = threading.Lock()

    def note(self, entry: AnyEntry) -> None:
        """Add an entry."""
        with self._lock:
            self._file.write(msgspec.json.encode(entry) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True)
class Fault:
    """A fault from its begin to its end (infinity if it never ended)."""

    broken: Broken
    until_s: float

    @property
    def from_s(self) -> float:
        """When it began."""
        return self.broken.at_s


@dataclass(frozen=True)
class History:
    """The entries of one run, by kind and in the order of time."""

    began: Began
    entries: Sequence[AnyEntry] = field(repr=False)

    def all(self, kind: type[T]) -> list[T]:
        """The entries of one kind."""
        return self._by_kind.get(kind, [])

    @cached_property
    def _by_kind(self) -> dict[type, list[Any]]:
        """The entries, apart: an hour has tens of thousands, and is asked for each kind often."""
        found: dict[type, list[Any]] = defaultdict(list)
        for entry in self.entries:
            found[type(entry)].append(entry)
        return dict(found)

    @property
    def ended(self) -> Ended | None:
        """Its end; None if it was killed."""
        return next(iter(self.all(Ended)), None)

    @cached_property
    def until_s(self) -> float:
        """When it ended, or when the last is known of it."""
        return max(map(moment, self.entries), default=self.began.at_s)

    @cached_property
    def faults(self) -> list[Fault]:
        """What was done to the pool, in the order of its begin."""
        ends = {mended.id: mended.at_s for mended in self.all(Mended)}
        return [Fault(broken, ends.get(broken.id, self.until_s)) for broken in self.all(Broken)]


def moment(entry: AnyEntry) -> float:
    """When an entry became known."""
    if isinstance(entry, Audited):
        return 0.0
    return entry.until_s if isinstance(entry, Held) else entry.at_s


def history_of(entries: Iterable[AnyEntry]) -> History:
    """A history of entries in any order; ValueError unless exactly one run began."""
    ordered = sorted(entries, key=moment)
    begun = [entry for entry in ordered if isinstance(entry, Began)]
    if len(begun) != 1:
        raise ValueError(f"{len(begun)} runs began in this history; expected one")
    return History(begun[0], ordered)


def read(directory: Path) -> History:
    """The history that a run has left in a directory; a line that was cut short is left out."""
    lines = [
        line
        for file in sorted(directory.glob("*.jsonl"))
        for line in file.read_bytes().split(b"\n")[:-1]
        if line
    ]
    decoder: msgspec.json.Decoder[AnyEntry] = msgspec.json.Decoder(AnyEntry)
    return history_of(map(decoder.decode, lines))
