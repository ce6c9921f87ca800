"""The audit: what administrators changed, as records that are chained by their hashes.

May import the rest of the core but `apply`, whose rule calls `audited`. The chain is part of
the replicated state, so every server has the same records, and each names the hash of the one
before it: a line that is altered, removed or moved in one server's file contradicts the next
line, and the files of the other servers. What is written of a change is made here, from the
state before and after it, so that nobody who asks for a change words it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from licraft.core.license import LicenseFile
from licraft.core.outcomes import Outcome

if TYPE_CHECKING:
    from licraft.core.commands import Audited, Command
    from licraft.core.state import PoolState

KEPT = 256
"""How many records every server has in memory, for those that were away."""

FIRST = "0" * 64
"""What the first record names as the hash of the one before it."""

MAX_TEXT = 400
_MAX_WHO = 200
_MAX_WHERE = 64
_EPOCH = datetime(1970, 1, 1)
_TEXTS = ("time", "who", "where", "what", "before", "after", "outcome", "previous")


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change: `number` counts them from 1, `time` is the pool's clock (UTC), `index` the log's.

    `before` and `after` are what differs in the replicated state. `previous` is the
    `sha256` of the record before this one.
    """

    number: int
    index: int
    time: str
    who: str
    where: str
    what: str
    before: str
    after: str
    outcome: str
    previous: str

    @property
    def sha256(self) -> str:
        """The hash of all its fields, in hexadecimal: what the next record names."""
        return hashlib.sha256(_json([getattr(self, name) for name in _FIELDS]).encode()).hexdigest()

    def line(self) -> str:
        """The record as a line of a file, without its end."""
        return _json({name: getattr(self, name) for name in _FIELDS} | {"sha256": self.sha256})


_FIELDS = tuple(field.name for field in fields(AuditRecord))


@dataclass(frozen=True, slots=True)
class AuditTail:
    """The end of the chain: how many records there are, the last one's hash, the last ones."""

    count: int = 0
    sha256: str = FIRST
    recent: tuple[AuditRecord, ...] = ()

    def after(self, number: int) -> tuple[AuditRecord, ...]:
        """The records after the one of this number, as far back as they are kept."""
        missing = max(0, self.count - number)
        return self.recent[-missing:] if missing else ()

    def fault(self) -> str | None:
        """What contradicts itself here, or None."""
        last = self.recent[-1] if self.recent else None
        numbers = [record.number for record in self.recent]
        begin = self.count - len(numbers) + 1
        if numbers != list(range(begin, self.count + 1)) or (self.count and not last):
            return f"audit: {self.count} records, and the last ones are {numbers[:1]}..."
        if self.sha256 != (last.sha256 if last else FIRST):
            return f"audit: the hash of record {self.count} is not that of the chain"
        return None


@dataclass(frozen=True, slots=True)
class Gap:
    """A line by which a server says that it was away and has not seen these records."""

    first: int
    last: int

    def line(self) -> str:
        """The gap as a line of a file, without its end."""
        return _json({"gap": [self.first, self.last]})


def audited(
    state: PoolState, index: int, command: Audited, apply: Callable[[Command], Outcome]
) -> Outcome:
    """Apply an administrator's command, and add to the audit what it changed."""
    inner = command.command
    before = _subject(state, inner)
    outcome = apply(inner)
    after = _subject(state, inner)
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    record = AuditRecord(
        number=state.audit.count + 1,
        index=index,
        time=(_EPOCH + timedelta(seconds=state.clock_s)).isoformat() + "Z",
        who=_clip(command.who, _MAX_WHO),
        where=_clip(command.where, _MAX_WHERE),
        what=_clip(describe(inner)),
        before=_shown(before, changed),
        after=_shown(after, changed),
        outcome=f"{outcome.effect} {outcome.code}".strip(),
        previous=state.audit.sha256,
    )
    recent = (*state.audit.recent, record)[-KEPT:]
    state.audit = AuditTail(record.number, record.sha256, recent)
    return outcome


def describe(command: Command) -> str:
    """What a command asks for: its name in words, and its fields."""
    name = type(command).__name__
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
    return " ".join([words, *_pairs(command)])


class AuditFault(ValueError):
    """A line of an audit file is no record, or contradicts another."""


def read_line(text: str) -> AuditRecord | Gap:
    """The record or gap that a line is; raises AuditFault for any other text.

    Only the exact text that a server writes is one: a line that was touched up in
    its white space has been altered too.
    """
    try:
        plain = json.loads(text)
        read = _gap(plain) if "gap" in plain else _record(plain)
        same = read.line() == text
    except (ValueError, TypeError, KeyError, RecursionError):
        raise AuditFault("it is no line of an audit: altered, or cut short") from None
    if not same:
        raise AuditFault("it was altered: its text and its hash do not belong together")
    return read


def chain_faults(records: Iterable[AuditRecord], begin: int = 1) -> Iterator[str]:
    """What shows that records, in the order of a file, are not the whole chain from `begin` on."""
    number, previous = begin - 1, FIRST if begin == 1 else ""
    for record in records:
        if record.number > number + 1:
            lost = f"record {number + 1}"
            lost += f" to {record.number - 1} are" if record.number > number + 2 else " is"
            yield f"{lost} missing before record {record.number}"
            previous = ""
        elif record.number <= number:
            yield f"record {record.number} stands after record {number}: twice, or out of order"
            previous = ""
        if previous and record.previous != previous:
            yield (
                f"record {record.number} does not follow record {number} as that is now: one of"
                " them was altered"
            )
        number, previous = record.number, record.sha256


def _record(plain: Any) -> AuditRecord:
    record = AuditRecord(**{name: plain[name] for name in _FIELDS})
    if type(record.number) is not int or type(record.index) is not int:
        raise TypeError("a number is no whole number")
    if any(type(getattr(record, name)) is not str for name in _TEXTS):
        raise TypeError("a text is no text")
    return record


def _gap(plain: Any) -> Gap:
    first, last = plain["gap"]
    if type(first) is not int or type(last) is not int or not 0 < first <= last:
        raise TypeError("no range of numbers")
    return Gap(first, last)


def _subject(state: PoolState, command: Command) -> dict[str, str]:
    """What of the state a command may change, as short texts by name.

    A command that names a feature changes that feature, one that names a server changes that
    server; new kinds of commands need no rule here as long as they are called so.
    """
    if isinstance(getattr(command, "license", None), LicenseFile):
        return _license(state)
    feature = getattr(command, "feature", None)
    if feature is not None:
        pool = state.table.features.get(feature)
        names = [f.name for f in fields(pool) if f.name != "pending"] if pool else []
        return {name: _text(getattr(pool, name)) for name in names}
    name = getattr(command, "server", None) or getattr(
        getattr(command, "member", None), "name", None
    )
    server = state.servers.get(name) if isinstance(name, str) else None
    found = {"leader by wish": state.preferred_leader}
    if server is not None:
        found |= {"state": server.word, "drained": _text(server.drained)}
    return found


def _license(state: PoolState) -> dict[str, str]:
    """The license file, and what each feature is entitled to."""
    installed = state.license
    digest = hashlib.sha256(installed.text.encode()).hexdigest()[:12] if installed.text else ""
    found = {"license": str(installed.sequence), "sha256": digest}
    found["codes"] = str(len(installed.codes))
    for feature, pool in state.table.features.items():
        found[f"entitled {feature}"] = str(pool.entitled)
    return found


def _shown(found: dict[str, str], names: list[str]) -> str:
    return _clip(", ".join(f"{name} {found[name] or '-'}" for name in names if name in found))


def _pairs(value: Any) -> Iterator[str]:
    """The fields of a dataclass that say something."""
    for field in fields(value):
        text = _text(getattr(value, field.name))
        if text:
            yield f"{field.name}={text}"


def _text(value: Any) -> str:
    """A value of a command or of the state in short: maps as `alpha:10^beta:20`."""
    match value:
        case None:
            return ""
        case StrEnum():
            return value.value
        case str() | int() | float():
            return str(value)
        case LicenseFile():
            digest = hashlib.sha256(value.text.encode()).hexdigest()[:12]
            return f"number {value.sequence} of {len(value.codes)} codes ({digest})"
        case dict():
            return "^".join(f"{name}:{_text(part)}" for name, part in value.items())
        case (_, *_) if all(isinstance(part, tuple) and len(part) == 2 for part in value):
            return "^".join(f"{name}:{_text(part)}" for name, part in value)
        case tuple():
            return "+".join(_text(part) for part in value)
        case _ if is_dataclass(value):
            return f"({' '.join(_pairs(value))})"
        case _:
            return str(value)


def _clip(text: str, limit: int = MAX_TEXT) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
