"""One connection between two servers: frames, the hello, questions and answers.

May import asyncio, msgspec and `messages`. What a link may do, and to whom it delivers, is
its `Hub`'s to say.

A frame is its length (4 bytes, big-endian, of what follows), its kind (1 byte), its body.
Each side says hello (protocol versions, pool, name) before anything else is read, and until
then may send 1 KiB. They go on in the newest version that both speak.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol, cast

import msgspec

from licraft.errors import PeerUnreachable
from licraft.replication import messages
from licraft.replication.engine import AskHandler
from licraft.replication.messages import MAX_FRAME_BYTES, Message, MessageError

log = logging.getLogger(__name__)

OLDEST_PROTOCOL, NEWEST_PROTOCOL = 1, 1
"""What this release speaks: at least what the one before it did, for rolling upgrades."""
MAX_HELLO_BYTES = 1024
MAX_UNSENT_BYTES = 64 * 1024 * 1024
MAX_ASKS = 256
MAX_FRAMES_A_TURN = 256
MAX_BYTES_A_TURN = 1024 * 1024
COMPLAINT_S = 10.0

MAX_REASON_BYTES = 500

HELLO, RAFT, ASK, ANSWER, ANSWER_ERROR, PING, MEMBERS, REFUSED = range(8)
_PREFIX_BYTES = 4
_ASK_ID_BYTES = 8


class Hub(Protocol):
    """What a link needs of the server it belongs to."""

    pool: str
    server: str
    clock: Callable[[], float]
    on_ask: AskHandler

    @property
    def secure(self) -> bool:
        """Whether peers have to show certificates."""
        ...

    @property
    def leading_term(self) -> int | None:
        """The term that this server leads now, if it does."""
        ...

    @property
    def on_activity(self) -> Callable[[], None]:
        """Called after frames arrived, or when some wait to leave."""
        ...

    @property
    def founders(self) -> str:
        """A digest of the servers of which this one would form a pool; empty if there is one."""
        ...

    def knows(self, server: str) -> bool:
        """Whether a server is in the pool, by the newest word that this one has of it."""
        ...

    def expects(self, server: str, *, check: bool) -> bool:
        """Whether it is for that server to connect to this one, to stay or only to check it."""
        ...

    def hear_members(self, server: str, index: int, entries: list[tuple[str, str]]) -> None:
        """Another server tells whom it knows; raises ValueError if that is malformed."""
        ...

    def link_refused(self, server: str, reason: str) -> None:
        """Another server does not let this one in."""
        ...

    def stranger_came(self, link: Link) -> None:
        """A connection without a hello yet."""
        ...

    def link_ready(self, link: Link, server: str) -> None:
        """The peer has said who it is, and it is true."""
        ...

    def link_closed(self, link: Link, reason: str | None) -> None:
        """The connection has ended; without a reason, as it should."""
        ...

    def deliver(self, server: str, message: Message) -> None:
        """A Raft message has arrived."""
        ...


class _Hello(msgspec.Struct, frozen=True, array_like=True):
    """Who speaks, to whom, in which pool and protocols; later releases may say more after it.

    `founders` is a digest of the names of all servers while there is no pool yet: two that
    would form different ones must not talk. With `check` the one that dials wants only this answer:
    `leading` is the term that the other leads, if it does (R22).
    """

    newest: int
    oldest: int
    pool: str
    server: str
    founders: str
    to: str
    check: bool
    leading: int | None


_hello_decoder = msgspec.msgpack.Decoder(_Hello)
_members_decoder = msgspec.msgpack.Decoder(tuple[int, list[tuple[str, str]]])


class Link(asyncio.Protocol):
    """One connection, from its first byte to its last; once closed it delivers nothing (S7)."""

    def __init__(self, hub: Hub, dialed: str | None, *, check: bool = False) -> None:
        """A connection of `hub`, to the server `dialed` or, if None, from whoever came."""
        self._hub = hub
        self._dialed = dialed
        self._check = check
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._resting = False
        self._unrested_bytes = 0
        self._complains_at = 0.0
        # Raft's frames are kept until their turn is sealed, and leave once it is durable.
        self._kept: list[bytes] = []
        self._sealed: list[bytes] = []
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._ask_serial = 0
        self._asks: dict[int, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self.server: str | None = None
        self.leading: int | None = None
        self.closed = False
        self.lost = self._loop.create_future()
        self.received_at = self.sent_at = self.made_at = hub.clock()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register; the side that dialed says hello first."""
        # Not every loop's transports are subclasses of asyncio's (uvloop's are not).
        self._transport = cast(asyncio.Transport, transport)
        self._hub.stranger_came(self)
        if self._dialed is not None and not self.closed:
            self._say_hello(self._dialed)

    def data_received(self, data: bytes) -> None:
        """Keep what has arrived, and take the frames out of it, now or in the next turn."""
        if self.closed:
            return
        self.received_at = self._hub.clock()
        self._buffer += data
        self._unrested_bytes += len(data)
        if not self._resting:
            self._take_frames()

    def _take_frames(self) -> None:
        """Take whole frames out of what has arrived, so many in one turn of the loop.

        The loop serves all peers and clients: one that says more must not keep it.
        """
        if self.closed:
            return
        buffer = self._buffer
        position = taken = 0
        while taken < MAX_FRAMES_A_TURN and len(buffer) - position > _PREFIX_BYTES:
            start = position + _PREFIX_BYTES
            length = int.from_bytes(buffer[position:start], "big")
            if not 1 <= length <= (MAX_FRAME_BYTES if self.server else MAX_HELLO_BYTES):
                self.close(f"it sent a frame of {length} bytes")
                return
            end = start + length
            if end > len(buffer):
                break
            position = end
            taken += 1
            self._frame(buffer[start], bytes(memoryview(buffer)[start + 1 : end]))
            if self.is_closed():
                return
        del buffer[:position]
        self._rest(taken == MAX_FRAMES_A_TURN or self._unrested_bytes > MAX_BYTES_A_TURN)
        self._hub.on_activity()

    def _rest(self, more: bool) -> None:
        """Read nothing new before the next turn, if there may be more than fits in this one."""
        if more:
            self._unrested_bytes = 0
        transport = self._transport
        if transport is not None and more != self._resting and not transport.is_closing():
            (transport.pause_reading if more else transport.resume_reading)()
        self._resting = more
        if more:
            self._loop.call_soon(self._take_frames)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever closed it."""
        self.close(str(exc) if exc else "it closed the connection")
        if not self.lost.done():
            self.lost.set_result(None)

    def is_closed(self) -> bool:
        """Whether it has ended; asked again after each frame, since any may end it."""
        return self.closed

    # Sending.

    def send(self, kind: int, body: bytes) -> bool:
        """Keep a frame for the next flush; a peer that does not drain loses the connection.

        A Raft message waits for `seal` first: it may say what is not durable yet.
        """
        if self.closed:
            return False
        length = len(body) + 1
        frames = self._kept if kind == RAFT else self._unsent
        frames.append(length.to_bytes(_PREFIX_BYTES, "big") + bytes((kind,)))
        frames.append(body)
        self._unsent_bytes += length + _PREFIX_BYTES
        if self.unsent_bytes > MAX_UNSENT_BYTES:
            self.close(f"it left {self.unsent_bytes} bytes unread")
            return False
        return True

    def seal(self) -> None:
        """The Raft messages kept so far say only what the sync that begins now makes durable."""
        self._sealed += self._kept
        self._kept.clear()

    def release(self) -> None:
        """What was sealed is durable: it leaves with the next flush."""
        self._unsent += self._sealed
        self._sealed.clear()

    def flush(self) -> None:
        """Hand to the operating system what may leave."""
        if self._unsent and not self.closed and self._transport is not None:
            data = b"".join(self._unsent)
            self._transport.write(data)
            self._unsent.clear()
            self._unsent_bytes -= len(data)
            self.sent_at = self._hub.clock()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the peer's side of the connection has not taken yet."""
        buffered = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return buffered + self._unsent_bytes

    def turn_away(self, reason: str) -> None:
        """Tell the peer why it may not be here, and close."""
        self.send(REFUSED, reason.encode()[:MAX_REASON_BYTES])
        self.flush()
        self.close(reason, politely=True)

    def close(self, reason: str, *, politely: bool = False) -> None:
        """Stop delivering at once, fail what is asked over it, and say so once.

        `politely` lets leave what the operating system was given already.
        """
        if self.closed:
            return
        self.closed = True
        if self._transport is not None and politely:
            self._transport.close()
        elif self._transport is not None:
            self._transport.abort()
        self._buffer.clear()
        for frames in (self._kept, self._sealed, self._unsent):
            frames.clear()
        for task in self._answering:
            task.cancel()
        for waiting in self._asks.values():
            if not waiting.done():
                waiting.set_exception(PeerUnreachable(f"{self.server}: {reason}"))
        self._asks.clear()
        self._hub.link_closed(self, reason)

    # Frames.

    def _frame(self, kind: int, body: bytes) -> None:
        """Act on one frame."""
        if self.server is None:
            if kind == HELLO:
                self._hear_hello(body)
            elif kind == REFUSED and self._dialed is not None and self._is_certified(self._dialed):
                self._hear_refusal(self._dialed, body)
            else:
                self.close("it did not say hello")
        elif kind == RAFT:
            try:
                message = messages.decode(body)
            except MessageError as fault:
                self.close(f"it sent a {fault}")
                return
            self._hub.deliver(self.server, message)
        elif kind == ASK:
            self._hear_ask(body)
        elif kind in (ANSWER, ANSWER_ERROR):
            self._hear_answer(kind, body)
        elif kind == MEMBERS:
            self._hear_members(self.server, body)
        elif kind == REFUSED:
            self._hear_refusal(self.server, body)
        elif kind != PING:
            self.close(f"it sent a frame of unknown kind {kind}")

    def _say_hello(self, to: str) -> None:
        """Say who speaks; nothing that has to be durable is said, so it leaves at once."""
        hub = self._hub
        hello = _Hello(
            NEWEST_PROTOCOL,
            OLDEST_PROTOCOL,
            hub.pool,
            hub.server,
            hub.founders,
            to,
            self._check,
            hub.leading_term,
        )
        self.send(HELLO, msgspec.msgpack.encode(hello))
        self.flush()

    def _hear_hello(self, body: bytes) -> None:
        """Let the peer in if it is whom it says, in this pool, and the one that should be here."""
        try:
            hello = _hello_decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.close("its hello is malformed")
            return
        fault = self._fault_of(hello)
        if fault is not None:
            self.close(fault)
            return
        refusal = self._refusal_of(hello)
        if refusal is not None:
            self.turn_away(refusal)
            return
        self._check = hello.check
        if self._dialed is None:
            self._say_hello(hello.server)
        if hello.check:
            self.leading = hello.leading
            self._end_check()
        else:
            self.server = hello.server
            self._hub.link_ready(self, hello.server)

    def _end_check(self) -> None:
        """A check is over with the two hellos; what was said still leaves."""
        self.closed = True
        self._hub.link_closed(self, None)
        if self._transport is not None:
            self._transport.close()

    def _fault_of(self, hello: _Hello) -> str | None:
        """What is wrong with a hello, or None."""
        hub = self._hub
        if not max(hello.oldest, OLDEST_PROTOCOL) <= min(hello.newest, NEWEST_PROTOCOL):
            theirs, ours = (hello.oldest, hello.newest), (OLDEST_PROTOCOL, NEWEST_PROTOCOL)
            return f"it speaks the protocols {theirs[0]} to {theirs[1]}, not {ours[0]} to {ours[1]}"
        if hello.pool != hub.pool or hello.to != hub.server:
            return f"it wants {hello.to!r} of pool {hello.pool!r}"
        if self._dialed is not None and hello.server != self._dialed:
            return f"it is {hello.server!r}, not {self._dialed!r}"
        if self._dialed is not None and hello.check != self._check:
            return "it answers another purpose"
        if not self._is_certified(hello.server):
            return f"its certificate is not for {hello.server!r}"
        return None

    def _refusal_of(self, hello: _Hello) -> str | None:
        """Why a peer that is whom it says may not be here, or None."""
        hub = self._hub
        if hello.founders and hub.founders and hello.founders != hub.founders:
            return f"the list of servers that {hello.server!r} has is not {hub.server!r}'s"
        if not hub.knows(hello.server):
            return f"{hello.server!r} is no server of the pool, by what {hub.server!r} knows"
        if self._dialed is None and not hub.expects(hello.server, check=hello.check):
            return f"{hello.server!r} is not the one that dials {hub.server!r}"
        return None

    def _is_certified(self, server: str) -> bool:
        """Whether the peer has shown that it is `server`, where that has to be shown."""
        return not self._hub.secure or server in self._certified_names()

    def tell_members(self, index: int, entries: list[tuple[str, str]]) -> None:
        """Tell the peer whom this server knows."""
        self.send(MEMBERS, msgspec.msgpack.encode((index, entries)))

    def _hear_members(self, server: str, body: bytes) -> None:
        """Hear whom a peer knows."""
        try:
            index, entries = _members_decoder.decode(body)
            self._hub.hear_members(server, index, entries)
        except (ValueError, UnicodeDecodeError) as fault:
            self.close(f"its list of servers is malformed: {fault}")

    def _hear_refusal(self, server: str, body: bytes) -> None:
        """A peer does not let this server in."""
        reason = body[:MAX_REASON_BYTES].decode("utf-8", "replace")
        self._hub.link_refused(server, reason)
        self.close(f"{server} refuses this server: {reason}")

    @cached_property
    def certificate_ends_s(self) -> float | None:
        """When the peer's certificate expires, in seconds since 1970; None without one."""
        ends = self._certificate().get("notAfter")
        return ssl.cert_time_to_seconds(ends) if ends else None

    def _certified_names(self) -> frozenset[str]:
        """The DNS names of the peer's certificate."""
        names = self._certificate().get("subjectAltName", ())
        return frozenset(name for kind, name in names if kind == "DNS")

    def _certificate(self) -> dict[str, Any]:
        """The peer's certificate, which the TLS handshake has verified; empty without TLS."""
        session = self._transport and self._transport.get_extra_info("ssl_object")
        return (session.getpeercert() or {}) if session else {}

    # Questions.

    async def ask(self, body: bytes, timeout_s: float) -> bytes:
        """Ask the peer; raises PeerUnreachable."""
        if len(self._asks) >= MAX_ASKS:
            raise PeerUnreachable(f"{self.server}: {MAX_ASKS} questions are open already")
        self._ask_serial += 1
        serial = self._ask_serial
        waiting: asyncio.Future[bytes] = self._loop.create_future()
        self._asks[serial] = waiting
        self.send(ASK, serial.to_bytes(_ASK_ID_BYTES, "big") + body)
        self._hub.on_activity()
        try:
            async with asyncio.timeout(timeout_s):
                return await waiting
        except TimeoutError:
            raise PeerUnreachable(f"{self.server}: no answer within {timeout_s:g} s") from None
        finally:
            self._asks.pop(serial, None)

    def _hear_ask(self, frame: bytes) -> None:
        """Start answering a question."""
        serial, body = frame[:_ASK_ID_BYTES], frame[_ASK_ID_BYTES:]
        if len(serial) < _ASK_ID_BYTES:
            self.close("its question has no number")
        elif len(self._answering) >= MAX_ASKS:
            self.send(ANSWER_ERROR, serial + b"too many questions")
        else:
            task = self._loop.create_task(self._answer(serial, body))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, serial: bytes, body: bytes) -> None:
        """Answer a question with what the handler returns."""
        assert self.server is not None
        kind, answer = ANSWER, b""
        try:
            answer = await self._hub.on_ask(self.server, body)
            if len(answer) > MAX_FRAME_BYTES // 2:
                raise ValueError(f"the answer has {len(answer)} bytes")
        except Exception as fault:  # noqa: BLE001  # Any kind is the asker's PeerUnreachable.
            self._complain()
            kind, answer = ANSWER_ERROR, type(fault).__name__.encode()
        self.send(kind, serial + answer)
        self._hub.on_activity()

    def _complain(self) -> None:
        """Log the fault of the moment, at most once in a while: a peer can cause many."""
        now = self._hub.clock()
        if now >= self._complains_at:
            self._complains_at = now + COMPLAINT_S
            log.warning("could not answer a question of %s", self.server, exc_info=True)

    def _hear_answer(self, kind: int, frame: bytes) -> None:
        """Give an answer to whoever still waits for it."""
        serial = int.from_bytes(frame[:_ASK_ID_BYTES], "big")
        waiting = self._asks.pop(serial, None)
        if waiting is None or waiting.done():
            return
        if kind == ANSWER:
            waiting.set_result(frame[_ASK_ID_BYTES:])
        else:
            reason = frame[_ASK_ID_BYTES : _ASK_ID_BYTES + 200].decode("utf-8", "replace")
            waiting.set_exception(PeerUnreachable(f"{self.server} could not answer: {reason}"))
