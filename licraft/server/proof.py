"""The pool's key pair, and proofs by it: that a server belongs to the pool that was licensed.

May import the core, `wire` and cryptography. The private key is derived from the pool's
secret, which every server of the pool has in its replicated state: it is stored nowhere else and
never shown. The vendor binds codes to the public key; a program that has the vendor's public
key can then tell this pool from any server that copied all but the secret. Nothing is
signed for a request without a nonce.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from datetime import date

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from licraft.core.license import CodeStatus, LicenseFile, code_statuses
from licraft.core.record import Authorization
from licraft.core.state import PoolState
from licraft.wire import Authorization as Granted
from licraft.wire import HeartbeatAnswer, Problem, Proof, proof_text

_INFO = b"licraft pool key"


class PoolKey:
    """The Ed25519 key pair that belongs to a pool's secret."""

    def __init__(self, secret: str) -> None:
        """`secret` is the pool's, in hexadecimal."""
        seed = HKDF(SHA256(), length=32, salt=None, info=_INFO).derive(bytes.fromhex(secret))
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = _text(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> str:
        """The signature over `message`, in base64url."""
        return _text(self._key.sign(message))


class Prover:
    """Proves to clients that ask for it, for one server."""

    def __init__(
        self,
        server: str,
        state: Callable[[], PoolState],
        find: Callable[[str], Authorization | None],
    ) -> None:
        """`find` looks an authorization of this server up by its id."""
        self._server = server
        self._state = state
        self._find = find
        self._key: PoolKey | None = None
        self._derived_from = ""
        self._codes: dict[str, str] = {}
        self._codes_of: tuple[LicenseFile, date] | None = None

    def checkout(self, nonce: str, result: tuple[int, Granted | Problem]) -> None:
        """Add the proof to an authorization, if a code of its feature is bound to this pool."""
        _, granted = result
        if isinstance(granted, Granted) and (code := self._code(granted.feature)) is not None:
            seats = [(granted.id, granted.feature, granted.count, granted.ttl)]
            granted.proof = self._proof(nonce, seats, code)

    def heartbeat(self, nonce: str, result: tuple[int, HeartbeatAnswer | Problem]) -> None:
        """Add one proof for all that was renewed; the code was told with the checkout."""
        _, answer = result
        if not isinstance(answer, HeartbeatAnswer):
            return
        seats = []
        for row in answer.results:
            held = self._find(row.id) if row.ttl is not None else None
            if held is not None and row.ttl is not None:
                seats.append((held.id, held.feature, held.count, row.ttl))
        answer.proof = self._proof(nonce, seats, None)

    def _proof(
        self, nonce: str, seats: Iterable[tuple[str, str, int, float]], code: str | None
    ) -> Proof:
        secret = self._state().secret
        if self._key is None or self._derived_from != secret:
            self._key, self._derived_from = PoolKey(secret), secret
        text = proof_text(nonce, self._server, self._key.public, seats)
        return Proof(self._key.public, self._server, self._key.sign(text), code)

    def _code(self, feature: str) -> str | None:
        """A valid code of a feature that is bound to this pool's key."""
        state = self._state()
        # A tuple's parts are the same first and equal second: one file is not read through.
        if self._codes_of != (seen := (state.license, state.pool_day)):
            statuses = code_statuses(state.license, state.pool, state.pool_day, state.pool_key)
            self._codes = {
                code.feature: code.code
                for code, status in zip(state.license.codes, statuses, strict=True)
                if status is CodeStatus.VALID and code.pool_key == state.pool_key
            }
            self._codes_of = seen
        return self._codes.get(feature)


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
