"""A dumb pool license: which file is installed, and what it grants on a day.

May import the standard library only. It is compared with `core.license`, `core.apply` and
`server.license_keeper`, and must not share their mistakes: it knows files as lists of rows,
and days as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

VERSIONS = (None, "2025", "2026", "2026.2", "2026.10")
"""From the oldest to the newest: a code without a version is older than any with one."""


@dataclass(frozen=True)
class Code:
    """What one code says; `starts` and `expires` are days, both inclusive."""

    name: str
    id: str
    feature: str
    count: int
    signer: str = "vendor"
    version: str | None = None
    starts: int | None = None
    expires: int | None = None
    pool: str | None = None


Share = tuple[tuple[str, int], ...] | None


@dataclass(frozen=True)
class File:
    """What one license file says."""

    pool: str | None
    sequence: int
    rows: tuple[tuple[Code, Share], ...]


NOTHING = File(None, 0, ())


@dataclass
class LicenseOracle:
    """The installed file, every file that was, and the pool's day."""

    pool: str
    servers: tuple[str, ...]
    current: File = NOTHING
    history: dict[int, File] = field(default_factory=dict)
    days: dict[str, int] = field(default_factory=dict)
    day: int = 0
    conflicts: set[str] = field(default_factory=set)

    # -- files --------------------------------------------------------------------------------

    def refuses(self, file: File, keys: set[str]) -> bool:
        """Whether a server with these vendors' keys may not install a file."""
        strange = any(code.signer not in keys for code, _ in file.rows)
        return strange or file.pool not in (None, self.pool)

    def commit(self, file: File, base: int | None) -> str:
        """What becomes of a file that is committed, perhaps made from number `base`."""
        if base is not None and base != self.current.sequence:
            return "overtaken"
        if file.pool not in (None, self.pool):
            return "invalid_license"
        if file == self.current:
            return "done"
        if file.sequence <= self.current.sequence:
            return "stale_sequence"
        self.current = self.history[file.sequence] = file
        self.conflicts.clear()
        return "done"

    def tell_conflict(self, server: str, sequence: int, *, contradicts: bool) -> None:
        """A server says that it has another file of this number, or none any more."""
        if not contradicts:
            self.conflicts.discard(server)
        elif sequence == self.current.sequence:
            self.conflicts.add(server)

    def with_code(self, code: Code, share: Share) -> File:
        """The installed file with one code more."""
        pool = self.current.pool if self.current.sequence else self.pool
        return File(pool, self.current.sequence + 1, (*self.current.rows, (code, share)))

    # -- days ---------------------------------------------------------------------------------

    def tell_day(self, server: str, day: int) -> None:
        """A server says what day it is: the pool believes the middle one, and never an earlier."""
        self.days[server] = day
        told = sorted(self.days.values())
        self.day = max(self.day, told[(len(told) - 1) // 2])

    # -- what is granted ------------------------------------------------------------------------

    def status(self, code: Code) -> str:
        """Why a code counts, or does not, looked at alone."""
        if code.pool not in (None, self.pool):
            return "other_pool"
        if code.starts is not None and self.day < code.starts:
            return "not_started"
        if code.expires is not None and self.day > code.expires:
            return "expired"
        return "valid"

    def counting(self, feature: str) -> list[tuple[Code, Share]]:
        """The codes of a feature that count: of the newest version that any valid one has."""
        valid = [
            row
            for row in self.current.rows
            if row[0].feature == feature and self.status(row[0]) == "valid"
        ]
        newest = max((VERSIONS.index(code.version) for code, _ in valid), default=0)
        return [row for row in valid if VERSIONS.index(row[0].version) == newest]

    def grants(self, feature: str) -> tuple[int, str]:
        """How many seats of a feature there are, and how it stands."""
        codes = [code for code, _ in self.current.rows if code.feature == feature]
        counting = self.counting(feature)
        if counting:
            return sum(code.count for code, _ in counting), "valid"
        return 0, self.status(codes[-1]) if codes else "removed"

    def shared_out(self, feature: str) -> dict[str, int] | None:
        """Where the codes want the seats: None if they do not say."""
        counting = self.counting(feature)
        if all(share is None for _, share in counting):
            return None
        seats = dict.fromkeys(self.servers, 0)
        evenly = sum(code.count for code, share in counting if share is None)
        for turn in range(evenly):
            seats[self.servers[turn % len(self.servers)]] += 1
        for _, share in counting:
            for server, count in share or ():
                seats[server] += count
        return seats

    def features(self) -> set[str]:
        """The features that the file names."""
        return {code.feature for code, _ in self.current.rows}
