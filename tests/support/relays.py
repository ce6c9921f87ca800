"""A network in a test's hand: TCP relays between servers, each direction of which can be cut.

May import the standard library only. What a cut direction has taken is held, not lost, and
is delivered when it is mended, as TCP does; a new connection is made when both directions
are whole. The relays run on an event loop in a thread of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

CHUNK_BYTES = 64 * 1024
MAX_RECORDED_BYTES = 4 * 1024 * 1024
CALL_S = 10.0

Route = tuple[str, str]
"""From whom to whom bytes go."""

DialerOf = Callable[[int], str | None]
"""Whose connection comes from a local port; None if it is gone already."""


class Network:
    """Relays on loopback; used as a context manager, whose end closes everything."""

    def __init__(self, *names: str) -> None:
        """A whole network between these servers."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._whole = {(a, b): asyncio.Event() for a in names for b in names if a != b}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._recorded: dict[Route, list[list[bytes]]] = {}

    def __enter__(self) -> Network:
        self._thread.start()
        self.mend_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        self._loop.close()

    def relay(self, target: str, port: int, dialer_of: DialerOf) -> int:
        """The port at which all others reach `target`, which listens on `port`."""
        return self._call(self._listen(target, port, dialer_of))

    def recording(self, dialer: str, target: str) -> list[bytes]:
        """What was said over the longest connection of `dialer` to `target`, piece by piece."""
        return max(self._recorded[dialer, target], key=lambda said: sum(map(len, said)))

    def cut(self, source: str, target: str) -> None:
        """No byte passes from `source` to `target` any more, whoever has connected."""
        self._loop.call_soon_threadsafe(self._whole[source, target].clear)

    def mend(self, source: str, target: str) -> None:
        """Bytes pass again, those that were held first."""
        self._loop.call_soon_threadsafe(self._whole[source, target].set)

    def isolate(self, server: str) -> None:
        """Cut a server off from all others, in both directions."""
        for source, target in self._whole:
            if server in (source, target):
                self.cut(source, target)

    def mend_all(self) -> None:
        """Make the network whole."""
        for source, target in self._whole:
            self.mend(source, target)

    # On the loop.

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    async def _listen(self, target: str, port: int, dialer_of: DialerOf) -> int:
        async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            dialer = await asyncio.to_thread(dialer_of, writer.get_extra_info("peername")[1])
            if dialer is not None:
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await self._join(dialer, target, port, reader, writer)
            writer.transport.abort()

        server = await asyncio.start_server(come, "127.0.0.1", 0)
        self._servers.append(server)
        found: int = server.sockets[0].getsockname()[1]
        return found

    async def _join(
        self,
        dialer: str,
        target: str,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Connect to the target, and move bytes until one of the two ends it."""
        forth, back = self._whole[dialer, target], self._whole[target, dialer]
        await forth.wait()
        await back.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        said: list[bytes] = []
        self._recorded.setdefault((dialer, target), []).append(said)
        try:
            async with asyncio.TaskGroup() as moves:
                moves.create_task(_move(reader, far_writer, forth, _keep_in(said)))
                moves.create_task(_move(far_reader, writer, back, _keep_nothing))
        except* OSError:
            pass
        finally:
            far_writer.transport.abort()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _move(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    whole: asyncio.Event,
    keep: Callable[[bytes], None],
) -> None:
    """Move bytes, and then the end, while the direction is whole; raises OSError at the end."""
    while data := await reader.read(CHUNK_BYTES):
        await whole.wait()
        keep(data)
        writer.write(data)
        await writer.drain()
    await whole.wait()
    raise ConnectionResetError("one side has ended the connection")


def _keep_in(said: list[bytes]) -> Callable[[bytes], None]:
    """Keep what is said, up to a bound."""

    def keep(data: bytes) -> None:
        if sum(map(len, said)) < MAX_RECORDED_BYTES:
            said.append(data)

    return keep


def _keep_nothing(data: bytes) -> None:
    """Keep nothing of what is said."""
