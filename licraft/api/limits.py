"""The bounds of the HTTP server: everything that a client can make grow or last.

May import nothing of licraft. The bounds of bodies are in `licraft.wire`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds; times are checked every `sweep_s`, so that much late."""

    connections: int = 20_000
    head_bytes: int = 32 * 1024  # bytes in a row that are not body: headers, trailers, chunk heads
    message_bytes: int = 8 * 1024 * 1024  # a whole message, so what is read and dropped is bounded
    pipelined: int = 16  # requests read ahead of the one being answered
    piece_bytes: int = 4096  # as much is parsed before these bounds are looked at again
    receive_s: float = 10.0  # from the first byte of a request to its last
    idle_s: float = 120.0  # without a request
    stalled_s: float = 60.0  # while the client does not read its answers
    handshake_s: float = 10.0  # TLS
    stop_s: float = 5.0  # for the requests under way when the server stops
    sweep_s: float = 2.0
