"""Records of distribution, told from server to server.

May import the core, msgspec and this room. After an election every server reports its
record to the new leader, whole, and then what changed, each second: the leader so has
the record of allocations for the pool (R7c, R23, R40). Listings ask each functioning
server for its own part, and fall back on the leader's record for one that is silent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec

from licraft.core.record import Authorization
from licraft.errors import PeerUnreachable
from licraft.replication.engine import Engine
from licraft.server.clock import Clock
from licraft.server.grants import Grants

log = logging.getLogger(__name__)

CHUNK = 500
LIST_LIMIT = 10_000
_ASK_S = 2.0


class Line(msgspec.Struct, array_like=True, gc=False):
    """One authorization as servers tell it to each other; times are wall-clock seconds."""

    id: str
    feature: str
    count: int
    client: tuple[str, str, str, int, str]
    granted_at_s: float
    heard_at_s: float


class Report(msgspec.Struct, tag="report", array_like=True):
    """A part of a server's record: `number` 0 begins the whole, then they count up."""

    term: int
    incarnation: int
    number: int
    added: list[Line]
    removed: list[str]


class Lines(msgspec.Struct, tag="lines", array_like=True):
    """Asks for the authorizations that a server has granted (empty text: any)."""

    feature: str
    user: str
    limit: int


class Part(msgspec.Struct, tag="part", array_like=True):
    """Asks the leader for what it has on record for `server`."""

    server: str
    feature: str
    user: str
    limit: int


class Strike(msgspec.Struct, tag="strike", array_like=True):
    """Asks a server to take authorizations off its record."""

    ids: list[str]


Question = Report | Lines | Part | Strike


class LinesAnswer(msgspec.Struct, array_like=True):
    """The lines asked for, whether there were more, and as of when (None: never reported)."""

    lines: list[Line]
    truncated: bool
    as_of_s: float | None


class ReportAnswer(msgspec.Struct, array_like=True):
    """Whether the report was taken; if not, the whole record is to be told again."""

    taken: bool


class StrikeAnswer(msgspec.Struct, array_like=True):
    """The ids that were on record and no longer are."""

    struck: list[str]


_encode = msgspec.msgpack.Encoder().encode
_question = msgspec.msgpack.Decoder(Question).decode
_lines_answer = msgspec.msgpack.Decoder(LinesAnswer).decode
_report_answer = msgspec.msgpack.Decoder(ReportAnswer).decode
_strike_answer = msgspec.msgpack.Decoder(StrikeAnswer).decode


class _Told:
    """What the leader has been told by one server."""

    def __init__(self, report: Report) -> None:
        self.term = report.term
        self.incarnation = report.incarnation
        self.next = 0
        self.lines: dict[str, Line] = {}
        self.as_of_s = 0.0


class Reports:
    """This server's reports to the leader, and the leader's record when it leads."""

    def __init__(
        self,
        server: str,
        engine: Engine,
        grants: Grants,
        clock: Clock,
        strike: Callable[[str], bool],
    ) -> None:
        """`strike` takes an authorization off this server's record, for good."""
        self._server = server
        self._engine = engine
        self._grants = grants
        self._clock = clock
        self._strike = strike
        self._told: dict[str, _Told] = {}
        self._reported: tuple[str, int, int] | None = None
        self._number = 0

    async def report(self) -> None:
        """Tell the leader what changed since the last time, or all if it is a new one."""
        status = self._engine.status()
        leader = status.leader
        if leader is None or leader == self._server:
            self._grants.changed.clear()
            self._reported = None
            return
        target = (leader, status.term, self._grants.incarnation)
        if self._reported != target:
            self._number = 0
            changes: dict[str, Authorization | None] = {a.id: a for a in self._grants.record}
        else:
            changes = self._grants.changed
        self._grants.changed = {}
        self._reported = target
        items = list(changes.items())
        for start in range(0, max(1, len(items)), CHUNK):
            if not await self._tell(leader, status.term, items[start : start + CHUNK]):
                self._reported = None
                return

    async def _tell(
        self, leader: str, term: int, items: list[tuple[str, Authorization | None]]
    ) -> bool:
        report = Report(
            term,
            self._grants.incarnation,
            self._number,
            [self._line(a) for _, a in items if a is not None],
            [id for id, a in items if a is None],
        )
        self._number += 1
        try:
            answer = await self._engine.ask(leader, _encode(report), _ASK_S)
            return _report_answer(answer).taken
        except (PeerUnreachable, msgspec.MsgspecError) as fault:
            log.debug("report to %s: %s", leader, fault)
            return False

    async def answer(self, server: str, body: bytes) -> bytes:
        """Answer another server's question."""
        question = _question(body)
        match question:
            case Report():
                return _encode(ReportAnswer(self._take(server, question)))
            case Lines():
                return _encode(self.own(question.feature, question.user, question.limit))
            case Part():
                return _encode(self.part(question))
            case Strike(ids=ids):
                return _encode(StrikeAnswer([id for id in ids if self._strike(id)]))
            case _:
                assert_never(question)

    def own(self, feature: str, user: str, limit: int) -> LinesAnswer:
        """The authorizations on this server's own record."""
        chosen = _choose(self._grants.record, feature, user, limit)
        lines = [self._line(authorization) for authorization in chosen[:limit]]
        return LinesAnswer(lines, len(chosen) > limit, self._clock.wall())

    def part(self, question: Part) -> LinesAnswer:
        """What this server, as the leader, was told by another, but for what moved since (R40)."""
        told = self._told.get(question.server)
        if told is None or not told.next:
            return LinesAnswer([], False, None)
        server = self._grants.state.servers.get(question.server)
        gone = server.gone if server is not None else {}
        chosen = [
            line
            for line in told.lines.values()
            if question.feature in ("", line.feature)
            and question.user in ("", line.client[1])
            and line.id not in gone
        ]
        limit = question.limit
        return LinesAnswer(chosen[:limit], len(chosen) > limit, told.as_of_s)

    def on_record(self, server: str, id: str) -> bool:
        """Whether the leader's record shows an authorization at a server (R9)."""
        told = self._told.get(server)
        return told is not None and id in told.lines

    async def lines(self, server: str, feature: str, user: str) -> LinesAnswer:
        """The authorizations of one server: its own word, else the leader's record."""
        if server == self._server:
            return self.own(feature, user, LIST_LIMIT)
        try:
            body = _encode(Lines(feature, user, LIST_LIMIT))
            return _lines_answer(await self._engine.ask(server, body, _ASK_S))
        except PeerUnreachable:
            pass
        part = Part(server, feature, user, LIST_LIMIT)
        leader = self._engine.status().leader
        if leader == self._server:
            return self.part(part)
        try:
            if leader is not None and leader != server:
                return _lines_answer(await self._engine.ask(leader, _encode(part), _ASK_S))
        except PeerUnreachable:
            pass
        return LinesAnswer([], False, None)

    async def find(self, servers: Iterable[str], id: str) -> Line | None:
        """What some server has on record under an id, as far as listings tell."""
        parts = await asyncio.gather(*(self.lines(name, "", "") for name in servers))
        return next((line for part in parts for line in part.lines if line.id == id), None)

    async def strike(self, server: str, ids: list[str]) -> list[str]:
        """Take authorizations off another server's record; raises PeerUnreachable."""
        answer = await self._engine.ask(server, _encode(Strike(ids)), _ASK_S)
        return _strike_answer(answer).struck

    async def strike_anywhere(self, servers: Iterable[str], id: str) -> tuple[bool, list[str]]:
        """Take one authorization off whichever record it is on: (found, silent servers)."""
        names = [name for name in servers if name != self._server]
        answers = await asyncio.gather(
            *(self.strike(name, [id]) for name in names), return_exceptions=True
        )
        silent = []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, PeerUnreachable):
                silent.append(name)
            elif isinstance(answer, BaseException):
                raise answer
        return any(isinstance(answer, list) and answer for answer in answers), silent

    def _take(self, server: str, report: Report) -> bool:
        """Amend the leader's record (R40); a gap makes the server tell the whole again."""
        if report.term != self._engine.status().term:
            return False
        if report.number == 0:
            self._told[server] = _Told(report)
        told = self._told.get(server)
        if (
            told is None
            or (told.term, told.incarnation) != (report.term, report.incarnation)
            or told.next != report.number
        ):
            return False
        told.next += 1
        told.as_of_s = self._clock.wall()
        for line in report.added:
            told.lines[line.id] = line
        for id in report.removed:
            told.lines.pop(id, None)
        return True

    def _line(self, a: Authorization) -> Line:
        heard_ago_s = self._clock.now() - a.heard_s
        heard_at_s = self._clock.wall() - heard_ago_s
        return Line(a.id, a.feature, a.count, a.client, a.granted_at_s, heard_at_s)


def _choose(
    record: Iterable[Authorization], feature: str, user: str, limit: int
) -> list[Authorization]:
    """Up to `limit` + 1 authorizations that fit."""
    chosen: list[Authorization] = []
    for authorization in record:
        if feature in ("", authorization.feature) and user in ("", authorization.client[1]):
            chosen.append(authorization)
            if len(chosen) > limit:
                break
    return chosen
