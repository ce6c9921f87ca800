"""License codes: what is signed is what is read, and nothing else passes."""

from __future__ import annotations

import base64
import itertools
import json
import re
import string
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licraft.core.license import CodeStatus
from licraft.errors import LicenseError
from licraft.vendor.codes import MAX_CODE_CHARS, distrust, make_code, read_code, sign_payload
from licraft.vendor.keys import VendorPublicKey, generate

KEY = generate()
KEYS = [KEY.public]

VALID: dict[str, Any] = {
    "vendor": "ACME",
    "id": "code-1",
    "feature": "cad",
    "version": "2026.1",
    "count": 10,
    "starts": "2026-01-01",
    "expires": "2026-12-31",
    "pool": None,
    "options": {"module": "flow"},
}


def signed(payload: bytes | dict[str, Any]) -> str:
    """A code that is truly signed, whatever its payload is worth."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    text = f"LIC1.{encode(body)}"
    return f"{text}.{encode(KEY.sign(text.encode()))}"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def payload_of(code: str) -> bytes:
    text = code.split(".")[1]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


printable = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1)
names = printable.map(lambda text: re.sub(r"[/\\]|^\.{1,2}$", "_", text)[:64])
days = st.dates(date(2000, 1, 1), date(2100, 1, 1))


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    starts = draw(st.none() | days)
    first = starts or date(2000, 1, 1)
    return {
        "feature": draw(names),
        "count": draw(st.integers(1, 1_000_000)),
        "vendor": draw(names),
        "id": draw(st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=64)),
        "version": draw(st.none() | names),
        "starts": starts,
        "expires": draw(st.none() | st.integers(0, 9999).map(lambda n: first + timedelta(n))),
        "pool": draw(st.none() | names),
        "options": draw(st.dictionaries(names, st.text(max_size=50), max_size=4)),
    }


@given(fields())
def test_what_is_signed_is_what_is_read(wanted: dict[str, Any]) -> None:
    code = read_code(make_code(KEY, **wanted), KEYS)
    found = {name: getattr(code, name) for name in wanted}
    assert {**found, "options": dict(found["options"])} == wanted
    assert code.trusted


@given(st.data())
def test_white_space_and_line_wraps_of_mail_do_not_matter(data: st.DataObject) -> None:
    code = make_code(KEY, feature="cad", count=5)
    wrapped = list(code)
    for _ in range(data.draw(st.integers(1, 8))):
        dust = data.draw(
            st.sampled_from([" ", "\r\n", "\n    ", "\t", "\u00a0", "\u200b", "\ufeff"])
        )
        wrapped.insert(data.draw(st.integers(0, len(wrapped))), dust)
    assert read_code("".join(wrapped), KEYS) == read_code(code, KEYS)
    assert read_code("".join(wrapped), KEYS).code == code


@given(st.data())
def test_no_change_of_a_character_leaves_a_code_trusted(data: st.DataObject) -> None:
    code = make_code(KEY, feature="cad", count=5)
    place = data.draw(st.integers(0, len(code) - 1))
    other = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_.=!"))
    changed = code[:place] + other + code[place + 1 :]
    if changed == code:
        return
    try:
        assert not read_code(changed, KEYS).trusted
    except LicenseError:
        pass


def test_the_payload_is_canonical_and_has_the_fields_of_the_contract() -> None:
    code = make_code(
        KEY, feature="cad", count=5, expires=date(2027, 1, 2), options={"b": "", "a": ""}
    )
    payload = payload_of(code)
    assert list(json.loads(payload)) == sorted(VALID)
    assert json.loads(payload)["expires"] == "2027-01-02"
    assert json.loads(payload)["pool"] is None
    assert (
        payload == json.dumps(json.loads(payload), separators=(",", ":"), sort_keys=True).encode()
    )


def test_ids_differ_and_the_vendor_is_the_key_unless_given() -> None:
    first = read_code(make_code(KEY, feature="cad", count=5), KEYS)
    second = read_code(make_code(KEY, feature="cad", count=5), KEYS)
    assert first.id != second.id
    assert first.vendor == KEY.public.fingerprint


def test_a_code_is_short_enough_to_mail() -> None:
    code = make_code(
        KEY, feature="cad", count=100, version="2026", expires=date(2027, 12, 31), pool="acme"
    )
    assert len(code) <= 310
    assert len(set(read_code(code, KEYS).id)) > 1


def test_a_code_that_is_read_again_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[bytes] = []
    verifies = VendorPublicKey.verifies

    def counted(key: VendorPublicKey, signature: bytes, message: bytes) -> bool:
        verified.append(message)
        return verifies(key, signature, message)

    monkeypatch.setattr(VendorPublicKey, "verifies", counted)
    code, other = make_code(KEY, feature="cad", count=5), generate().public
    assert read_code(code, KEYS).trusted
    assert read_code(f" {code}\n", KEYS).trusted
    assert len(verified) == 1
    assert not read_code(code, [other]).trusted
    assert len(verified) == 2
    # The key that the code names is asked first, wherever it stands.
    fresh = make_code(KEY, feature="cad", count=5)
    assert read_code(fresh, [other, *KEYS]).trusted
    assert len(verified) == 3


def test_why_a_code_is_not_trusted_is_told_as_well_as_can_be() -> None:
    stranger = generate()
    named = read_code(make_code(stranger, feature="cad", count=5), KEYS)
    posing = read_code(
        make_code(stranger, feature="cad", count=5, vendor=KEY.public.fingerprint), KEYS
    )
    unnamed = read_code(make_code(stranger, feature="cad", count=5, vendor="ACME"), KEYS)
    assert f"{stranger.public.fingerprint}, not {KEY.public.fingerprint}" in distrust(named, KEYS)
    assert "was changed" in distrust(posing, KEYS)
    assert "changed, or signed by another key" in distrust(unnamed, KEYS)
    assert "any that is known here" in distrust(named, [])


def test_a_payload_of_the_vendors_own_system_is_signed() -> None:
    little = read_code(sign_payload(KEY, '{"feature": "cad", "count": 5}'), KEYS)
    assert (little.feature, little.count, little.vendor) == ("cad", 5, KEY.public.fingerprint)
    assert little.trusted
    full = read_code(sign_payload(KEY, json.dumps(VALID).encode()), KEYS)
    assert json.loads(payload_of(full.code)) == VALID
    nulls = dict.fromkeys(VALID) | {"feature": "cad", "count": 1}
    assert read_code(sign_payload(KEY, json.dumps(nulls)), KEYS).options == ()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
        ("\ud800", "not JSON"),
        ("[]", "Expected `object`"),
        ("{}", "missing required field `feature`"),
        ('{"feature": "cad"}', "missing required field `count`"),
        ('{"feature": "cad", "count": 1, "seats": 1}', "unknown field `seats`"),
        ('{"feature": "cad", "count": 1, "count": 2}', "the name 'count' twice"),
        ('{"feature": "cad", "count": 1, "options": {"a": "b", "a": "c"}}', "the name 'a' twice"),
        ('{"feature": "a/b", "count": 1}', "`/`"),
        ('{"feature": "cad", "count": 1, "starts": "2026-02-30"}', "starts"),
        ('{"feature": "cad", "count": 1, "expires": 20261231}', "expires"),
        ("[" * 100_000, "payload"),
    ],
)
def test_a_payload_with_a_fault_is_not_signed(payload: str | bytes, message: str) -> None:
    with pytest.raises(LicenseError, match=message):
        sign_payload(KEY, payload)


def test_a_code_of_another_vendor_is_read_and_not_trusted() -> None:
    code = make_code(generate(), feature="cad", count=5)
    for keys in ([], KEYS):
        read = read_code(code, keys)
        assert not read.trusted
        assert read.status("acme", date(2026, 1, 1)) is CodeStatus.BAD_SIGNATURE
    assert read_code(make_code(KEY, feature="cad", count=5), [generate().public, *KEYS]).trusted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count"),
        ({"count": 1_000_001}, "count"),
        ({"count": "10"}, "count"),
        ({"count": True}, "count"),
        ({"count": 1.5}, "count"),
        ({"count": 10**400}, "count"),
        ({"starts": "2026-1-1"}, "starts"),
        ({"starts": "2026-02-30"}, "starts"),
        ({"starts": "20260101"}, "starts"),
        ({"expires": "2026-12-31T00:00:00Z"}, "expires"),
        ({"expires": 0}, "expires"),
        ({"starts": "2027-01-01"}, "starts on 2027-01-01, after it expires on 2026-12-31"),
        ({"feature": ""}, "feature"),
        ({"feature": None}, "feature"),
        ({"feature": "a\nb"}, "feature"),
        ({"feature": " cad"}, "feature"),
        ({"feature": "a/b"}, "feature"),
        ({"feature": "x" * 129}, "feature"),
        ({"version": 2026}, "version"),
        ({"pool": ""}, "pool"),
        ({"id": "a b"}, "id"),
        ({"id": "code\n"}, "id"),
        ({"vendor": []}, "vendor"),
        ({"options": None}, "options"),
        ({"options": {"a": 1}}, "options"),
        ({"options": {str(n): "" for n in range(65)}}, "options"),
        ({"seats": 5}, "unknown field `seats`"),
    ],
)
def test_a_signed_payload_with_a_wrong_field_is_refused_by_its_name(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(LicenseError, match=message) as caught:
        read_code(signed({**VALID, **change}), KEYS)
    assert caught.value.code == "invalid_license"


@pytest.mark.parametrize("field", sorted(VALID))
def test_every_field_is_required(field: str) -> None:
    assert read_code(signed(VALID), KEYS).trusted
    without = {name: value for name, value in VALID.items() if name != field}
    with pytest.raises(LicenseError, match=f"missing required field `{field}`"):
        read_code(signed(without), KEYS)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "does not begin with `LIC1.`"),
        ("LIC2.e30.AA", "does not begin with `LIC1.`"),
        ("lic1.e30.AA", "small letters and capitals differ"),
        ("LIC1.e30", "cut short"),
        (signed(VALID) + signed(VALID), "two codes"),
        (signed(VALID)[:-10], "signature"),
        (signed(VALID) + "==", "is '=', which no code contains"),
        ("LIC1.e+0.AAAA", "character 7 of the license code is '[+]', which no code contains"),
        ("LIC1..AAAA", "nothing between its dots"),
        (signed(b"[]"), "payload is wrong"),
        (signed(b"null"), "payload is wrong"),
        (signed(b"not json"), "payload is not JSON"),
        (signed(b"\xff\xfe"), "payload is not JSON"),
        (signed(b"[" * 5000), "payload"),
        ("LIC1." + "A" * MAX_CODE_CHARS, "characters, more than"),
        ("x" * 10_000_000, "characters, more than"),
        ("LIC1.\ud800.AAAA", "character 6 .*U[+]D800"),
    ],
    ids=itertools.count(),
)
def test_what_is_no_code_is_refused_with_the_reason(code: str, message: str) -> None:
    with pytest.raises(LicenseError, match=message):
        read_code(code, KEYS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"feature": "a\tb"},
        {"feature": "\ud800"},
        {"starts": date(2027, 1, 1), "expires": date(2026, 1, 1)},
        {"options": {f"option{n}": "x" * 256 for n in range(60)}},
        {"options": {"a\nb": "x"}},
        {"count": 2**70},
        {"count": object()},
        {"feature": ".."},
        {"pool_key": "x"},
    ],
)
def test_no_code_is_made_that_could_not_be_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(LicenseError):
        make_code(KEY, **{"feature": "cad", "count": 1, **wrong})


@settings(max_examples=200)
@given(st.text() | st.text("LIC1.eyJ", max_size=40) | st.binary().map(signed))
def test_no_text_makes_it_fail_in_another_way(text: str) -> None:
    try:
        read_code(text, KEYS)
    except LicenseError:
        pass
