"""`licraft server drain` and `undrain` against scripted servers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from client_fakes import Body, FakePool, Reply

import licraft.cli.server
from licraft.cli.main import cli

DRAIN, UNDRAIN = "/v1/servers/beta/drain", "/v1/servers/beta/undrain"
INDEX = 40


def view(allocated: int, *, state: str = "draining", index: int = INDEX) -> Reply:
    """`GET /v1/pool` when beta has so many seats left."""
    beta: Body = {
        "name": "beta",
        "role": "follower",
        "state": state,
        "url": "http://beta:7700",
        "incarnation": 1,
        "lease_remaining": None,
        "in_use": allocated,
        "allocated": allocated,
    }
    return Reply(
        200,
        {
            "pool": "acme",
            "server": "alpha",
            "state": "serving",
            "leader": "alpha",
            "term": 1,
            "applied_index": index,
            "priority": ["alpha", "beta"],
            "servers": [] if state == "removed" else [beta],
            "license": {"sequence": 1, "sha256": "00"},
            "trouble": [],
            "version": "1",
        },
    )


HELD: Body = {
    "authorizations": [
        {
            "id": f"id-{number}",
            "feature": feature,
            "count": 2,
            "client": {"id": "c", "user": user, "host": "ws\x1b12", "pid": 1, "app": "x"},
            "server": "beta",
            "granted_at": "2026-11-21T12:00:00Z",
            "last_heartbeat": "2026-11-21T12:00:20Z",
        }
        for number, (feature, user) in enumerate((("cad", "ann"), ("sim", "ann"), ("cad", "bob")))
    ],
    "truncated": False,
    "as_of": {"beta": None},
}


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePool]:
    pool = FakePool()
    alpha = pool.members[0]
    alpha.always[DRAIN] = Reply(200, {"name": "beta", "state": "draining", "index": INDEX})
    alpha.always[UNDRAIN] = Reply(200, {"name": "beta", "state": "up", "index": INDEX})
    alpha.always["/v1/authorizations"] = Reply(200, HELD)
    monkeypatch.setenv("LICRAFT_SERVERS", ",".join(pool.urls))
    monkeypatch.delenv("LICRAFT_TOKEN", raising=False)
    monkeypatch.setattr(licraft.cli.server, "_LOOK_S", 0.01)
    yield pool
    pool.close()


def licraft_server(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["server", *arguments])


def test_it_returns_when_the_server_is_empty_and_tells_how_far_it_is(pool: FakePool) -> None:
    pool.members[0].plan("/v1/pool", view(7), view(7), view(3), view(0))
    result = licraft_server("drain", "beta")
    assert result.exit_code == 0
    assert result.stdout == "beta is draining and empty\n"
    told = result.stderr.splitlines()
    assert [line.count("7 seats to go") for line in told] == [1, 0]
    assert "3 seats to go" in told[1]
    assert pool.members[0].calls(DRAIN)[0]["_method"] == "POST"


def test_what_a_server_said_before_it_knew_does_not_count(pool: FakePool) -> None:
    early = view(0, state="up", index=INDEX - 1)
    pool.members[0].plan("/v1/pool", early, view(3), view(0))
    result = licraft_server("drain", "beta")
    assert result.exit_code == 0
    assert len(pool.members[0].calls("/v1/pool")) == 3


def test_after_the_timeout_it_says_who_holds_what(pool: FakePool) -> None:
    pool.members[0].always["/v1/pool"] = view(6)
    result = licraft_server("drain", "beta", "--timeout", "0.05")
    assert result.exit_code == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert "4 of cad, 2 of sim held by ann@ws 12, bob@ws 12" in last
    assert pool.members[0].calls("/v1/authorizations")[0]["_target"].endswith("?server=beta")


@pytest.mark.parametrize(("state", "status"), [("removed", 0), ("up", 1)])
def test_it_ends_when_the_server_is_gone_or_was_undrained(
    pool: FakePool, state: str, status: int
) -> None:
    pool.members[0].plan("/v1/pool", view(6), view(6, state=state))
    result = licraft_server("drain", "beta")
    assert result.exit_code == status
    assert ("somebody has undrained it" in result.stderr) is (state == "up")


def test_it_goes_on_waiting_while_nobody_answers(pool: FakePool) -> None:
    down = Reply(503, {"status": 503, "code": "no_quorum", "detail": "no lease"})
    for server in pool.members[1:]:
        server.always["/v1/pool"] = down
    pool.members[0].plan("/v1/pool", view(6), down, view(0))
    result = licraft_server("drain", "beta")
    assert result.exit_code == 0
    assert "still waiting" in result.stderr


def test_without_waiting_and_in_json(pool: FakePool) -> None:
    assert licraft_server("drain", "beta", "--no-wait").stdout == "beta is draining\n"
    assert pool.members[0].calls("/v1/pool") == []
    pool.members[0].plan("/v1/pool", view(2), view(0))
    result = licraft_server("drain", "beta", "--json")
    assert json.loads(result.stdout) == {"name": "beta", "state": "draining", "index": INDEX}
    assert result.stderr == ""


def test_undrain(pool: FakePool) -> None:
    assert licraft_server("undrain", "beta").stdout == "beta is up\n"
    assert json.loads(licraft_server("undrain", "beta", "--json").stdout)["state"] == "up"


@pytest.mark.parametrize(
    ("status", "code", "exit_status"),
    [(404, "not_found", 1), (409, "invalid_request", 2), (403, "not_authorized", 5)],
)
def test_refusals_have_the_statuses_of_the_contract(
    pool: FakePool, status: int, code: str, exit_status: int
) -> None:
    refusal = Reply(status, {"status": status, "code": code, "detail": f"says {code}"})
    for path, verb in ((DRAIN, "drain"), (UNDRAIN, "undrain")):
        pool.members[0].always[path] = refusal
        assert licraft_server(verb, "beta").exit_code == exit_status
