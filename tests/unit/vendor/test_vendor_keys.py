"""The vendor's key files: what is written, what is refused, and that nothing leaks."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from licraft.errors import LicenseError
from licraft.vendor.keys import (
    generate,
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
    with pytest.raises(LicenseError, match="password"):
        load_private_key(path)
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(pem, public))
    with pytest.raises(LicenseError, match="not an Ed25519 key"):
        load_public_key(path)


def test_missing_vendor_keys_are_reported_and_wrong_ones_refused(tmp_path: Path) -> None:
    key = write_keys(tmp_path)
    present, missing = tmp_path / "vendor.pub", tmp_path / "later.pub"
    assert load_trusted_keys([present, missing, present]) == ((key.public,), (missing,))
    with pytest.raises(LicenseError, match="private key"):
        load_trusted_keys([tmp_path / "vendor.key"])
