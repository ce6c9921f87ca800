"""What an attacker has: sockets, certificates that are not enough, recordings, bad payloads.

May import licraft.certificates, licraft.replication.peers and the standard library. Nothing
here does harm: a program that is executed makes a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import ssl
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from licraft.certificates import VALIDITY, Certificate, issue, make_authority
from licraft.replication.peers import PeerTls

PATIENCE_S = 5.0
AT_ONCE_S = 1.5
"""Less than the time after which a silent connection is closed for its silence."""


class Papers:
    """An authority in a directory, and what it has signed."""

    def __init__(self, directory: Path, authority: Certificate | None = None) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._authority = authority or make_authority("pool", datetime.now(UTC))
        (directory / "ca.crt").write_text(self._authority.cert, encoding="ascii")

    def of(self, server: str, *, expired: bool = False) -> PeerTls:
        """A certificate for a server, made at the first time that it is asked for."""
        stem = f"{server}-expired" if expired else server
        cert, key = self._directory / f"{stem}.crt", self._directory / f"{stem}.key"
        if not cert.exists():
            at = datetime.now(UTC) - (VALIDITY + timedelta(days=1) if expired else timedelta())
            made = issue(self._authority, server, "127.0.0.1", at)
            cert.write_text(made.cert, encoding="ascii")
            key.write_text(made.key, encoding="ascii")
            key.chmod(0o600)
        return PeerTls(self._directory / "ca.crt", cert, key)


def caller_context(
    papers: PeerTls | None, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """A caller's side of TLS that trusts whoever answers; with these papers, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if papers is not None:
        context.load_cert_chain(papers.cert, papers.key)
    return context


async def say(
    port: int,
    pieces: Iterable[bytes],
    tls: ssl.SSLContext | None = None,
    *,
    within_s: float = PATIENCE_S,
) -> bytes:
    """Connect, say this, and read until the other side ends it; what it answered.

    The other side has to end it: AssertionError if it is still open after `within_s`.
    """
    heard = bytearray()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(within_s):
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                while data := await reader.read(65536):
                    heard += data
    except TimeoutError:
        raise AssertionError(f"still open after {within_s:g} s") from None
    finally:
        if writer is not None:
            writer.transport.abort()
    return bytes(heard)


def frame(kind: int, body: bytes) -> bytes:
    """One frame as `licraft.replication.link` describes it."""
    return (len(body) + 1).to_bytes(4, "big") + bytes([kind]) + body


def frames_of(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each whole frame in a recording."""
    position = 0
    while position + 4 <= len(stream):
        end = position + 4 + int.from_bytes(stream[position : position + 4], "big")
        if end > len(stream):
            return
        yield stream[position + 4], stream[position + 5 : end]
        position = end


class Program:
    """A pickle that makes a file if anybody loads it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes_ = pickle.dumps(_Touch(path))
        pickle.loads(self.bytes_)
        assert self.was_executed(), "it would not show"
        path.unlink()

    def was_executed(self) -> bool:
        """Whether anybody has loaded it."""
        return self._path.exists()


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._path,)
