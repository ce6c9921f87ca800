"""The calls of administration and observation, over a real socket with a usual client."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from api_fakes import ADMIN, APPLIED, CLIENT, TOKENS, FakeService, run, serving
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from licraft.errors import InvariantBroken

ANY = [
    ("GET", "/v1/pool"),
    ("GET", "/v1/features"),
    ("GET", "/v1/features/cad"),
    ("GET", "/v1/authorizations"),
    ("GET", "/v1/license"),
]
ADMINISTRATION = [
    ("DELETE", "/v1/authorizations/a-1"),
    ("PUT", "/v1/license"),
    ("POST", "/v1/leader"),
    ("POST", "/v1/servers"),
    ("DELETE", "/v1/servers/beta"),
    ("POST", "/v1/servers/beta/drain"),
    ("POST", "/v1/servers/beta/undrain"),
]
BODIES = {
    "/v1/leader": b'{"server": "beta"}',
    "/v1/servers": b'{"name": "delta", "api": "http://delta:7700", "peer": "delta:7800"}',
}
OPEN = [("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/openapi.json")]


@asynccontextmanager
async def _client(
    service: FakeService | None = None, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(service or FakeService(), **options) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(("method", "path"), [*ANY, *ADMINISTRATION, *OPEN])
@pytest.mark.parametrize("token", [None, "unknown", CLIENT, ADMIN])
def test_who_may_call_what(method: str, path: str, token: str | None) -> None:
    async def scenario() -> None:
        async with _client(tokens=TOKENS) as client:
            content = BODIES.get(path, b"x")
            answer = await client.request(method, path, headers=_bearer(token), content=content)
        if (method, path) in OPEN:
            expected = 200
        elif token not in (CLIENT, ADMIN):
            expected = 401
        elif (method, path) in ANY or token == ADMIN:
            expected = 204 if "authorizations/" in path else 200
        else:
            expected = 403
        assert answer.status_code == expected
        assert ("www-authenticate" in answer.headers) == (expected == 401)
        if expected in (401, 403):
            assert answer.json()["code"] == "not_authorized"

    run(scenario())


@pytest.mark.parametrize(("method", "path"), [*ANY, *ADMINISTRATION, *OPEN])
def test_without_tokens_everything_is_allowed(method: str, path: str) -> None:
    async def scenario() -> None:
        async with _client() as client:
            answer = await client.request(method, path, content=BODIES.get(path, b"x"))
            assert answer.status_code in (200, 204)
            assert "date" in answer.headers
            assert "server" not in answer.headers

    run(scenario())


def test_answers_are_the_services() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with _client(service) as client:
            assert (await client.get("/v1/pool")).json()["pool"] == "acme"
            assert (await client.get("/v1/features")).json()["features"][0]["feature"] == "cad"
            assert (await client.get("/v1/features/cad%20x")).json()["feature"] == "cad x"
            unknown = await client.get("/v1/features/nope")
            assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_feature")
            assert (await client.get("/v1/license")).json()["sequence"] == 1
            await client.get("/v1/authorizations?feature=cad&user=ann%20b&server=alpha")
            await client.get("/v1/authorizations")
            assert service.asked == [("cad", "ann b", "alpha"), (None, None, None)]
            removed = await client.delete("/v1/authorizations/a-1")
            assert (removed.status_code, removed.content) == (204, b"")
            missing = await client.delete("/v1/authorizations/unknown")
            assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
            assert service.removed == ["a-1", "unknown"]

    run(scenario())


def test_leadership_is_handed_over() -> None:
    async def scenario() -> None:
        async with _client() as client:
            answer = await client.post("/v1/leader", json={"server": "beta"})
            assert answer.json() == {"leader": "beta", "term": 4, "index": 100}
            unknown = await client.post("/v1/leader", json={"server": "delta"})
            assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
            nobody = await client.post("/v1/leader", json={})
            assert (nobody.status_code, nobody.json()["field"]) == (400, "server")

    run(scenario())


def test_servers_join_and_leave() -> None:
    async def scenario() -> None:
        async with _client() as client:
            delta = {"name": "delta", "api": "http://delta:7700", "peer": "delta:7800"}
            added = await client.post("/v1/servers", json=delta)
            assert added.json() == {"name": "delta", "state": "joining", "index": 101}
            there = await client.post("/v1/servers", json={**delta, "name": "alpha"})
            assert (there.status_code, there.json()["code"]) == (409, "invalid_request")
            for field, wrong in (("name", "../x"), ("api", "delta:7700"), ("peer", "delta")):
                malformed = await client.post("/v1/servers", json={**delta, field: wrong})
                assert (malformed.status_code, malformed.json()["field"]) == (400, field)
            gone = await client.delete("/v1/servers/beta")
            assert gone.json() == {"name": "beta", "state": "removing", "index": 102}
            unknown = await client.delete("/v1/servers/zeta")
            assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")

    run(scenario())


def test_servers_are_drained_and_undrained() -> None:
    async def scenario() -> None:
        async with _client() as client:
            drained = await client.post("/v1/servers/beta/drain")
            assert drained.json() == {"name": "beta", "state": "draining", "index": 103}
            undrained = await client.post("/v1/servers/beta/undrain")
            assert undrained.json() == {"name": "beta", "state": "up", "index": 103}
            unknown = await client.post("/v1/servers/zeta/drain")
            assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
            malformed = await client.post("/v1/servers/..x/undrain")
            assert (malformed.status_code, malformed.json()["field"]) == (400, "server")

    run(scenario())


@pytest.mark.parametrize(
    "path", ["/v1/pool", "/v1/features", "/v1/features/cad", "/v1/license", "/v1/features/nope"]
)
def test_an_index_is_waited_for_and_one_that_does_not_come_is_no_quorum(path: str) -> None:
    async def scenario() -> None:
        async with _client() as client:
            plain = await client.get(path)
            reached = await client.get(f"{path}?index={APPLIED}")
            assert (reached.status_code, reached.json()) == (plain.status_code, plain.json())
            ahead = await client.get(f"{path}?index={APPLIED + 1}")
            assert (ahead.status_code, ahead.json()["code"]) == (503, "no_quorum")
            assert ahead.headers["retry-after"] == "1"
            for wrong in ("-1", "x", "", "1" * 16, "1.0"):
                refused = await client.get(f"{path}?index={wrong}")
                assert (refused.status_code, refused.json()["field"]) == (400, "index")

    run(scenario())


def test_license_file_is_installed_as_text() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with _client(service) as client:
            text = "sequence: 8\n# ünïcode\n"
            installed = await client.put("/v1/license", content=text.encode())
            assert installed.json() == {"sequence": 8, "index": 99}
            assert service.installed == [text]
            stale = await client.put("/v1/license", content=b"stale")
            assert (stale.status_code, stale.json()["code"]) == (409, "stale_sequence")
            assert stale.json()["sequence"] == 7

    run(scenario())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the license file is empty"),
        (b"pool: acme\nsequence: 8\ncodes: \xe4\n", "line 3: the license file is not UTF-8"),
        ("sequence: 8\n".encode("utf-16"), "line 1: the license file is not UTF-8"),
    ],
)
def test_what_cannot_be_a_license_file_is_refused_as_one(content: bytes, said: str) -> None:
    async def scenario() -> None:
        service = FakeService()
        async with _client(service) as client:
            refused = await client.put("/v1/license", content=content)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_license")
        assert said in refused.json()["detail"]
        assert service.installed == []

    run(scenario())


def test_health_and_readiness() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with _client(service) as client:
            assert (await client.get("/healthz")).json() == {"alive": True}
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["ready"]) == (200, True)
            service.ready = False
            unready = await client.get("/readyz")
            assert (unready.status_code, unready.json()["ready"]) == (503, False)
            assert (await client.get("/healthz")).status_code == 200

    run(scenario())


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/pool?x=1", "x"),
        ("/v1/authorizations?features=cad", "features"),
        ("/v1/authorizations?user=a&user=b", "user"),
        ("/v1/authorizations?user=", "user"),
        ("/v1/authorizations?user=" + "x" * 129, "user"),
        ("/v1/authorizations?user=%ff", None),
        ("/v1/features/" + "x" * 129, "name"),
        ("/v1/features/cad?name=x", "name"),
    ],
)
def test_parameters_that_are_not_understood(path: str, field: str | None) -> None:
    async def scenario() -> None:
        async with _client() as client:
            answer = await client.get(path)
            assert answer.status_code == 400
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == "invalid_request"
            assert answer.json().get("field") == field

    run(scenario())


def test_unknown_paths_and_wrong_methods() -> None:
    async def scenario() -> None:
        async with _client() as client:
            for path in ("/v1", "/v1/pool/", "/v2/pool", "/v1/features/a/b", "/%00", "//"):
                answer = await client.get(path)
                assert answer.status_code == 404, path
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["code"] == "not_found"
            for method, path, allow in [
                ("PATCH", "/v1/pool", "GET, HEAD"),
                ("DELETE", "/v1/authorizations", "GET, HEAD, POST"),
                ("POST", "/v1/license", "GET, HEAD, PUT"),
                ("GET", "/v1/checkins", "POST"),
                ("OPTIONS", "/v1/openapi.json", "GET, HEAD"),
            ]:
                answer = await client.request(method, path)
                assert answer.status_code == 405, path
                assert answer.headers["allow"] == allow
                assert answer.json()["code"] == "method_not_allowed"
            head = await client.head("/v1/pool")
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["content-length"]) > 0

    run(scenario())


def test_an_unexpected_error_is_logged_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        service = FakeService()
        async with _client(service) as client:
            service.pool = None  # type: ignore[assignment,method-assign]  # a bug
            answer = await client.get("/v1/pool")
            assert (answer.status_code, answer.json()["code"]) == (500, "internal")
            assert "NoneType" not in answer.text
            for feature in ("crash", "crash-later"):
                answer = await client.post("/v1/authorizations", json={"feature": feature})
                assert (answer.status_code, answer.json()["code"]) == (500, "internal")
            answer = await client.post("/v1/authorizations", json={"feature": "cad"})
            assert answer.status_code == 201

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert [r.exc_info is not None for r in caplog.records] == [True, True, True]
    assert "a bug in the license server" in caplog.text


def test_a_broken_invariant_is_handed_up() -> None:
    async def scenario() -> None:
        broken: list[InvariantBroken] = []
        for fast in (True, False):
            async with _client(broken=broken.append, fast=fast) as client:
                await client.post("/v1/authorizations", json={"feature": "broken"})
        assert [str(error) for error in broken] == ["41 seats of 40"] * 2

    run(scenario())


def test_operating_errors_say_whether_to_repeat() -> None:
    async def scenario() -> None:
        async with _client() as client:
            answer = await client.post("/v1/authorizations", json={"feature": "not-executed"})
            assert (answer.status_code, answer.json()["code"]) == (503, "no_quorum")
            assert answer.headers["retry-after"] == "1"
            answer = await client.post("/v1/authorizations", json={"feature": "overloaded"})
            assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
            assert answer.headers["retry-after"] == "1"
            answer = await client.post("/v1/authorizations", json={"feature": "outcome-unknown"})
            assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
            assert "retry-after" not in answer.headers

    run(scenario())


def test_further_pages_stand_beside_the_calls() -> None:
    async def page(_: Request) -> PlainTextResponse:
        return PlainTextResponse("licraft_up 1\n")

    async def scenario() -> None:
        async with _client(pages=[Route("/metrics", page)]) as client:
            assert (await client.get("/metrics")).text == "licraft_up 1\n"
            assert (await client.get("/healthz")).status_code == 200

    run(scenario())


def test_tokens_are_not_shown() -> None:
    assert ADMIN not in repr(TOKENS)
    assert CLIENT not in repr(TOKENS)


def test_tokens_never_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with _client(tokens=TOKENS) as client:
            for feature in ("crash", "cad"):
                body = json.dumps({"feature": feature})
                await client.post("/v1/authorizations", content=body, headers=_bearer(CLIENT))

    with caplog.at_level(logging.DEBUG, logger="licraft"):
        run(scenario())
    assert "failed" in caplog.text
    assert CLIENT not in caplog.text
