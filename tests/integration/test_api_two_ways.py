"""Whichever way a request is answered, by the fast path or by ASGI, the answer is the same."""

from __future__ import annotations

import json

import pytest
from api_fakes import ADMIN, CLIENT, TOKENS, FakeService, Raw, Wire, request, run, serving

from licraft.api.protocol import LicenseProtocol
from licraft.wire import MAX_BODY_BYTES

A, H, C = "/v1/authorizations", "/v1/heartbeats", "/v1/checkins"

FULL = {
    "feature": "cad",
    "count": 3,
    "wait": 1.5,
    "version": "2026.1",
    "nonce": "n",
    "id": "r-1",
    "client": {"id": "c", "user": "ann", "host": "ws", "pid": 4711, "app": "cad.exe"},
}

BODIES: list[tuple[str, bytes, int, str | None]] = [
    # path, body, status, field
    (A, b'{"feature":"cad"}', 201, None),
    (A, json.dumps(FULL).encode(), 201, None),
    (A, b' {\n"feature" : "cad" , "count":1}\n', 201, None),
    (A, '{"feature":"caf\u00e9 \U0001f512"}'.encode(), 201, None),
    (A, b'{"feature":"cad","client":{"user":"a:b \\"feature\\":"}}', 201, None),
    (A, b'{"feature":"repeated","id":"x"}', 200, None),
    (A, b'{"feature":"soon"}', 201, None),
    (A, b'{"feature":"busy"}', 409, None),
    (A, b'{"feature":"later"}', 503, None),
    (A, b'{"feature":"unknown"}', 404, None),
    (A, b'{"feature":"crash"}', 500, None),
    (A, b'{"feature":"crash-later"}', 500, None),
    (A, b'{"feature":"not-executed"}', 503, None),
    (A, b'{"feature":"outcome-unknown"}', 503, None),
    (A, b"", 400, None),
    (A, b"{", 400, None),
    (A, b"null", 400, None),
    (A, b"[]", 400, None),
    (A, b'"x"', 400, None),
    (A, b"feature=cad", 400, None),
    (A, b'{"feature":"cad"} x', 400, None),
    (A, b"\xef\xbb\xbf{}", 400, None),
    (A, b"{}", 400, "feature"),
    (A, b'{"feature":null}', 400, "feature"),
    (A, b'{"feature":7}', 400, "feature"),
    (A, b'{"feature":""}', 400, "feature"),
    (A, b'{"feature":"%b"}' % (b"x" * 129), 400, "feature"),
    (A, b'{"feature":"\xff"}', 400, None),
    (A, b'{"feature":"\xed\xa0\x80"}', 400, None),
    (A, b'{"feature":"\\ud800"}', 400, None),
    (A, b'{"feature":"cad","count":0}', 400, "count"),
    (A, b'{"feature":"cad","count":1000001}', 400, "count"),
    (A, b'{"feature":"cad","count":1.5}', 400, "count"),
    (A, b'{"feature":"cad","count":"1"}', 400, "count"),
    (A, b'{"feature":"cad","count":true}', 400, "count"),
    (A, b'{"feature":"cad","count":1%b}' % (b"0" * 100_000), 400, "count"),
    (A, b'{"feature":"cad","wait":-1}', 400, "wait"),
    (A, b'{"feature":"cad","wait":NaN}', 400, None),
    (A, b'{"feature":"cad","wait":Infinity}', 400, None),
    (A, b'{"feature":"cad","wait":1e999}', 400, "wait"),
    (A, b'{"feature":"cad","wait":3600.1}', 400, "wait"),
    (A, b'{"feature":"cad","id":"bad id"}', 400, "id"),
    (A, b'{"feature":"cad","extra":1}', 400, "extra"),
    (A, b'{"feature":"cad","client":{"extra":1}}', 400, "client.extra"),
    (A, b'{"feature":"cad","client":{"pid":-1}}', 400, "client.pid"),
    (A, b'{"feature":"cad","client":[]}', 400, "client"),
    (A, b'{"feature":"cad","feature":"cad"}', 400, "feature"),
    (A, b'{"feature":"cad","\\u0066eature":"busy"}', 400, "feature"),
    (A, b'{"feature":"cad","id":"a","id":"b"}', 400, "id"),
    (A, b'{"feature":"cad","client":{"user":"a","user":"b"}}', 400, "user"),
    (A, b'{"feature":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "feature"),
    (A, b'{"extra":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "extra"),
    (A, b'{"feature":"cad","client":' + b'{"id":' * 30_000, 400, "client.id"),
    (A, b"[" * 200_000, 400, None),
    (H, b'{"tokens":["abc","def"]}', 200, None),
    (H, b'{"tokens":[]}', 200, None),
    (H, b'{"tokens":["abc"],"client":"c","servers_version":3,"confirm":{"x":4}}', 200, None),
    (H, b'{"tokens":["abc"],"confirm":{"x":4,"x":5}}', 400, "x"),
    (H, b'{"tokens":["abc"],"confirm":{"x":"y"}}', 400, "confirm[...]"),
    (H, b'{"tokens":["abc"],"confirm":{"x":%b}}' % (b"9" * 6000), 400, "confirm[...]"),
    (H, b'{"tokens":["abc",""]}', 400, "tokens[1]"),
    (H, b'{"tokens":[%b]}' % b",".join([b'"t"'] * 1001), 400, "tokens"),
    (H, b'{"tokens":["%b"]}' % (b"t" * 2049), 400, "tokens[0]"),
    (H, b'{"tokens":"abc"}', 400, "tokens"),
    (H, b'{"tokens":["abc"],"servers_version":-1}', 400, "servers_version"),
    (C, b'{"tokens":["abc"]}', 200, None),
    (C, b"{}", 400, "tokens"),
    (C, b'{"tokens":["abc"],"force":true}', 400, "force"),
]


async def _exchange(fast: bool, requests: list[bytes]) -> tuple[list[Raw], FakeService]:
    service = FakeService()
    answers = []
    async with serving(service, tokens=TOKENS, fast=fast) as server:
        wire = await Wire.to(server.port)
        for data in requests:
            await wire.send(data)
            answers.append(await wire.answer())
        wire.close()
    return answers, service


def _both_ways(requests: list[bytes]) -> list[Raw]:
    """The answers, after checking that both ways give them."""
    by_fast: list[Raw]
    by_fast, fast_service = run(_exchange(True, requests))
    by_asgi, asgi_service = run(_exchange(False, requests))
    for data, fast, asgi in zip(requests, by_fast, by_asgi, strict=True):
        assert fast.comparable() == asgi.comparable(), data[:300]
    assert fast_service.requests == asgi_service.requests
    return by_fast


@pytest.fixture
def asgi_requests(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The paths of the requests that went to the ASGI application."""
    seen: list[bytes] = []
    replay = LicenseProtocol._replay

    def spy(self: LicenseProtocol, pending: object = None) -> None:
        seen.append(self.url)
        replay(self, pending)  # type: ignore[arg-type]  # handed through as it came

    monkeypatch.setattr(LicenseProtocol, "_replay", spy)
    return seen


def test_bodies_good_and_bad() -> None:
    answers = _both_ways([request("POST", path, body, token=CLIENT) for path, body, _, _ in BODIES])
    for (path, body, status, field), answer in zip(BODIES, answers, strict=True):
        assert answer.status == status, (path, body[:200], answer)
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            problem = json.loads(answer.body)
            assert problem["status"] == status
            assert problem["title"]
            assert problem["detail"]
            assert problem["type"] == "urn:licraft:problem:" + problem["code"]
        else:
            assert answer.headers["content-type"] == "application/json"
        if status == 400:
            assert problem["code"] == "invalid_request"
            assert problem.get("field") == field, (body[:200], problem)
            assert len(problem["detail"]) < 1000


def test_client_calls_take_the_fast_way(asgi_requests: list[bytes]) -> None:
    plain = [request("POST", path, body, token=CLIENT) for path, body, _, _ in BODIES[:4]]
    keep_alive = request(
        "POST", C, b'{"tokens":[]}', token=CLIENT, headers=("Connection: Keep-Alive",)
    )
    run(_exchange(True, [*plain, keep_alive]))
    assert asgi_requests == []
    run(_exchange(False, plain))
    assert len(asgi_requests) == len(plain)


@pytest.mark.parametrize("header", ["Expect: x", "Connection: Keep-Alive, x", "Upgrade: x"])
def test_unusual_headers_take_the_other_way(header: str, asgi_requests: list[bytes]) -> None:
    (answer,) = _both_ways(
        [request("POST", A, b'{"feature":"cad"}', token=CLIENT, headers=(header,))]
    )
    assert answer.status == 201
    assert len(asgi_requests) == 2


def test_authorization_is_the_same() -> None:
    body = b'{"feature":"cad"}'
    cases = [
        (request("POST", A, body), 401),
        (request("POST", A, body, token=CLIENT), 201),
        (request("POST", A, body, token=ADMIN), 201),
        (request("POST", A, body, token=CLIENT + "x"), 401),
        (request("POST", A, body, token=""), 401),
        (request("POST", A, body, headers=("Authorization:",)), 401),
        (request("POST", A, body, headers=(f"Authorization: {CLIENT}",)), 401),
        (request("POST", A, body, headers=(f"aUTHORIZATION: bEARER  {CLIENT}  ",)), 201),
        (request("POST", A, body, headers=("Authorization: Basic eDp5",)), 401),
        (request("POST", A, body, headers=("Authorization: Bearer \xff\xfe",)), 401),
        (request("POST", A, body, token="x", headers=(f"Authorization: Bearer {CLIENT}",)), 401),
        # A caller who may not call learns nothing about the body.
        (request("POST", A, b"{"), 401),
    ]
    answers = _both_ways([data for data, _ in cases])
    for (data, status), answer in zip(cases, answers, strict=True):
        assert answer.status == status, data
        if status == 401:
            assert answer.headers["www-authenticate"] == 'bearer realm="licraft"'
            assert json.loads(answer.body)["code"] == "not_authorized"


def test_paths_and_methods_are_the_same() -> None:
    body = b'{"feature":"cad"}'
    cases = [
        (request("POST", A + "?", body, token=CLIENT), 201),
        (request("POST", A + "?x=1", body, token=CLIENT), 400),
        (request("POST", "/v1/%61uthorizations", body, token=CLIENT), 201),
        (request("POST", A + "/", body, token=CLIENT), 405),
        (request("POST", "/v1/nothing", body, token=CLIENT), 404),
        (request("PUT", A, body, token=CLIENT), 405),
        (request("GET", H, token=CLIENT), 405),
    ]
    answers = _both_ways([data for data, _ in cases])
    statuses = [answer.status for answer in answers]
    # "/v1/authorizations/" has an empty id, which is no path of ours.
    assert statuses == [201, 400, 201, 404, 404, 405, 405]


def test_bodies_up_to_the_bound_and_beyond() -> None:
    body = b'{"feature":"cad"}'
    exact = body + b" " * (MAX_BODY_BYTES - len(body))
    answers = _both_ways(
        [
            request("POST", A, exact, token=CLIENT),
            request("POST", A, exact + b" ", token=CLIENT),
            request("POST", A, body, token=CLIENT),
        ]
    )
    assert [answer.status for answer in answers] == [201, 413, 201]
    assert json.loads(answers[1].body)["code"] == "too_large"


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    (answer,) = _both_ways([request("POST", A, b'{"feature":"later"}', token=CLIENT)])
    assert answer.headers["retry-after"] == "2"
    problem = json.loads(answer.body)
    assert problem["retry_after"] == 1.2
    assert problem["servers"]["list"][0]["name"] == "alpha"
