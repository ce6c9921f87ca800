"""The vendor's key files: what is written, what is refused, and that nothing leaks."""

from __future__ import annotations

import base64
import errno
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from licraft.errors import LicenseError
from licraft.vendor.keys import (
    generate,
    is_locked,
    load_private_key,
    load_public_key,
    load_trusted_keys,
    private_text,
    public_text,
    write_keys,
)


def test_written_keys_can_be_loaded_and_belong_together(tmp_path: Path) -> None:
    key = write_keys(tmp_path / "new")
    private = load_private_key(tmp_path / "new" / "vendor.key")
    public = load_public_key(tmp_path / "new" / "vendor.pub")
    assert private == key
    assert public == key.public
    assert public.verifies(private.sign(b"x"), b"x")
    assert not public.verifies(private.sign(b"x"), b"y")
    assert not public.verifies(generate().sign(b"x"), b"x")


def test_the_private_key_is_for_its_owner_only_and_in_no_repr(tmp_path: Path) -> None:
    key = write_keys(tmp_path)
    assert stat.S_IMODE((tmp_path / "vendor.key").stat().st_mode) == 0o600
    body = private_text(key).splitlines()[-2]
    assert body not in repr(key)
    assert "Ed25519" not in repr(key)
    assert "PRIVATE" not in (tmp_path / "vendor.pub").read_text()


@pytest.mark.parametrize("present", ["vendor.key", "vendor.pub"])
def test_keys_are_never_overwritten(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("precious")
    with pytest.raises(LicenseError, match=f"{present} exists"):
        write_keys(tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(present, "precious")]


def test_the_two_files_given_the_wrong_way_round_are_named_as_such(tmp_path: Path) -> None:
    write_keys(tmp_path)
    with pytest.raises(LicenseError, match="is a public key"):
        load_private_key(tmp_path / "vendor.pub")
    with pytest.raises(LicenseError, match=r"is a private key.*remove it"):
        load_public_key(tmp_path / "vendor.key")


@pytest.mark.parametrize("load", [load_private_key, load_public_key])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is not a"),
        (b"\xff\xfe nothing", "is not a"),
        (b"x" * 20_000, "too large"),
    ],
)
def test_what_is_no_key_is_refused(
    tmp_path: Path, load: object, content: bytes | None, message: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LicenseError, match=message):
        load(path)  # type: ignore[operator]  # one of two functions of the same shape


def test_damaged_keys_are_refused(tmp_path: Path) -> None:
    key = generate()
    path = tmp_path / "file"
    path.write_text(private_text(key).replace("MC4C", "MC4X"))
    with pytest.raises(LicenseError, match="damaged"):
        load_private_key(path)
    path.write_text(public_text(key.public).replace("MCow", "MCox"))
    with pytest.raises(LicenseError, match="damaged"):
        load_public_key(path)


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "file"
    private = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()))
    with pytest.raises(LicenseError, match="not an Ed25519 key"):
        load_private_key(path)
    path.write_bytes(
        key.private_bytes(pem, private, serialization.BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(LicenseError, match="locked with a passphrase"):
        load_private_key(path)
    with pytest.raises(LicenseError, match="not an Ed25519 key"):
        load_private_key(path, "secret")
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(pem, public))
    with pytest.raises(LicenseError, match="not an Ed25519 key"):
        load_public_key(path)


PASSPHRASE = "correct horse battery stäple"


def test_a_locked_key_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    key = write_keys(tmp_path, PASSPHRASE)
    path = tmp_path / "vendor.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_locked(path)
    assert load_private_key(path, PASSPHRASE) == key
    assert load_public_key(tmp_path / "vendor.pub") == key.public
    for wrong in ("correct horse battery staple", PASSPHRASE + " ", "x" * 8):
        with pytest.raises(LicenseError, match="the passphrase is wrong, or the file is damaged"):
            load_private_key(path, wrong)
    for none in (None, ""):
        with pytest.raises(LicenseError, match="locked with a passphrase, and none was given"):
            load_private_key(path, none)


def test_a_locked_key_is_encrypted_in_the_standard_form(tmp_path: Path) -> None:
    key = write_keys(tmp_path, PASSPHRASE)
    text = (tmp_path / "vendor.key").read_bytes()
    assert b"PRIVATE, locked with a passphrase" in text
    read = serialization.load_pem_private_key(text, PASSPHRASE.encode())
    assert isinstance(read, Ed25519PrivateKey)
    assert read.private_bytes_raw() == key.key.private_bytes_raw()
    assert base64.b64encode(key.key.private_bytes_raw()) not in text


def test_a_key_that_is_not_locked_needs_no_passphrase(tmp_path: Path) -> None:
    key = write_keys(tmp_path)
    assert not is_locked(tmp_path / "vendor.key")
    assert load_private_key(tmp_path / "vendor.key", "anything") == key
    with pytest.raises(LicenseError, match="is a public key"):
        is_locked(tmp_path / "vendor.pub")


@pytest.mark.parametrize("passphrase", ["", "1234567", "x" * 1025])
def test_a_passphrase_that_is_too_short_or_too_long_makes_no_key(
    tmp_path: Path, passphrase: str
) -> None:
    with pytest.raises(LicenseError, match=r"the passphrase has .* characters; expected 8 to 1024"):
        write_keys(tmp_path / "keys", passphrase)
    assert not (tmp_path / "keys").exists()


def test_when_the_disk_is_full_no_half_of_a_pair_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if (tmp_path / "vendor.pub").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LicenseError, match="No space left"):
        write_keys(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_vendor_keys_are_reported_and_wrong_ones_refused(tmp_path: Path) -> None:
    key = write_keys(tmp_path)
    present, missing = tmp_path / "vendor.pub", tmp_path / "later.pub"
    assert load_trusted_keys([present, missing, present]) == ((key.public,), (missing,))
    with pytest.raises(LicenseError, match="private key"):
        load_trusted_keys([tmp_path / "vendor.key"])
