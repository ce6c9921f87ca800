"""Authorization tokens: what an authorization says, under the pool's secret.

May import msgspec and the standard library. Any server of the pool can tell that a token
was made by one of them; nobody else can make one. Source: pool protocol, section 5.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

_MAC_BYTES = 16
_VERSION = 1

ClientFields = tuple[str, str, str, int, str]
"""id, user, host, pid, app."""


class TokenFields(msgspec.Struct, array_like=True, gc=False):
    """What a token carries."""

    version: int
    id: str
    feature: str
    count: int
    server: str
    incarnation: int
    client: ClientFields


class TokenMint:
    """Seals and opens the tokens of one pool."""

    def __init__(self, secret: bytes) -> None:
        """`secret` is the pool's, from the replicated state."""
        self._secret = secret
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(TokenFields).decode

    def seal(
        self,
        id: str,
        feature: str,
        count: int,
        server: str,
        incarnation: int,
        client: ClientFields,
    ) -> str:
        """A token of these fields."""
        body = self._encode(TokenFields(_VERSION, id, feature, count, server, incarnation, client))
        mac = hmac.digest(self._secret, body, "sha256")[:_MAC_BYTES]
        return urlsafe_b64encode(mac + body).decode("ascii").rstrip("=")

    def open(self, token: str) -> TokenFields | None:
        """What a token says, or None if no server of this pool made it."""
        try:
            data = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return None
        mac, body = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not hmac.compare_digest(mac, hmac.digest(self._secret, body, "sha256")[:_MAC_BYTES]):
            return None
        try:
            fields = self._decode(body)
        except msgspec.MsgspecError:
            return None
        return fields if fields.version == _VERSION else None
