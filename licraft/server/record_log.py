"""The record of distribution on disk: plain appends that survive the process's death.

May import the core, msgspec and `errors`. Each grant and each end of a grant is one
line; the lines of a turn of the event loop are written at once, by `flush`, before its
answers leave, and never fsynced: that survives a kill, not a
power loss, so the file names the kernel's boot id and this server's incarnation, and it
is believed only under the conditions of `trusted`. Source: pool protocol, section 5.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from licraft.core.record import Authorization
from licraft.errors import DataError

log = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SLACK = 20_000


class _Header(msgspec.Struct, tag="record"):
    incarnation: int
    boot: str
    moved_index: int = 0


class _Grant(msgspec.Struct, tag="+", array_like=True, gc=False):
    id: str
    feature: str
    count: int
    token: str
    client: tuple[str, str, str, int, str]
    granted_at_s: float


class _End(msgspec.Struct, tag="-", array_like=True, gc=False):
    id: str


class _Moved(msgspec.Struct, tag="m", array_like=True, gc=False):
    index: int


class _Orderly(msgspec.Struct, tag="orderly"):
    pass


_encode_lines = msgspec.json.Encoder().encode_lines
_header = msgspec.json.Decoder(_Header | _Orderly).decode
_line = msgspec.json.Decoder(_Grant | _End | _Moved).decode


def boot_id() -> str:
    """The kernel's boot id, or a value that equals none if there is no such thing."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class SavedRecord:
    """A record as a file holds it, with all moves from and to it up to a log index."""

    incarnation: int
    boot: str
    orderly: bool
    authorizations: tuple[Authorization, ...]
    moved_index: int = 0

    def trusted(self, last_incarnation: int, boot: str) -> bool:
        """Whether it is what the server's last incarnation had granted, to the last grant."""
        same_boot = bool(boot) and self.boot == boot
        return self.incarnation == last_incarnation and (self.orderly or same_boot)


class RecordLog:
    """The file that follows one server's record."""

    def __init__(self, path: Path, boot: str) -> None:
        self._path = path
        self.boot = boot
        self._file: int | None = None
        self._lines = 0
        self._unwritten: list[tuple[object, ...]] = []
        self._fault: DataError | None = None

    def load(self) -> SavedRecord | None:
        """What an earlier process left; None if there is nothing that can be read."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise DataError(f"{self._path}: cannot be read: {fault.strerror}") from fault
        # What follows the last line end is a line whose writing was cut off: its answer never left.
        try:
            header = _header(lines[0])
            if not isinstance(header, _Header) or len(lines) < 2:
                return None
            live: dict[str, Authorization] = {}
            orderly = False
            moved_index = header.moved_index
            for line in lines[1:-1]:
                if line == _ORDERLY_LINE:
                    orderly = True
                    continue
                entry = _line(line)
                match entry:
                    case _End(id=id):
                        live.pop(id, None)
                    case _Moved(index=index):
                        moved_index = index
                    case _Grant(id=id):
                        live[id] = _authorization(entry)
        except msgspec.MsgspecError as fault:
            log.warning("%s: damaged (%s); the server recovers by waiting", self._path, fault)
            return None
        return SavedRecord(
            header.incarnation, header.boot, orderly, tuple(live.values()), moved_index
        )

    def start(self, incarnation: int, live: Iterable[Authorization], moved_index: int) -> None:
        """Begin a new file, for this incarnation, with what is on record now."""
        self.abandon()
        aside = self._path.with_suffix(".new")
        lines: list[object] = [_Header(incarnation, self.boot, moved_index)]
        lines += [_grant(authorization) for authorization in live]
        try:
            file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write(file, _encode_lines(lines))
                os.replace(aside, self._path)
            except OSError:
                os.close(file)
                raise
        except OSError as fault:
            self._give_up(fault)
            return
        self._file = file
        self._incarnation = incarnation
        self._lines = len(lines)

    def granted(self, authorization: Authorization) -> None:
        """Note a grant; `flush` must follow before its answer leaves."""
        if self._file is not None:
            self._unwritten.append(_grant(authorization))

    def ended(self, id: str) -> None:
        """Note that an authorization is no longer on record."""
        if self._file is not None:
            self._unwritten.append(("-", id))

    def moved(self, index: int) -> None:
        """Note that all moves up to a log index are in what was noted."""
        if self._file is not None:
            self._unwritten.append(("m", index))

    def flush(self) -> None:
        """Write what was noted.

        Raises DataError, from then on always, if a file that misses a grant can be
        neither written nor removed: nothing may be granted any more.
        """
        if self._fault is not None:
            raise self._fault
        lines = self._unwritten
        if not lines or self._file is None:
            return
        self._lines += len(lines)
        self._unwritten = []
        try:
            _write(self._file, _encode_lines(lines))
        except OSError as fault:
            self._give_up(fault)

    @property
    def follows(self) -> bool:
        """Whether grants are being noted."""
        return self._file is not None

    def forsake(self) -> None:
        """Remove the file: what this server has granted is not known."""
        self.abandon()
        self._path.unlink(missing_ok=True)

    def outgrown(self, live: int) -> bool:
        """Whether the file holds so much that is over that it should be begun anew."""
        return self._file is not None and self._lines > 4 * live + _SLACK

    def close_orderly(self) -> None:
        """Mark the file as complete and make it durable: it is believed after a reboot too."""
        self.flush()
        if self._file is None:
            return
        try:
            _write(self._file, _ORDERLY_LINE + b"\n")
            os.fsync(self._file)
            os.close(self._file)
            self._file = None
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as fault:
            self._give_up(fault)

    def abandon(self) -> None:
        """Stop following the record, leaving the file as it is."""
        self._unwritten = []
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _give_up(self, fault: OSError) -> None:
        """A file that misses a grant must never be believed: remove it."""
        log.error(
            "%s: cannot be written: %s; after a crash this server will recover by waiting",
            self._path,
            fault.strerror,
        )
        try:
            self.forsake()
        except OSError as stuck:
            self._fault = DataError(
                f"{self._path}: can be neither written ({fault.strerror}) nor removed "
                f"({stuck.strerror}); mend the file system and start the server again"
            )
            raise self._fault from stuck


_ORDERLY_LINE = msgspec.json.encode(_Orderly())


def _grant(a: Authorization) -> tuple[object, ...]:
    """A `_Grant` with its tag, as it is on its line."""
    return "+", a.id, a.feature, a.count, a.token, a.client, a.granted_at_s


def _authorization(g: _Grant) -> Authorization:
    return Authorization(g.id, g.feature, g.count, g.token, g.client, g.granted_at_s)


def _write(file: int, data: bytes) -> None:
    """Write all of `data`."""
    while data:
        data = data[os.write(file, data) :]
