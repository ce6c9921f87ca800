"""License codes: a vendor's signed statements, one line of text each.

    LIC1.<base64url payload>.<base64url signature>

May import `core.license`, `errors`, `wire` and this room. The payload is compact
JSON with sorted keys; the signature is Ed25519 over the text before the last dot.
`read_code` separates two questions: is this a code at all (if not, LicenseError
says what is wrong, and where), and did a trusted vendor sign it (`trusted`).
Must not judge dates or pools: that depends on the day and belongs to the core.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from licraft.core.license import LicenseCode
from licraft.errors import LicenseError
from licraft.vendor.keys import SIGNATURE_BYTES, VendorPrivateKey, VendorPublicKey
from licraft.vendor.paste import PREFIX, long_dash, readings
from licraft.vendor.wording import one_line, shown
from licraft.wire import MAX_COUNT, RequestId

MAX_CODE_CHARS = 8 * 1024
MAX_OPTIONS = 64

Text = Annotated[str, Meta(min_length=1, max_length=128)]
PoolName = Annotated[str, Meta(min_length=1, max_length=64)]
OptionName = Annotated[str, Meta(min_length=1, max_length=64)]
OptionValue = Annotated[str, Meta(max_length=256)]
Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
_POOL_KEY = r"^[A-Za-z0-9_-]{43}$(?!\n)"
PoolKey = Annotated[str, Meta(pattern=_POOL_KEY)]
Options = Annotated[dict[OptionName, OptionValue], Meta(max_length=MAX_OPTIONS)]

_SIGNATURE_CHARS = -(-SIGNATURE_BYTES * 4 // 3)  # base64url, without padding
_REMEMBERED = 10_000
_NAMED_KEYS = 3
_TEXTS = ("vendor", "id", "feature", "version", "pool")
_WHOLE = re.compile(rf"{PREFIX}(\.[A-Za-z0-9_-]+){{2}}")
_BYTE = re.compile(r"\(byte (\d+)\)$")


class _Payload(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The signed fields, exactly as the public contract names them."""

    vendor: Text
    id: RequestId
    feature: Text
    version: Text | None
    count: Count
    starts: date | None
    expires: date | None
    pool: PoolName | None
    options: Options
    pool_key: PoolKey | None = None


class _Wish(Struct, forbid_unknown_fields=True):
    """A payload from a vendor's own system: only what has no default is required."""

    feature: Text
    count: Count
    vendor: Text | None = None
    id: RequestId | None = None
    version: Text | None = None
    starts: date | None = None
    expires: date | None = None
    pool: PoolName | None = None
    options: Options | None = None
    pool_key: str | None = None  # `make_code` says what one looks like.


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
    pool_key: str | None = None,
) -> str:
    """One signed license code for `count` seats of `feature`.

    `starts` and `expires` are whole UTC days, both inclusive; `version` covers itself
    and older ones; `pool` is the only pool that may use the code. `vendor` is the
    key's fingerprint and `id` 16 random letters and digits unless given. `pool_key`, which
    `licraft pool request` prints, binds the code to the one pool that can prove to programs
    that it has that key. Raises LicenseError for anything that `read_code` would refuse.
    """
    if pool_key is not None and not re.fullmatch(_POOL_KEY, str(pool_key)):
        raise LicenseError(
            f"the pool key {shown(pool_key)} is none: expected the 43 letters, digits, - and _"
            " that `licraft pool request` prints"
        )
    payload = {
        "vendor": key.public.fingerprint if vendor is None else vendor,
        "id": _new_id() if id is None else id,
        "feature": feature,
        "version": version,
        "count": count,
        "starts": starts,
        "expires": expires,
        "pool": pool,
        "options": dict(options or {}),
        **({} if pool_key is None else {"pool_key": pool_key}),
    }
    try:
        body = msgspec.json.encode(payload, order="sorted")
    except UnicodeEncodeError:
        raise LicenseError("the license code would hold text that is not UTF-8") from None
    except (TypeError, OverflowError) as fault:
        raise LicenseError(f"the license code cannot hold this: {one_line(str(fault))}") from None
    _read_payload(body)
    signed = f"{PREFIX}.{_encode(body)}"
    code = f"{signed}.{_encode(key.sign(signed.encode('ascii')))}"
    if len(code) > MAX_CODE_CHARS:
        raise LicenseError(
            f"the license code would have {len(code)} characters, more than {MAX_CODE_CHARS}:"
            " give it fewer or shorter options"
        )
    return code


def sign_payload(key: VendorPrivateKey, payload: str | bytes) -> str:
    """The signed license code for a payload, a JSON object, that the vendor's system made.

    Its names are those of `make_code`; `feature` and `count` are required, days are
    "YYYY-MM-DD", and what is absent or null gets `make_code`'s default. Raises LicenseError.
    """
    body = payload.encode("utf-8", "surrogatepass") if isinstance(payload, str) else payload
    try:
        wish = msgspec.json.decode(body, type=_Wish)
    except msgspec.ValidationError as fault:
        raise LicenseError(f"the payload is wrong: {one_line(str(fault))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise LicenseError(f"the payload is not JSON: {one_line(str(fault))}") from None
    _refuse_repeated_names(body)
    return make_code(key, **msgspec.structs.asdict(wish))


def read_code(text: str, keys: Iterable[VendorPublicKey]) -> LicenseCode:
    """The license code that `text` is; `trusted` when one of `keys` signed it.

    What mail and word processors add is removed (`vendor.paste`): `.code` is the code
    itself. Raises LicenseError for text that is no well-formed code, whoever signed it.
    """
    if len(text) > 2 * MAX_CODE_CHARS:
        raise LicenseError(_too_long(len(text)))
    if _WHOLE.fullmatch(text):
        return _read(text, keys)
    first, *others = readings(text)
    try:
        return _read(first, keys)
    except LicenseError as fault:
        for other in others:
            try:
                return _read(other, keys)
            except LicenseError:
                continue
        if others:
            raise LicenseError(
                f"{long_dash(text)}: one hyphen or two stood there, and neither makes it a code;"
                " put back what the vendor sent"
            ) from None
        raise fault


def distrust(code: LicenseCode, keys: Iterable[VendorPublicKey]) -> str:
    """Why none of `keys` verifies a code, as well as the code itself tells."""
    known = [key.fingerprint for key in keys]
    ours = " or ".join(known[:_NAMED_KEYS]) or "any that is known here"
    if code.vendor in known:
        return (
            f"it names the vendor's key {code.vendor} but is not what that key signed: it, or its"
            " signature, was changed"
        )
    if re.fullmatch("[0-9a-f]{16}", code.vendor):
        return f"it names the vendor's key {code.vendor}, not {ours}"
    return f"it was changed, or signed by another key than {ours}"


def _read(code: str, keys: Iterable[VendorPublicKey]) -> LicenseCode:
    """A code without anything around it, read."""
    if len(code) > MAX_CODE_CHARS:
        raise LicenseError(_too_long(len(code)))
    payload = _read_payload(_payload_of(code))
    # The key that the code names is tried first: with several keys that is usually the one.
    likely_first = sorted(keys, key=lambda key: key.fingerprint != payload.vendor)
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
        pool_key=payload.pool_key,
        options=tuple(sorted(payload.options.items())),
        trusted=any(_is_signed(key, code) for key in likely_first),
    )


@lru_cache(maxsize=_REMEMBERED)
def _is_signed(key: VendorPublicKey, code: str) -> bool:
    """Whether `key` signed a well-formed code; remembered, since a file's codes come again.

    A verification takes five times as long as all the rest of reading a code.
    """
    signed, _, signature = code.rpartition(".")
    return key.verifies(decode_part("signature", signature), signed.encode("ascii"))


def _payload_of(code: str) -> bytes:
    """The payload's bytes of a text that has two or more parts; its other parts are whole."""
    _, text, *rest = code.split(".")
    if len(rest) > 1:
        raise LicenseError(
            f"the license code has {2 + len(rest)} parts between dots; expected 3. Are there two"
            " codes in one line?"
        )
    if not text:
        raise LicenseError("the license code has nothing between its dots, where its payload is")
    if not rest or not rest[0]:
        raise LicenseError(f"the license code is cut short: {_missing_after(text)}")
    length = len(rest[0])
    if length < _SIGNATURE_CHARS:
        raise LicenseError(
            f"the license code is cut short: its signature, behind the last dot, has {length} of"
            f" {_SIGNATURE_CHARS} characters"
        )
    if length > _SIGNATURE_CHARS:
        raise LicenseError(
            f"the license code's signature, behind the last dot, has {length} characters instead"
            f" of {_SIGNATURE_CHARS}: is there more in the line than the code?"
        )
    decode_part("signature", rest[0])
    return decode_part("payload", text)


def _missing_after(text: str) -> str:
    """What a code lacks that ends in or after the payload `text`."""
    try:
        _read_payload(decode_part("payload", text))
    except LicenseError:
        return f"it ends within its payload, after {len(PREFIX) + 1 + len(text)} characters"
    return f"its signature is missing, a dot and {_SIGNATURE_CHARS} characters"


def _read_payload(body: bytes) -> _Payload:
    try:
        payload = msgspec.json.decode(body, type=_Payload)
    except msgspec.ValidationError as fault:
        said = one_line(str(fault))
        raise LicenseError(f"the license code's payload is wrong: {said}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        said = f"{one_line(str(fault))}{_near(str(fault))}"
        raise LicenseError(f"the license code's payload is not JSON: {said}") from None
    except RecursionError:
        raise LicenseError("the license code's payload is nested too deeply") from None
    if msgspec.json.encode(payload, order="sorted") != body:
        _refuse_repeated_names(body)
    _check_texts(payload)
    if payload.starts and payload.expires and payload.starts > payload.expires:
        raise LicenseError(
            f"the license code starts on {payload.starts}, after it expires on {payload.expires}"
        )
    return payload


def _near(said: str) -> str:
    """The place in the code of the payload's byte that a message of msgspec names."""
    byte = _BYTE.search(said)
    if not byte:
        return ""
    return f": look near character {len(PREFIX) + 2 + int(byte[1]) * 4 // 3} of the code"


def _refuse_repeated_names(body: bytes) -> None:
    # The decoder lets the last of two equal names win: what a person reads first would lose.
    def pairs(members: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise LicenseError(f"the payload has the name {shown(name)} twice")
            seen.add(name)

    json.loads(body, object_pairs_hook=pairs)


def _check_texts(payload: _Payload) -> None:
    # Names travel into tables, log lines, URLs and lmstat output, where a line
    # break or a slash would make one thing look like two.
    texts = [(name, getattr(payload, name)) for name in _TEXTS]
    for field, value in [*texts, *(("options", name) for name in payload.options)]:
        if value is not None and (not value.isprintable() or value != value.strip()):
            raise LicenseError(
                f"the license code's `{field}` is {shown(value)}; expected printable text without"
                " white space around it"
            )
    if re.search(r"[/\\]|\A\.{1,2}\Z", payload.feature):
        raise LicenseError(
            f"the license code's `feature` is {shown(payload.feature)}: `/`, `\\` and names of"
            " dots alone are not allowed"
        )


def _new_id() -> str:
    """80 random bits in 16 letters and digits: as good as a UUID here, and 20 shorter."""
    return base64.b32encode(secrets.token_bytes(10)).decode("ascii").lower()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_part(part: str, text: str) -> bytes:
    """Unpadded base64url in its one canonical spelling, so that a code has one text only."""
    if len(text) % 4 == 1:
        raise LicenseError(
            f"the license code's {part} has {len(text)} characters, which none can have (base64url,"
            " RFC 4648): a character was lost or added"
        )
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _encode(data) != text:
        raise LicenseError(
            f"the last character of the license code's {part} is {text[-1]!r}, which cannot be"
            " there: it was changed, or what follows was lost"
        )
    return data


def _too_long(length: int) -> str:
    return f"the license code has {length} characters, more than {MAX_CODE_CHARS}"
