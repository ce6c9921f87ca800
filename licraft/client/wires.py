"""Whether a server's machine is still there, by what its kernel acknowledges.

May import the standard library only. A program that stands still and a machine that is
gone look alike to who waits for an answer, but only the first one's kernel acknowledges
what it is sent. Linux tells (tcp(7), TCP_INFO); elsewhere nothing is known.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Protocol

_INFO_BYTES = 28
_RETRANSMITS_AT, _UNACKED_AT = 2, 24  # struct tcp_info of linux/tcp.h


class Wire(Protocol):
    """A connected socket, or what an event loop shows of it."""

    def fileno(self) -> int:
        """Its descriptor, or -1 when it is closed."""


class Wires:
    """The open connections to each server."""

    def __init__(self) -> None:
        self._open: dict[str, list[Wire]] = {}

    def add(self, url: str, wire: Wire | None) -> None:
        """Take note of a new connection, and forget those that are closed."""
        self._open = {known: found for known in self._open if (found := self._alive(known))}
        if wire is not None:
            self._open.setdefault(url, []).append(wire)

    def unheard(self, url: str) -> bool:
        """Whether something was sent to `url` that was not acknowledged though sent again."""
        return any(map(_unacknowledged, self._alive(url)))

    def _alive(self, url: str) -> list[Wire]:
        return [wire for wire in self._open.get(url, ()) if wire.fileno() >= 0]


def _unacknowledged(wire: Wire) -> bool:
    if sys.platform != "linux":
        return False
    try:
        with socket.socket(fileno=os.dup(wire.fileno())) as own:
            info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return False  # it was closed meanwhile, or we are out of descriptors
    (unacked,) = struct.unpack_from("=I", info, _UNACKED_AT)
    return info[_RETRANSMITS_AT] > 0 and unacked > 0
