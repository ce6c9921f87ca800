"""The vendor's Ed25519 key pair: made once, the private half never on a license server.

May import `cryptography` and `errors`. Keys are PEM text (PKCS #8, RFC 5958, and
SubjectPublicKeyInfo, RFC 8410), so that openssl reads them too, with lines above
that say what the file is. Must not put key material into messages or reprs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from licraft.errors import LicenseError

PRIVATE_NAME = "vendor.key"
PUBLIC_NAME = "vendor.pub"
MAX_KEY_FILE_BYTES = 16 * 1024
SIGNATURE_BYTES = 64
MIN_PASSPHRASE_CHARS = 8
MAX_PASSPHRASE_CHARS = 1024

_LOCKED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_PRIVATE_NOTE = """\
licraft vendor key {fingerprint}: PRIVATE{locked}.
Whoever has this file can make licenses. Keep it with the vendor, backed up, on
no license server.
"""
_PUBLIC_NOTE = """\
licraft vendor key {fingerprint}: public.
License servers check codes with it: name this file in their `vendor_keys`.
"""


@dataclass(frozen=True, slots=True)
class VendorPublicKey:
    """What a license server needs to check a vendor's codes; equal by `fingerprint`."""

    fingerprint: str
    key: Ed25519PublicKey = field(repr=False, compare=False)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` (64 bytes) is this vendor's over `message`."""
        try:
            self.key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class VendorPrivateKey:
    """What makes codes; shows only its public fingerprint."""

    public: VendorPublicKey
    key: Ed25519PrivateKey = field(repr=False, compare=False)

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature (64 bytes) over `message`."""
        return self.key.sign(message)


def generate() -> VendorPrivateKey:
    """A new key pair from the operating system's random source."""
    return _private(Ed25519PrivateKey.generate())


def write_keys(directory: Path, passphrase: str | None = None) -> VendorPrivateKey:
    """Make a key pair and write `vendor.key` (mode 0600) and `vendor.pub` into `directory`.

    Creates the directory. With a `passphrase` the private key is of no use without it.
    Raises LicenseError, with nothing written, when either file exists, since codes of a
    lost key can never be extended.
    """
    key = generate()
    texts = {
        directory / PRIVATE_NAME: (private_text(key, passphrase), 0o600),
        directory / PUBLIC_NAME: (public_text(key.public), 0o644),
    }
    made: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in texts:
            if path.exists():
                raise LicenseError(f"{path} exists and is not replaced; choose another directory")
        for path, (text, mode) in texts.items():
            _write_new(path, text, mode)
            made.append(path)
    except OSError as fault:
        # Half a pair would be in the way of the next attempt.
        for path in made:
            path.unlink(missing_ok=True)
        raise LicenseError(f"cannot write keys into {directory}: {fault.strerror}") from fault
    return key


def private_text(key: VendorPrivateKey, passphrase: str | None = None) -> str:
    """The text of `vendor.key`; with a passphrase encrypted PKCS #8 (PBES2, AES-256)."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        if not MIN_PASSPHRASE_CHARS <= len(passphrase) <= MAX_PASSPHRASE_CHARS:
            raise LicenseError(
                f"the passphrase has {len(passphrase)} characters; expected"
                f" {MIN_PASSPHRASE_CHARS} to {MAX_PASSPHRASE_CHARS}"
            )
        encryption = serialization.BestAvailableEncryption(_passphrase_bytes(passphrase))
    pem = key.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    locked = "" if passphrase is None else ", locked with a passphrase"
    note = _PRIVATE_NOTE.format(fingerprint=key.public.fingerprint, locked=locked)
    return note + pem.decode("ascii")


def public_text(key: VendorPublicKey) -> str:
    """The text of `vendor.pub`."""
    pem = key.key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _PUBLIC_NOTE.format(fingerprint=key.fingerprint) + pem.decode("ascii")


def is_locked(path: Path) -> bool:
    """Whether the private key in `path` needs a passphrase; LicenseError if it is none."""
    return _LOCKED in _private_pem(path)


def load_private_key(path: Path, passphrase: str | None = None) -> VendorPrivateKey:
    """The vendor's private key from `path`; LicenseError says what the file is instead.

    `passphrase` is needed by a key that is locked with one, and ignored by others.
    """
    text = _private_pem(path)
    password = None
    if _LOCKED in text:
        if not passphrase:
            raise LicenseError(f"{path} is locked with a passphrase, and none was given")
        password = _passphrase_bytes(passphrase)
    try:
        key = serialization.load_pem_private_key(text, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if password is None:
            raise LicenseError(f"{path} is damaged: its private key cannot be read") from None
        # A wrong passphrase and damage below it look the same: noise either way.
        raise LicenseError(
            f"{path} cannot be unlocked: the passphrase is wrong, or the file is damaged"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise LicenseError(f"{path} is not an Ed25519 key; `licraft vendor keygen` makes one")
    return _private(key)


def load_public_key(path: Path) -> VendorPublicKey:
    """The vendor's public key from `path`; LicenseError says what the file is instead."""
    text = _read(path)
    if b"PRIVATE KEY-----" in text:
        raise LicenseError(
            f"{path} is a private key, which belongs to the vendor alone: remove it from this"
            f" machine and give the public one ({PUBLIC_NAME})"
        )
    if b"PUBLIC KEY-----" not in text:
        raise LicenseError(f"{path} is not a vendor's public key ({PUBLIC_NAME})")
    try:
        key = serialization.load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise LicenseError(f"{path} is damaged: its public key cannot be read") from None
    if not isinstance(key, Ed25519PublicKey):
        raise LicenseError(f"{path} is not an Ed25519 key, so it is no vendor's public key")
    return _public(key)


def load_trusted_keys(
    paths: Iterable[Path],
) -> tuple[tuple[VendorPublicKey, ...], tuple[Path, ...]]:
    """The keys of a configuration's `vendor_keys`, and those paths where no file is yet.

    A missing file is no error: the pool then runs without a license and says so.
    A wrong or unreadable file is one: raises LicenseError.
    """
    present: dict[str, VendorPublicKey] = {}
    missing = []
    for path in paths:
        if path.exists():
            key = load_public_key(path)
            present[key.fingerprint] = key
        else:
            missing.append(path)
    return tuple(present.values()), tuple(missing)


def _private_pem(path: Path) -> bytes:
    text = _read(path)
    if b"PRIVATE KEY-----" in text:
        return text
    if b"PUBLIC KEY-----" in text:
        raise LicenseError(
            f"{path} is a public key; codes are made with the private one ({PRIVATE_NAME})"
        )
    raise LicenseError(f"{path} is not a vendor key; `licraft vendor keygen` makes one")


def _passphrase_bytes(passphrase: str) -> bytes:
    # Bytes that were no UTF-8 in the environment or in a file come as lone surrogates.
    return passphrase.encode("utf-8", "surrogateescape")


def _private(key: Ed25519PrivateKey) -> VendorPrivateKey:
    return VendorPrivateKey(public=_public(key.public_key()), key=key)


def _public(key: Ed25519PublicKey) -> VendorPublicKey:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return VendorPublicKey(fingerprint=hashlib.sha256(raw).hexdigest()[:16], key=key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as fault:
        raise LicenseError(f"{path} cannot be read: {fault.strerror}") from fault
    if len(text) > MAX_KEY_FILE_BYTES:
        raise LicenseError(f"{path} is too large for a vendor key ({PRIVATE_NAME}, {PUBLIC_NAME})")
    return text


def _write_new(path: Path, text: str, mode: int) -> None:
    """Write a file that does not exist yet, whole and on disk, or leave none behind."""
    # The mode is given at creation: a moment of a readable private key would be one too many.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
