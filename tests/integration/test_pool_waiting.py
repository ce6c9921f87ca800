"""Who waits for seats is served in order, large requests too, and leaves without a trace."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from support.processes import Answer, ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]


@pytest.fixture(scope="module")
def crowd() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(16)


def waiting(pool: ServerPool, server: str) -> int:
    return int(pool.feature(server, "cam")["waiting"])


def ask(
    crowd: ThreadPoolExecutor, pool: ServerPool, server: str, count: int, wait: float
) -> Future[Answer]:
    """A request that waits, once it is in the queue."""
    before = waiting(pool, server)
    future = crowd.submit(pool.checkout, server, "cam", count, wait)
    wait_for(lambda: waiting(pool, server) > before, 3, "the request waits")
    return future


def done(futures: list[Future[Answer]]) -> list[int]:
    return [i for i, future in enumerate(futures) if future.done()]


def give_back(pool: ServerPool, *tokens: str) -> None:
    for token in tokens:
        assert len(pool.checkin("alpha", token)["released"]) == 1


def test_waiting_is_first_come_first_served(calm: ServerPool, crowd: ThreadPoolExecutor) -> None:
    held = [calm.checkout("beta", "cam", wait=3)["token"] for _ in range(7)]
    assert calm.checkout("beta", "cam").code == "no_seats"
    queue = [ask(crowd, calm, "beta", 1, 20) for _ in range(4)]
    got = []
    for expected in range(4):
        give_back(calm, held.pop())
        answer = queue[expected].result(5)
        assert answer.status == 201
        got.append(answer["token"])
        assert done(queue) == list(range(expected + 1))
    give_back(calm, *held, *got)


def test_a_large_request_is_not_starved_by_small_ones(
    calm: ServerPool, crowd: ThreadPoolExecutor
) -> None:
    held = [calm.checkout("beta", "cam", wait=3)["token"] for _ in range(7)]
    large = ask(crowd, calm, "beta", 5, 20)
    small = [ask(crowd, calm, "beta", 1, 20) for _ in range(3)]
    for _ in range(4):
        give_back(calm, held.pop())
        # Seats are free now, and are kept for who came first: nobody else gets one.
        assert calm.checkout("beta", "cam").code == "no_seats"
        assert not large.done()
        assert done(small) == []
    give_back(calm, held.pop())
    tokens = [large.result(5)["token"]]
    assert done(small) == []
    give_back(calm, *held)
    tokens += [future.result(5)["token"] for future in small[:2]]
    give_back(calm, tokens.pop(0))
    tokens.append(small[2].result(5)["token"])
    give_back(calm, *tokens)


def test_waiting_is_first_come_first_served_in_the_whole_pool(
    calm: ServerPool, crowd: ThreadPoolExecutor
) -> None:
    held = [calm.checkout("beta", "cam", wait=3)["token"] for _ in range(7)]
    large = ask(crowd, calm, "gamma", 5, 3)
    small = [ask(crowd, calm, name, 1, 3) for name in ("alpha", "beta")]
    wait_for(lambda: calm.feature("alpha", "cam")["borrowing"]["pending"] >= 2, 5, "they borrow")
    give_back(calm, *held[:5])
    answers = [future.result(5) for future in (large, *small)]
    give_back(calm, *held[5:], *(a["token"] for a in answers if a.status == 201))
    assert [answer.status for answer in answers] == [201, 409, 409]


def test_a_large_request_is_not_starved_by_small_ones_at_another_server(
    calm: ServerPool, crowd: ThreadPoolExecutor
) -> None:
    ending = threading.Event()

    def take_and_give(_: int) -> None:
        while not ending.is_set():
            token = calm.checkout("beta", "cam", wait=20)["token"]
            ending.wait(0.2)
            give_back(calm, token)

    # Of seven seats at beta each is asked for by two programs, all the time.
    small = [crowd.submit(take_and_give, i) for i in range(14)]
    try:
        wait_for(lambda: calm.allocated("beta", "cam")["beta"] == 7, 5, "all seats are at beta")
        granted = calm.checkout("gamma", "cam", 5, wait=4)
    finally:
        ending.set()
        for future in small:
            future.result(30)
    if granted.status == 201:
        give_back(calm, granted["token"])
    assert granted.status == 201


def test_a_wait_ends_in_time_with_a_denial(calm: ServerPool) -> None:
    held = calm.checkout("beta", "cam", count=7, wait=3)["token"]
    begun = time.monotonic()
    denied = calm.checkout("gamma", "cam", wait=0.7)
    took_s = time.monotonic() - begun
    assert (denied.status, denied.code) == (409, "no_seats")
    assert (denied["in_use"], denied["deployed"]) == (7, 7)
    assert 0.7 <= took_s < 1.7
    give_back(calm, held)


def test_who_goes_away_while_waiting_frees_its_place(
    calm: ServerPool, crowd: ThreadPoolExecutor
) -> None:
    held = calm.checkout("beta", "cam", count=7, wait=3)["token"]
    body = json.dumps({"feature": "cam", "count": 7, "wait": 60}).encode()
    place = urlsplit(calm.urls["beta"])
    with contextlib.closing(socket.create_connection((place.hostname, place.port))) as gone:
        gone.sendall(
            b"POST /v1/authorizations HTTP/1.1\r\nhost: x\r\n"
            b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
            % (calm.client.encode(), len(body), body)
        )
        wait_for(lambda: waiting(calm, "beta") == 1, 3, "it waits")
        behind = ask(crowd, calm, "beta", 1, 20)
    wait_for(lambda: waiting(calm, "beta") == 1, 3, "its place is free")
    give_back(calm, held)
    answer = behind.result(5)
    assert answer.status == 201
    assert calm.feature("beta", "cam")["in_use"] == 1
    give_back(calm, answer["token"])
