"""Authorization tokens: what an authorization says, under the pool's secret.

May import msgspec and the standard library. Any server of the pool can tell that a token
was made by one of them; nobody else can make one. Source: pool protocol, section 5.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode
from binascii import b2a_base64

import msgspec

_MAC_BYTES = 16
_VERSION = 1
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

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
        # BLAKE2 with a key is a MAC by itself (RFC 7693), at a fifth of the time of an HMAC.
        self._keyed = hashlib.blake2b(key=secret, digest_size=_MAC_BYTES)
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
        # The fields of TokenFields, in its order.
        body = self._encode((_VERSION, id, feature, count, server, incarnation, client))
        data = b2a_base64(self._mac(body) + body, newline=False)
        return data.translate(_URL_SAFE, b"=").decode("ascii")

    def open(self, token: str) -> TokenFields | None:
        """What a token says, or None if no server of this pool made it."""
        try:
            data = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return None
        mac, body = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            return None
        try:
            fields = self._decode(body)
        except msgspec.MsgspecError:
            return None
        return fields if fields.version == _VERSION else None

    def _mac(self, body: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(body)
        return mac.digest()
