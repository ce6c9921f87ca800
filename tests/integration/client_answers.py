"""Answers of a scripted pool, and the fixtures of the client tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from client_fakes import Body, FakePool, ManualClock, Reply

from licraft.client import (
    AsyncSeat,
    Seat,
    keeper,
)

ROOT = Path(__file__).parents[2]
GRANT, BEAT, CHECKIN = "/v1/authorizations", "/v1/heartbeats", "/v1/checkins"


@pytest.fixture(name="pool")
def pool_fixture() -> Iterator[FakePool]:
    pool = FakePool()
    yield pool
    pool.close()


@pytest.fixture(name="clock")
def clock_fixture(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    monkeypatch.setattr(keeper, "WATCH_S", 0.02)  # a manual clock has to be looked at often
    return ManualClock()


def problem(status: int, code: str, **more: object) -> Reply:
    return Reply(status, {"status": status, "code": code, "detail": f"says {code}", **more})


def beats(status: str, **more: object) -> Reply:
    """Answer each token of a heartbeat alike."""

    def answer(body: Body) -> Body:
        return {
            "results": [
                {"id": token.split("|")[0], "status": status, **more} for token in body["tokens"]
            ]
        }

    return Reply(200, answer)


def moved(status: str, server: str, ttl: float = 60.0) -> Reply:
    """Answer each token with a new one of `server`."""

    def answer(body: Body) -> Body:
        ids = [token.split("|")[0] for token in body["tokens"]]
        return {
            "results": [
                {
                    "id": i,
                    "status": status,
                    "ttl": ttl,
                    "token": f"{i}|{server}|2",
                    "server": server,
                }
                for i in ids
            ]
        }

    return Reply(200, answer)


def facts(seat: Seat | AsyncSeat) -> tuple[str, bool, bool]:
    return str(seat.state), seat.valid, seat.lost
