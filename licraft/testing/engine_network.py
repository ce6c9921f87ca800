"""Virtual time, and the network between simulated engines: connections that come and go.

May import the standard library and `replication`'s figures. It carries frames and knows
nothing of Raft. A connection is like TCP: what one side sends arrives in order or not at
all, a partition delays it as long as the connection lasts, and the two ends learn of its
end at different times, or never. Whatever is random comes from one seeded source, in an
order that depends on nothing else.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

from licraft.replication.messages import Message
from licraft.replication.peers import CONNECT_S, RETRY_S

Frame: TypeAlias = tuple[bytes, Message]
"""The bytes that travel, and what they say: for whoever watches."""

PING: Frame = (b"", {"type": "ping"})
HELLO: Frame = (b"", {"type": "hello"})
JITTER_S = 0.03
RETRANSMISSION_S = 0.4
SPLIT = 0.3
_TIME = struct.Struct("d")


class Schedule:
    """Virtual time: what happens next happens at once, and nothing else takes time."""

    def __init__(self) -> None:
        self._now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` in `delay_s` seconds; what is due at one time happens in order."""
        self.at(self.now + delay_s, action, *arguments)

    def at(self, time_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` when it is `time_s`."""
        self.events += 1
        heapq.heappush(self._heap, (time_s, self.events, action, arguments))

    def run(self, until_s: float, enough: Callable[[], bool] | None = None) -> bool:
        """Let time pass until `until_s`, or `enough` says so: then True."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self._now, _, action, arguments = heapq.heappop(heap)
            action(*arguments)
            if enough is not None and enough():
                return True
        self._now = until_s
        return False


class Process(Protocol):
    """What the network needs of a server's process."""

    name: str

    @property
    def alive(self) -> bool:
        """Whether it has neither been killed nor stopped itself."""
        ...

    @property
    def founders(self) -> tuple[str, ...]:
        """The servers of which it would form a pool; none if there is one."""
        ...

    def admits(self, other: Process) -> bool:
        """Whether it lets another one in, by what that one says of itself."""
        ...

    def at_work(self, action: Callable[[], None]) -> None:
        """Let it do something now, or when it is continued; the dead do nothing."""
        ...

    def clock(self) -> float:
        """Its own monotonic clock (s)."""
        ...

    def link_ready(self, link: Link) -> None:
        """A connection is there, in place of any other with the same peer."""
        ...

    def link_closed(self, link: Link) -> None:
        """A connection has ended."""
        ...

    def receive(self, link: Link, frames: list[Frame]) -> None:
        """Frames have arrived, in one piece."""
        ...

    def leading(self) -> int | None:
        """The term that it leads, for whoever checks it (R22)."""
        ...


class Link:
    """One process's end of a connection, and the way from it to the other end."""

    __slots__ = (
        "arrives_at",
        "closed",
        "kept",
        "lost_at",
        "other",
        "peer",
        "process",
        "ready",
        "received_at",
        "sealed",
        "sent_at",
        "stalled_until",
        "unread_bytes",
        "wanted",
        "way",
    )

    def __init__(self, process: Process, peer: str, wanted: Callable[[], bool] | None) -> None:
        """`wanted` says whether the peer is dialed still; None for one that has dialed itself."""
        self.process = process
        self.peer = peer
        self.way = (process.name, peer)
        self.wanted = wanted
        self.other: Link | None = None
        self.ready = False
        self.closed = False
        self.kept: list[Frame] = []
        self.sealed: list[Frame] = []
        self.unread_bytes = 0
        self.arrives_at = 0.0
        self.lost_at = math.inf
        self.stalled_until = 0.0
        self.received_at = self.sent_at = process.clock()

    def forget(self) -> None:
        """Close this end: what it has not sent is gone."""
        self.closed = True
        self.kept.clear()
        self.sealed.clear()


class Network:
    """The ways between servers: how long they take, which are blocked, who is connected."""

    def __init__(
        self, schedule: Schedule, rng: random.Random, latency_s: float, *, stale: bool = False
    ) -> None:
        """`latency_s` is the least that any way takes.

        With `stale`, connections that were replaced still deliver: S7 without its guard.
        """
        self.schedule = schedule
        self.processes: dict[str, Process] = {}
        self.blocked: set[tuple[str, str]] = set()
        self.slow_s: dict[tuple[str, str], float] = {}
        self.frames = 0
        self.stale = stale
        self._rng = rng
        self._latency = latency_s
        self._seen = hashlib.sha256()
        self._links: dict[tuple[str, str], Link] = {}
        self._waiting: dict[tuple[str, str], list[tuple[Link, list[Frame]]]] = {}

    # For processes.

    def dial(self, process: Process, server: str, wanted: Callable[[], bool]) -> None:
        """Have a connection to `server`: each time there is none, it is tried while `wanted`."""
        if not process.alive or not wanted():
            return
        acceptor = self.processes.get(server)
        if acceptor is None and self._open(process.name, server):
            self.dial_later(process, server, wanted)  # Refused: nobody listens.
            return
        link = Link(process, server, wanted)
        self.schedule.after(CONNECT_S, process.at_work, partial(self._give_up, link))
        if acceptor is not None and self._open(process.name, server):
            delay_s = self.latency_s(link.way)
            self.schedule.after(delay_s, acceptor.at_work, partial(self._accept, link, acceptor))

    def dial_later(self, process: Process, server: str, wanted: Callable[[], bool]) -> None:
        """Dial again after the pause that keeps servers from dialing in step."""
        self.schedule.after(
            self._rng.uniform(*RETRY_S),
            process.at_work,
            partial(self.dial, process, server, wanted),
        )

    def carry(self, link: Link, frames: list[Frame]) -> None:
        """Send frames; they arrive after all that was sent over the link before."""
        schedule, rng = self.schedule, self._rng
        self.frames += len(frames)
        while len(frames) > 1 and rng.random() < SPLIT:
            # What is written at once need not be read at once.
            middle = rng.randrange(1, len(frames))
            first, frames = frames[:middle], frames[middle:]
            link.arrives_at = max(link.arrives_at, schedule.now + self.latency_s(link.way))
            schedule.at(link.arrives_at, self._arrive, link, first)
        link.arrives_at = max(link.arrives_at, schedule.now + self.latency_s(link.way))
        schedule.at(link.arrives_at, self._arrive, link, frames)

    def hang_up(self, link: Link) -> None:
        """Close an end; the other hears of it if the network is open by then."""
        if link.closed:
            return
        link.forget()
        if self._rng.random() < 0.5:
            link.lost_at = self.schedule.now
        self.schedule.after(self.latency_s(link.way), self._tell_end, link)

    def check(self, asker: Process, server: str, done: Callable[[int | None], None]) -> None:
        """Ask a server over a fresh connection which term it leads; no answer, no call."""
        target = self.processes.get(server)
        if target is None or not self._open(asker.name, server):
            return
        there_s = 2 * self.latency_s((asker.name, server))
        back_s = 2 * self.latency_s((server, asker.name))

        def answer() -> None:
            if self._open(asker.name, server):
                told = partial(done, target.leading() if target.admits(asker) else None)
                self.schedule.after(back_s, asker.at_work, told)

        self.schedule.after(there_s, target.at_work, answer)

    def vanish(self, process: Process, links: list[Link], *, silently: bool) -> None:
        """A process is gone: its system closes what it had, unless that is gone too."""
        if self.processes.get(process.name) is process:
            del self.processes[process.name]
        for link in links:
            if silently:
                link.forget()
                if self._rng.random() < 0.5:
                    link.lost_at = self.schedule.now
            else:
                self.hang_up(link)

    # What goes wrong.

    def reset(self, a: str, b: str) -> None:
        """Break the connection of two servers; each end learns of it in its own time."""
        rng, now = self._rng, self.schedule.now
        for way in ((a, b), (b, a)):
            link = self._links.get(way)
            if link is None or link.closed:
                continue
            notices_s = rng.choice((0.0, 0.001, 0.05, 0.5, 2.5))
            if rng.random() < 0.5:
                link.lost_at = now
            else:
                # What is on its way stays there, and may arrive when there is another connection.
                link.stalled_until = max(link.stalled_until, now + rng.uniform(0.0, 3.0))
            notice = partial(link.process.link_closed, link)
            self.schedule.after(notices_s, link.process.at_work, notice)

    def block(self, way: tuple[str, str]) -> None:
        """Let nothing pass from one server to another."""
        self.blocked.add(way)

    def unblock(self, way: tuple[str, str]) -> None:
        """Let pass again, soon also what was sent meanwhile."""
        if way in self.blocked:
            self.blocked.discard(way)
            delay_s = self._rng.uniform(0.0, RETRANSMISSION_S)
            self.schedule.after(delay_s, self._retransmit, way)

    def heal(self) -> None:
        """Unblock everything, and let it be fast."""
        self.slow_s.clear()
        for way in sorted(self.blocked):
            self.unblock(way)

    def fingerprint(self) -> str:
        """A digest of all that was delivered, and when: two equal runs have the same."""
        return self._seen.hexdigest()[:16]

    # Connections.

    def _open(self, a: str, b: str) -> bool:
        """Whether two servers can reach each other, both ways."""
        return (a, b) not in self.blocked and (b, a) not in self.blocked

    def latency_s(self, way: tuple[str, str]) -> float:
        """How long a way takes this time: mostly little, now and then much."""
        r = self._rng.random()
        if self.slow_s:
            slow_s = self.slow_s.get(way)
            if slow_s is not None:
                return slow_s * r
        r *= r
        r *= r
        return self._latency + JITTER_S * r * r * r

    def _accept(self, dialing: Link, acceptor: Process) -> None:
        """Somebody has dialed: both say hello, and the acceptor lets it in, or does not."""
        if dialing.closed or not self._open(*dialing.way):
            return
        if not acceptor.admits(dialing.process):
            delay_s = self.latency_s((acceptor.name, dialing.process.name))
            told = partial(self._give_up, dialing)
            self.schedule.after(delay_s, dialing.process.at_work, told)
            return
        accepted = Link(acceptor, dialing.process.name, None)
        accepted.other, dialing.other = dialing, accepted
        self._be_ready(accepted)
        self.carry(accepted, [HELLO])

    def _be_ready(self, link: Link) -> None:
        """An end has heard the other's hello."""
        link.ready = True
        self._links[link.way] = link
        link.process.link_ready(link)

    def _give_up(self, dialing: Link) -> None:
        """Nobody has answered in time."""
        if not dialing.ready and not dialing.closed:
            self.hang_up(dialing)
            if dialing.wanted is not None:
                self.dial_later(dialing.process, dialing.peer, dialing.wanted)

    def _arrive(self, link: Link, frames: list[Frame]) -> None:
        """Frames have come to the other end's machine, or to where the way is blocked."""
        now, end = self.schedule.now, link.other
        if end is None or now > link.lost_at:
            return
        if now < link.stalled_until:
            self.schedule.at(link.stalled_until, self._arrive, link, frames)
            return
        if link.way in self.blocked or link.way in self._waiting:
            self._waiting.setdefault(link.way, []).append((link, frames))
            return
        end.process.at_work(partial(self._read, link, end, frames))
        if end.closed and not link.closed and link.peer in self.processes:
            self.schedule.after(self.latency_s(end.way), self._tell_end, end)

    def _retransmit(self, way: tuple[str, str]) -> None:
        """What waited behind a partition arrives."""
        if way not in self.blocked:
            for link, frames in self._waiting.pop(way, ()):
                self._arrive(link, frames)

    def _read(self, link: Link, end: Link, frames: list[Frame]) -> None:
        """The process at the other end reads; a closed connection delivers nothing (S7)."""
        link.unread_bytes -= sum([len(frame[0]) for frame in frames])
        if end.closed and not (self.stale and end.ready):
            return
        self._seen.update(_TIME.pack(self.schedule.now))
        for frame in frames:
            self._seen.update(frame[0])
        end.received_at = end.process.clock()
        if not end.ready:
            if end.process.admits(link.process):
                self._be_ready(end)
            else:
                self._give_up(end)
            return
        end.process.receive(end, frames)

    def _tell_end(self, link: Link) -> None:
        """The other end hears that this one is closed."""
        end = link.other
        if end is None or end.closed or link.way in self.blocked:
            return
        if end.ready:
            end.process.at_work(partial(end.process.link_closed, end))
        else:
            end.process.at_work(partial(self._give_up, end))
