"""HTTP/1.1 on one connection: uvicorn's protocol, with a shorter way for the client calls.

May import uvicorn, httptools and this room's values. A plain request for one of
the client calls, on a connection that owes no earlier answer, is answered from the
parser's callback: no task, no ASGI messages. Everything else (another call, an
unusual header, a body too large, an answer still owed) is replayed to uvicorn's
protocol as if we had not looked, and the ASGI application answers it by the same
operations. Order of pipelined answers, keep-alive and chunking stay uvicorn's.

A client sends the same head again and again. A head that was parsed once, byte for
byte, need not be parsed again: `Shared.heads` remembers what it was found to say.

Overridden of uvicorn: the parser's callbacks, `data_received`, `connection_made`,
`connection_lost`, `pause_writing`, `resume_writing`, `on_response_complete` and
`send_400_response`; tests/unit/api pins that they exist.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from licraft.api.app import PENDING
from licraft.api.limits import Limits
from licraft.api.operations import Operation
from licraft.api.replies import JSON, Reply, http_bytes, problem, problem_reply, status_line
from licraft.core.outcomes import Code
from licraft.wire import MAX_BODY_BYTES

log = logging.getLogger(__name__)

CLOSE = (b"connection", b"close")
_END_OF_HEAD = b"\r\n\r\n"
_MAX_HEADS = 4096
_MAX_UNSENT = 256


class Head(NamedTuple):
    """What a request's head, from its first byte to its empty line, was found to say."""

    operation: Operation
    body_bytes: int


class Shared(ServerState):
    """What the connections of one server share: operations, limits and the Date header."""

    def __init__(
        self,
        operations: dict[bytes, Operation],
        limits: Limits,
        settle: Callable[[], None],
    ) -> None:
        super().__init__()
        self._settle = settle
        self._unsent: list[tuple[asyncio.Transport, bytes]] = []
        self.operations = operations  # the client calls by the path as it is on the wire
        self.limits = limits
        self.emptied = asyncio.Event()  # set when the last connection has gone
        self.heads: dict[bytes, Head] = {}
        self._heads: dict[int, bytes] = {}

    def learn(self, head: bytes, says: Head) -> None:
        """Remember what a head says; as many as there are callers, then begin anew."""
        if len(self.heads) >= _MAX_HEADS:
            self.heads.clear()
        self.heads[head] = says

    def send(self, transport: asyncio.Transport, message: bytes) -> None:
        """Send an answer at the end of this turn of the loop, once what it promises is settled."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self.flush)
        self._unsent.append((transport, message))
        if len(self._unsent) >= _MAX_UNSENT:
            self.flush()  # so that a client who does not read is noticed in time

    def flush(self) -> None:
        """Send what is to be sent: one settling for all the answers of a turn."""
        unsent, self._unsent = self._unsent, []
        if unsent:
            self._settle()
        for transport, message in unsent:
            if not transport.is_closing():
                transport.write(message)

    def set_date(self, date: bytes) -> None:
        """Change the Date header, once a second."""
        self.default_headers = [(b"date", date)]
        self._heads.clear()

    def message(self, answer: Reply) -> bytes:
        """The whole HTTP message of an answer that leaves the connection open."""
        if answer.media is not JSON or answer.extra:
            return http_bytes(answer, self.default_headers)
        head = self._heads.get(answer.status)
        if head is None:
            date = b"".join(b"%b: %b\r\n" % header for header in self.default_headers)
            head = status_line(answer.status) + date + b"content-type: " + JSON
            head += b"\r\ncontent-length: "
            self._heads[answer.status] = head
        return b"%b%d\r\n\r\n%b" % (head, len(answer.body), answer.body)


class ReadGate(FlowControl):
    """uvicorn's flow control, which reads no more than its connection has room for."""

    def __init__(
        self,
        transport: asyncio.Transport,
        has_room: Callable[[], bool],
        resumed: Callable[[], None],
    ) -> None:
        super().__init__(transport)
        self._loop = asyncio.get_running_loop()
        self._has_room = has_room
        self._resumed = resumed

    def resume_reading(self) -> None:
        """Go on in the loop's next turn, first with what was already read."""
        if self.read_paused and not self.write_paused and self._has_room():
            self.read_paused = False
            self._loop.call_soon(self._resumed)


class LicenseProtocol(HttpToolsProtocol):
    """One connection of a client."""

    server_state: Shared

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: Shared,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared = server_state
        self._limits = server_state.limits
        self._find = server_state.operations.get
        self._known = server_state.heads
        # The bytes of a request that came in one piece, and its answer if it is known already.
        self._whole = b""
        self._answer: Reply | Awaitable[Reply] | None = None
        # The request being received. `_hot` is its operation while the fast path has it.
        self._hot: Operation | None = None
        self._plain = True
        self._authorization: bytes | None = None
        self._pieces: list[bytes] = []
        self._receiving = False
        self._receiving_since: float | None = None
        self._upgrade_body_left = 0
        self._head_bytes = 0
        self._message_bytes = 0
        # The connection.
        self._running: RequestResponseCycle | None = None
        self._unread = bytearray()
        self._refused = False  # nothing more is read: the peer is over a bound or not HTTP
        self._active = True
        self._quiet_since = self.loop.time()
        self._stalled_since: float | None = None

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or turn it away when there are too many."""
        if len(self.connections) >= self._limits.connections:
            refused = problem(
                503, Code.OVERLOADED, "this server has too many connections: try another one"
            )
            refused.retry_after = 1.0
            headers = [*self._shared.default_headers, CLOSE]
            self._refused = True
            self.transport = transport
            transport.write(http_bytes(problem_reply(refused), headers))
            transport.close()
            return
        super().connection_made(transport)
        self.flow = ReadGate(transport, self._has_room, self._read_on)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request being answered: uvicorn tells only the last one that came in."""
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        self._unread.clear()
        super().connection_lost(exc)
        if not self.connections:
            self._shared.emptied.set()

    def data_received(self, data: bytes) -> None:
        """Parse what came, in pieces if it is much."""
        self._active = True
        if len(data) <= self._limits.piece_bytes and not self._unread and not self._refused:
            if self._receiving or self._upgrade_body_left:
                self._parse(data)
            else:
                self._request_received(data)
        elif not self._refused:
            self._unread += data
            self._read_on()

    def _request_received(self, data: bytes) -> None:
        """Answer one whole request with a head that is known; parse anything else."""
        end = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        head = self._known.get(data[:end])
        if head is not None and len(data) - end == head.body_bytes and not self._owes_an_answer():
            answer = head.operation.answer_allowed(data[end:])
            if type(answer) is Reply:
                self._shared.send(self.transport, self._shared.message(answer))
                return
            self._answer = answer
        self._whole = data
        self._parse(data)
        self._whole = b""

    def _read_on(self) -> None:
        """Parse what was read before, as far as the flow allows; then read again."""
        size = self._limits.piece_bytes
        while self._unread and not self.flow.read_paused:
            if self._refused or self.transport.is_closing():
                self._unread.clear()
                return
            piece = bytes(self._unread[:size])
            del self._unread[:size]
            self._parse(piece)
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _has_room(self) -> bool:
        return len(self.pipeline) < self._limits.pipelined

    def _parse(self, data: bytes) -> None:
        rest = self._parse_some(data)
        while rest and not self._refused:
            rest = self._parse_some(rest)
        if self._receiving:
            self._bound_half_received(len(data))

    def _parse_some(self, data: bytes) -> bytes:
        """Parse; where the parser stops at a request to upgrade, return what follows.

        We offer no other protocol, so such a request is answered as if it had not
        asked (RFC 9110, section 7.8; Java's HttpClient asks with its first request).
        llhttp leaves its body to us.
        """
        if self._upgrade_body_left:
            body, rest = data[: self._upgrade_body_left], data[self._upgrade_body_left :]
            self._upgrade_body_left -= len(body)
            self.on_body(body)
            if not self._upgrade_body_left:
                self.on_message_complete()
            return rest
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, (httptools.HttpParserError, ValueError, type(None))):
                log.error("the HTTP parser's callback failed", exc_info=cause)
            self.send_400_response("this is not a valid HTTP/1.1 request")
        return b""

    def pause_writing(self) -> None:
        """A client that does not read its answers is not read from either."""
        super().pause_writing()
        self._stalled_since = self.loop.time()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._stalled_since = None
        self.flow.resume_reading()

    # The parser's side

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.headers = []
        self._plain = True
        self._authorization = None
        self._receiving = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; one that changes how the request is received makes it not plain."""
        name = name.lower()
        self.headers.append((name, value))
        if name in _LOOKED_AT:
            if name == b"authorization":
                self._authorization = value
            elif name == b"content-length":
                if len(value) > 9 or int(value) > MAX_BODY_BYTES:
                    self._plain = False
            elif name != b"connection" or value.lower() != b"keep-alive":
                self._plain = False

    def on_headers_complete(self) -> None:
        """Choose the way: answered here, or replayed to uvicorn."""
        self._hot = self._find(self.url) if self._plain else None
        if self._hot is not None and (
            self.parser.get_method() != b"POST"
            or self._owes_an_answer()
            or self.parser.get_http_version() != "1.1"
        ):
            self._hot = None
        if self._hot is None:
            if self.parser.should_upgrade():
                self._upgrade_body_left = _length_of_body(self.headers)
            self._replay()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._head_bytes = 0
        if self._hot is not None:
            self._pieces.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer, if the fast path has the request."""
        if self._upgrade_body_left:
            return
        self._receiving = False
        self._receiving_since = None
        operation = self._hot
        if operation is None:
            super().on_message_complete()
            return
        self._hot = None
        body = b"".join(self._pieces)
        self._pieces.clear()
        answer, self._answer = self._answer, None
        if answer is None:
            answer = operation.answer(self._authorization, body)
            self._learn(operation, body)
        if type(answer) is Reply:
            self._shared.send(self.transport, self._shared.message(answer))
        else:
            self._replay(answer)  # type: ignore[arg-type]  # mypy keeps Reply in the union
            super().on_message_complete()

    def _learn(self, operation: Operation, body: bytes) -> None:
        """Remember the head of a request that came in one piece, if its caller is allowed."""
        whole = self._whole
        end = whole.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        if len(whole) - end == len(body) and operation.refusal(self._authorization) is None:
            self._shared.learn(whole[:end], Head(operation, len(body)))

    def _replay(self, pending: Awaitable[Reply] | None = None) -> None:
        """Tell uvicorn's protocol of the request as far as it has come.

        With `pending` the application only waits for that reply and sends it.
        """
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        if pending is not None:
            self.scope[PENDING] = pending  # type: ignore[literal-required]  # ASGI allows more keys
        owed = self._owes_an_answer()
        super().on_headers_complete()
        if not owed:
            self._running = self.cycle
        else:
            # uvicorn stops reading here; but a connection that is not read from does
            # not show that its client is gone, so go on while there is room.
            self.flow.resume_reading()

    def _owes_an_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        """The application has answered: go on with what was read ahead."""
        self._active = True
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._running = cycle
            task = self.loop.create_task(cycle.run_asgi(app))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        self.flow.resume_reading()

    # Bounds

    def _bound_half_received(self, size: int) -> None:
        """Count a request that has not come whole; refuse it over a bound."""
        if self._receiving_since is None:
            self._receiving_since = self.loop.time()
            self._head_bytes = self._message_bytes = 0
        self._head_bytes += size
        self._message_bytes += size
        if self._head_bytes > self._limits.head_bytes:
            detail = f"the header fields may have at most {self._limits.head_bytes} bytes together"
            self._refuse(problem_reply(problem(431, Code.TOO_LARGE, detail)))
        elif self._message_bytes > self._limits.message_bytes:
            self._refuse(problem_reply(problem(413, Code.TOO_LARGE, "the request is too large")))

    def sweep(self, now: float) -> None:
        """End the connection if a bound of time has passed; called every now and then."""
        if self._active:
            self._active = False
            self._quiet_since = now
        limits = self._limits
        if self._stalled_since is None and self.transport.is_closing():
            self._stalled_since = now  # the last bytes may take as long as others
        if self._stalled_since is not None and now - self._stalled_since > limits.stalled_s:
            self.transport.abort()
        elif self._receiving and self._receiving_since is not None:
            if self.flow.read_paused:
                self._receiving_since = now  # it is we who do not read
            elif now - self._receiving_since > limits.receive_s:
                self._refused = True
                self.transport.close()
        elif not self._owes_an_answer() and now - self._quiet_since > limits.idle_s:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(problem_reply(problem(400, Code.INVALID_REQUEST, msg)))

    def _refuse(self, answer: Reply) -> None:
        """Answer and close; if earlier answers are owed, close after the last of them."""
        self._shared.flush()
        self._refused = True
        self._receiving = False
        broken = self.cycle if self.cycle is not None and self.cycle.more_body else None
        if broken is not None and broken is not self._running:
            self.pipeline.popleft()  # the last that came in; it will never be whole
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is not None and last is not broken and not last.response_complete:
            last.keep_alive = False
            return
        if broken is None or broken is not self._running or not broken.response_started:
            self.transport.write(http_bytes(answer, [*self._shared.default_headers, CLOSE]))
        self.transport.close()


def _length_of_body(headers: list[tuple[bytes, bytes]]) -> int:
    """The Content-Length; raises ValueError for a body whose length is not told."""
    fields = dict(headers)
    if b"transfer-encoding" in fields:
        raise ValueError("a request to upgrade has a chunked body")
    return int(fields.get(b"content-length", b"0"))


_LOOKED_AT = frozenset(
    {
        b"authorization",
        b"content-length",
        b"connection",
        b"expect",
        b"transfer-encoding",
        b"upgrade",
    }
)
