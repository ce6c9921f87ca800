"""License codes: a vendor's signed statements, one line of text each.

    LIC1.<base64url payload>.<base64url signature>

May import `core.license`, `errors`, `wire` and `vendor.keys`. The payload is
compact JSON with sorted keys; the signature is Ed25519 over the text before the
last dot. `read_code` separates two questions: is this a code at all (if not,
LicenseError says what is wrong), and did a trusted vendor sign it (`trusted`).
Must not judge dates or pools: that depends on the day and belongs to the core.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from licraft.core.license import LicenseCode
from licraft.errors import LicenseError
from licraft.vendor.keys import SIGNATURE_BYTES, VendorPrivateKey, VendorPublicKey
from licraft.wire import MAX_COUNT, RequestId

MAX_CODE_CHARS = 8 * 1024
MAX_OPTIONS = 64
PREFIX = "LIC1"

Text = Annotated[str, Meta(min_length=1, max_length=128)]
PoolName = Annotated[str, Meta(min_length=1, max_length=64)]
OptionName = Annotated[str, Meta(min_length=1, max_length=64)]
OptionValue = Annotated[str, Meta(max_length=256)]

# What mail programs put into long lines beside ordinary white space: zero-width
# characters, soft hyphens and byte order marks.
_MAIL_DUST = re.compile("[\\s\u00ad\u200b-\u200d\u2060\ufeff]+")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


class _Payload(Struct, forbid_unknown_fields=True):
    """The signed fields, exactly as the public contract names them."""

    vendor: Text
    id: RequestId
    feature: Text
    version: Text | None
    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)]
    starts: date | None
    expires: date | None
    pool: PoolName | None
    options: Annotated[dict[OptionName, OptionValue], Meta(max_length=MAX_OPTIONS)]


def make_code(
    key: VendorPrivateKey,
    *,
    feature: str,
    count: int,
    vendor: str | None = None,
    id: str | None = None,
    version: str | None = None,
    starts: date | None = None,
    expires: date | None = None,
    pool: str | None = None,
    options: Mapping[str, str] | None = None,
) -> str:
    """One signed license code for `count` seats of `feature`.

    `starts` and `expires` are whole UTC days, both inclusive. `vendor` is the
    key's fingerprint and `id` a random UUID unless given. Raises LicenseError
    for anything that `read_code` would refuse.
    """
    payload = {
        "vendor": key.public.fingerprint if vendor is None else vendor,
        "id": str(uuid.uuid4()) if id is None else id,
        "feature": feature,
        "version": version,
        "count": count,
        "starts": starts,
        "expires": expires,
        "pool": pool,
        "options": dict(options or {}),
    }
    try:
        body = msgspec.json.encode(payload, order="sorted")
    except UnicodeEncodeError:
        raise LicenseError("the license code would hold text that is not UTF-8") from None
    _read_payload(body)
    signed = f"{PREFIX}.{_encode(body)}"
    code = f"{signed}.{_encode(key.sign(signed.encode('ascii')))}"
    if len(code) > MAX_CODE_CHARS:
        raise LicenseError(
            f"the license code would have {len(code)} characters, more than {MAX_CODE_CHARS}:"
            " give it fewer or shorter options"
        )
    return code


def read_code(text: str, keys: Iterable[VendorPublicKey]) -> LicenseCode:
    """The license code that `text` is; `trusted` when one of `keys` signed it.

    White space and line breaks that mail adds are ignored. Raises LicenseError
    for text that is no well-formed code, whoever signed it.
    """
    if len(text) > 2 * MAX_CODE_CHARS:
        raise LicenseError(_too_long(len(text)))
    code = _MAIL_DUST.sub("", text)
    if len(code) > MAX_CODE_CHARS:
        raise LicenseError(_too_long(len(code)))
    signed, body, signature = _split(code)
    payload = _read_payload(body)
    message = signed.encode("ascii")
    return LicenseCode(
        code=code,
        id=payload.id,
        vendor=payload.vendor,
        feature=payload.feature,
        count=payload.count,
        version=payload.version,
        starts=payload.starts,
        expires=payload.expires,
        pool=payload.pool,
        options=tuple(sorted(payload.options.items())),
        trusted=any(key.verifies(signature, message) for key in keys),
    )


def _split(code: str) -> tuple[str, bytes, bytes]:
    """The signed text, the payload's bytes and the signature of a code."""
    parts = code.split(".")
    if parts[0] != PREFIX:
        raise LicenseError(f"not a license code: it does not begin with `{PREFIX}.`")
    if len(parts) < 3:
        raise LicenseError("the license code is cut short: it has no signature")
    if len(parts) > 3:
        raise LicenseError(
            f"the license code has {len(parts)} parts between dots; expected 3. Are there two"
            " codes in one line?"
        )
    body = _decode("payload", parts[1])
    signature = _decode("signature", parts[2])
    if len(signature) != SIGNATURE_BYTES:
        raise LicenseError(
            f"the license code's signature has {len(signature)} bytes; expected"
            f" {SIGNATURE_BYTES}. Was the end of the code lost?"
        )
    return f"{PREFIX}.{parts[1]}", body, signature


def _read_payload(body: bytes) -> _Payload:
    try:
        payload = msgspec.json.decode(body, type=_Payload)
    except msgspec.ValidationError as fault:
        raise LicenseError(f"the license code's payload is wrong: {fault}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise LicenseError(f"the license code's payload is not JSON: {fault}") from None
    except RecursionError:
        raise LicenseError("the license code's payload is nested too deeply") from None
    _check_texts(payload)
    if payload.starts and payload.expires and payload.starts > payload.expires:
        raise LicenseError(
            f"the license code starts on {payload.starts}, after it expires on {payload.expires}"
        )
    return payload


def _check_texts(payload: _Payload) -> None:
    # Names travel into tables, log lines, URLs and lmstat output, where a line
    # break or a slash would make one thing look like two.
    for field in ("vendor", "id", "feature", "version", "pool"):
        value = getattr(payload, field)
        if value is not None and (not value.isprintable() or value != value.strip()):
            raise LicenseError(
                f"the license code's `{field}` is {value!r}; expected printable text without"
                " white space around it"
            )
    if "/" in payload.feature:
        raise LicenseError(
            f"the license code's `feature` is {payload.feature!r}: `/` is not allowed"
        )


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(part: str, text: str) -> bytes:
    """Unpadded base64url in its one canonical spelling, so that a code has one text only."""
    fault = LicenseError(
        f"the license code's {part} is not base64url text (RFC 4648, no padding). Was the code"
        " cut short or changed on its way?"
    )
    if not _BASE64URL.fullmatch(text):
        raise fault
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise fault from None
    if _encode(data) != text:
        raise fault
    return data


def _too_long(length: int) -> str:
    return f"the license code has {length} characters, more than {MAX_CODE_CHARS}"
