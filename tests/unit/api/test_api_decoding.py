"""Repeated names are found in every body, and no other body is refused for them."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.api.decoding import BodyDecoder, Fault, parse_query
from licraft.api.replies import problem_reply, reply
from licraft.wire import CheckoutRequest, HeartbeatRequest, Problem

CHECKOUT = BodyDecoder(CheckoutRequest)
HEARTBEAT = BodyDecoder(HeartbeatRequest)

# Texts that look like members of the body are the interesting ones.
_text = st.one_of(
    st.text(max_size=20), st.sampled_from(["id", '"id"', '"feature":', "a:b", "client", "\\"])
)
_client = st.fixed_dictionaries(
    {},
    optional={
        "id": _text,
        "user": _text,
        "host": _text,
        "pid": st.integers(0, 99999),
        "app": _text,
    },
)
_checkout = st.fixed_dictionaries(
    {"feature": _text.filter(bool)},
    optional={
        "count": st.integers(1, 1000),
        "wait": st.floats(0, 3600),
        "version": _text,
        "nonce": _text,
        "id": st.just("id"),
        "client": _client,
    },
)


@given(_checkout, st.booleans())
def test_bodies_without_repeated_names_are_taken(body: dict[str, Any], escape: bool) -> None:
    request = CHECKOUT.decode(json.dumps(body, ensure_ascii=escape).encode())
    assert request.feature == body["feature"]


@given(_checkout, st.data())
def test_repeated_names_are_refused(body: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(body)))
    members = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in body.items()]
    spelled = data.draw(
        st.sampled_from([json.dumps(name), '"' + "".join(f"\\u{ord(c):04x}" for c in name) + '"'])
    )
    members.insert(data.draw(st.integers(0, len(members))), f"{spelled} : {json.dumps(body[name])}")
    with pytest.raises(Fault) as raised:
        CHECKOUT.decode(("{" + ",".join(members) + "}").encode())
    assert raised.value.field == name


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5))
def test_repeated_names_in_maps_are_refused(names: list[str]) -> None:
    members = ",".join(f"{json.dumps(name)}:1" for name in names)
    body = f'{{"tokens":["t"],"confirm":{{{members}}}}}'.encode()
    if len(set(names)) == len(names):
        assert set(HEARTBEAT.decode(body).confirm) == set(names)
    else:
        with pytest.raises(Fault):
            HEARTBEAT.decode(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_fault(body: bytes) -> None:
    with contextlib.suppress(Fault):
        assert isinstance(CHECKOUT.decode(body), CheckoutRequest)


@given(st.binary(max_size=100))
def test_any_query_is_read_or_a_fault(query: bytes) -> None:
    with contextlib.suppress(Fault):
        assert set(parse_query(query, ("a", "b"))) <= {"a", "b"}


def test_too_many_query_parameters() -> None:
    with pytest.raises(Fault, match="query string"):
        parse_query(b"&".join([b"a=1"] * 101), ("a",))


def test_a_problem_is_described_by_its_code() -> None:
    answer = problem_reply(Problem(409, "no_seats", "all in use", in_use=3))
    assert json.loads(answer.body) == {
        "status": 409,
        "code": "no_seats",
        "detail": "all in use",
        "title": "No seats are available",
        "type": "urn:licraft:problem:no_seats",
        "in_use": 3,
    }
    assert answer.headers()[0] == (b"content-type", b"application/problem+json")


@pytest.mark.parametrize(
    ("retry_after", "header"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (59.01, b"60")]
)
def test_retry_after(retry_after: float, header: bytes) -> None:
    answer = problem_reply(Problem(503, "no_quorum", "no lease", retry_after=retry_after))
    assert dict(answer.headers())[b"retry-after"] == header


def test_no_content_has_no_length() -> None:
    assert reply(204, None).headers() == []
