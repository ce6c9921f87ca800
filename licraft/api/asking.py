"""Who makes a call that changes the pool, as the audit will name them.

May import this room's gate and the server's `asker`. The token says for certain in which role
somebody calls; the name beside it is the client's own word.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from licraft.server.asker import ASKER, Asker

USER_HEADER = b"licraft-user"
"""The header with the client's word for who asks: percent-encoded UTF-8."""

_MAX_USER = 128
_MAX_USER_BYTES = 1024


def attribute(bearer: str, user: bytes, peer: str) -> None:
    """Note, in the caller's context, who asks with `bearer`'s token from the address `peer`."""
    name = unquote_to_bytes(user[:_MAX_USER_BYTES]).decode("utf-8", "replace")
    name = "".join(c for c in name if c.isprintable())[:_MAX_USER]
    ASKER.set(Asker(f"{bearer} ({name})" if name else bearer, peer))
