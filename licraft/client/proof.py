"""Whether the server that granted a seat belongs to a pool that the vendor licensed.

May import `errors`, `wire`, msgspec and, once a `Verifier` is made, cryptography: a program
that asks for no proof does not load it. The chain of a proof is: the vendor's public key, which
the program has, signed a license code; the code names a pool's public key; that key signed
this very answer, with the nonce of this very request. A server that copied the license file, the
codes and every answer that was ever given lacks the pool's private key, and a proof that it
recorded is over another nonce.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from licraft.errors import InvalidRequest
from licraft.wire import Authorization, HeartbeatAnswer, proof_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NOT_PROVED = "not_proved"
"""The problem code of a server that granted a seat and proved nothing."""

VendorKey = str | Path | None
"""A vendor's public key: the path of its `vendor.pub`, or its text; None asks for no proof."""

_PEM = "PUBLIC KEY-----"
_MAX_KEY_BYTES = 16 * 1024
_REMEMBERED = 64
_RENEWED = ("renewed", "adopted", "converted")
# Days begin at different moments around the world, and clocks of machines are off.
_TOLERANCE = timedelta(days=1)


class _Payload(msgspec.Struct):
    """What a proof needs of a license code."""

    feature: str
    pool_key: str | None = None
    starts: date | None = None
    expires: date | None = None


class _Fault(Exception):
    """Why something is no proof."""


class Verifier:
    """Checks the proofs of one pool's servers, with the vendor's public key alone."""

    def __init__(self, vendor_key: str | Path) -> None:
        """Read the key; raises InvalidRequest if it is none."""
        self._vendor = _vendor(vendor_key)
        self._codes: dict[str, _Payload] = {}
        self._pools: dict[str, Ed25519PublicKey] = {}

    def nonce(self) -> str:
        """What a request carries, so that its answer can be no older one: 128 random bits."""
        return secrets.token_urlsafe(16)

    def fault(self, nonce: str, granted: Authorization, today: date | None = None) -> str | None:
        """Why an answer to a checkout does not prove its server's pool, or None if it does."""
        proof = granted.proof
        if not proof or proof.code is None:
            return "sent no proof: is the pool's license bound to its key (`licraft pool request`)?"
        seats = [(granted.id, granted.feature, granted.count, granted.ttl)]
        try:
            code = self._code(proof.code)
            if code.feature != granted.feature:
                raise _Fault(f"its license code is for {code.feature[:64]!r}")
            if code.pool_key is None or code.pool_key != proof.pool_key:
                raise _Fault("its license code is bound to no key or to another pool's")
            day = datetime.now(UTC).date() if today is None else today
            # Differences, since there is no day after the last one, or before the first.
            if code.expires is not None and day - code.expires > _TOLERANCE:
                raise _Fault(f"its license code expired on {code.expires}")
            if code.starts is not None and code.starts - day > _TOLERANCE:
                raise _Fault(f"its license code starts on {code.starts}")
            key = self._pools.get(proof.pool_key) or _key(proof.pool_key)
            text = proof_text(nonce, proof.server, proof.pool_key, seats)
            _verify(key, proof.signature, text, "its proof is not by the licensed pool's key")
        except _Fault as fault:
            return f"proved nothing: {fault}"
        _remember(self._pools, proof.pool_key, key)
        return None

    def renews(
        self,
        nonce: str | msgspec.UnsetType | None,
        answer: HeartbeatAnswer,
        seats: Sequence[tuple[str, int]],
    ) -> bool:
        """Whether a pool that was proved before renewed what an answer to a heartbeat says.

        `seats` are (feature, count) of what was asked for, in its order.
        """
        renewed = [
            (result.id, feature, count, result.ttl)
            for result, (feature, count) in zip(answer.results, seats, strict=True)
            if result.status in _RENEWED
        ]
        if not renewed:
            return True
        proof = answer.proof
        key = self._pools.get(proof.pool_key) if proof is not None else None
        told = [(id, feature, count, ttl) for id, feature, count, ttl in renewed if ttl is not None]
        if proof is None or key is None or not isinstance(nonce, str) or len(told) < len(renewed):
            return False
        try:
            text = proof_text(nonce, proof.server, proof.pool_key, told)
            _verify(key, proof.signature, text, "")
        except _Fault:
            return False
        return True

    def _code(self, code: str) -> _Payload:
        """What a code says that the vendor signed; remembered, since it comes with every grant."""
        known = self._codes.get(code)
        if known is not None:
            return known
        signed, _, signature = code.rpartition(".")
        _verify(self._vendor, signature, signed.encode(), "its license code is not by the vendor")
        try:
            payload = msgspec.json.decode(_bytes(signed.partition(".")[2]), type=_Payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Fault("its license code cannot be read") from None
        _remember(self._codes, code, payload)
        return payload


def _remember(known: dict[str, Any], name: str, value: object) -> None:
    """Keep the last ones."""
    known.pop(name, None)
    known[name] = value
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]


def _vendor(vendor_key: str | Path) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    text, named = vendor_key, "vendor_key"
    if isinstance(vendor_key, Path) or _PEM not in vendor_key:
        named = f"vendor_key {vendor_key}"
        try:
            with Path(vendor_key).open("rb") as file:
                text = str(file.read(_MAX_KEY_BYTES), "utf-8")
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"{named}: {error}", "invalid_request") from None
    try:
        key = load_pem_public_key(str(text).encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidRequest(f"{named}: not a vendor's public key (vendor.pub)", "invalid_request")
    return key


def _key(text: str) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        return Ed25519PublicKey.from_public_bytes(_bytes(text))
    except ValueError:
        raise _Fault("its pool key is no key") from None


def _verify(key: Ed25519PublicKey, signature: str, message: bytes, fault: str) -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(_bytes(signature), message)
    except InvalidSignature:
        raise _Fault(fault) from None


def _bytes(text: str) -> bytes:
    """Unpadded base64url."""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise _Fault("what it sent is no base64url") from None


def held(seats: Iterable[Any]) -> list[tuple[str, int]]:
    """(feature, count) of seats, in their order."""
    return [(seat.feature, seat.count) for seat in seats]
