"""Programs tell the pool that was licensed from a server that copied everything but its key."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from client_fakes import Body, FakePool, FakeServer, Reply
from support.processes import MakePool, ServerPool, wait_for

from licraft.client import Client, NotProved, SeatState
from licraft.server.proof import PoolKey
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import generate, public_text
from licraft.vendor.license_file import write_license_file
from licraft.wire import proof_text

pytest_plugins = ["support.pool_fixtures"]
pytestmark = pytest.mark.timeout(120)

TTL_S = 6.0  # of the pools that tests make
GRANT, BEAT, CHECKIN = "/v1/authorizations", "/v1/heartbeats", "/v1/checkins"


def request_of(pool: ServerPool, at: str) -> dict[str, str]:
    """What `licraft pool request` prints for the vendor."""
    done = subprocess.run(
        [sys.executable, "-m", "licraft", "pool", "request", "--json", "--server", pool.urls[at]],
        env={**pool.environ, "LICRAFT_TOKEN": pool.client},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def bound_code(pool: ServerPool, key: str | None, feature: str = "cad", count: int = 30) -> str:
    """One code of the pool's vendor, made on the command line, bound to a key."""
    bound = [] if key is None else [f"--pool-key={key}"]
    vendor = next(pool.directory.rglob("vendor.key"), None)
    if vendor is None:
        return make_code(pool.vendor, feature=feature, count=count, pool_key=key)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "licraft",
            "vendor",
            "code",
            "--key",
            str(vendor),
            "--feature",
            feature,
            "--count",
            str(count),
            *bound,
        ],
        env=pool.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def install(pool: ServerPool, *codes: str, sequence: int, at: str) -> None:
    read = [read_code(code, [pool.vendor.public]) for code in codes]
    text = write_license_file(None, sequence, read)
    answer = pool.ask(at, "PUT", "/v1/license", content=text.encode())
    assert answer.status == 200, answer
    pool.wait_everywhere(
        lambda name: pool.get(name, "/v1/license").body["sequence"] == sequence, 10, "installed"
    )


@pytest.fixture(name="pool")
def pool_fixture(make_pool: MakePool) -> ServerPool:
    """A pool of three with 30 seats of cad that are bound to its key, 10 of cam that are not."""
    pool = make_pool()
    follower, _ = pool.followers()
    key = request_of(pool, follower)["pool_key"]
    install(pool, bound_code(pool, key), bound_code(pool, None, "cam", 10), sequence=1, at=follower)
    return pool


def vendor_key(pool: ServerPool) -> str:
    return public_text(pool.vendor.public)


def test_a_seat_is_proved_renewed_and_follows_its_server_s_loss(pool: ServerPool) -> None:
    first, second = pool.followers()
    urls = [pool.urls[first], pool.urls[second], pool.urls[pool.leader()]]
    with Client(urls, pool.client, vendor_key=vendor_key(pool)) as client:
        seat = client.checkout("cad", count=2)
        assert seat.server == first
        pool.kill(first)  # its seat is another server's now, by heartbeats that are proved too
        wait_for(lambda: seat.server != first and seat.state is SeatState.HELD, 15, "it moved")


def test_what_was_waited_for_longer_than_a_heartbeat_is_renewed_with_a_proof(
    pool: ServerPool,
) -> None:
    name = pool.leader()
    with (
        Client([pool.urls[name]], pool.client) as holder,
        Client([pool.urls[name]], pool.client, vendor_key=vendor_key(pool)) as client,
    ):
        full = holder.checkout("cad", count=30, wait=5)
        began_s = time.monotonic()
        with ThreadPoolExecutor() as waiting:
            granted = waiting.submit(client.checkout, "cad", 1, 20.0)
            wait_for(lambda: time.monotonic() > began_s + TTL_S / 3 + 0.5, 10, "a heartbeat's time")
            assert full.checkin()
            assert granted.result(10).valid


def test_codes_that_are_not_bound_prove_nothing_and_the_seat_is_given_back(
    pool: ServerPool,
) -> None:
    name = pool.leader()
    with Client([pool.urls[name]], pool.client, vendor_key=vendor_key(pool)) as client:
        with pytest.raises(NotProved, match="licraft pool request"):
            client.checkout("cam")
        wait_for(lambda: pool.feature(name, "cam")["in_use"] == 0, 5, "given back")
    with Client([pool.urls[name]], pool.client) as client:
        assert client.checkout("cam").valid  # who does not ask gets it as ever


def test_codes_for_another_pool_s_key_grant_nothing_here(pool: ServerPool) -> None:
    name = pool.followers()[0]
    other = bound_code(pool, PoolKey("77" * 32).public, "sim")
    install(pool, bound_code(pool, request_of(pool, name)["pool_key"]), other, sequence=2, at=name)
    assert pool.checkout(name, "cad").status == 201
    refused = pool.checkout(name, "sim")
    assert (refused.status, refused.code) == (403, "not_licensed")
    statuses = {c["feature"]: c["status"] for c in pool.get(name, "/v1/license")["codes"]}
    assert statuses == {"cad": "valid", "sim": "other_pool"}


def test_the_same_key_is_told_by_every_server_and_after_a_restart(pool: ServerPool) -> None:
    told = {name: request_of(pool, name) for name in pool.names}
    assert len({json.dumps(answer) for answer in told.values()}) == 1
    pool.stop(*pool.names)
    pool.start()
    pool.wait_ready()
    assert request_of(pool, pool.names[0]) == told[pool.names[0]]


# A server that copied everything but the pool's private key

Forge = Callable[[Body], Body]


class Copied:
    """What somebody has who could read a real server's files and connections, but the state."""

    def __init__(self, pool: ServerPool) -> None:
        name = pool.leader()
        self.license = pool.get(name, "/v1/license").body
        spy = {"id": "spy"}
        self.grant = pool.checkout(name, nonce="recorded-nonce", client=spy).body
        beat = {"tokens": [self.grant["token"]], "nonce": "recorded-nonce"}
        self.beat = pool.ask(name, "POST", BEAT, beat, token=pool.client).body
        assert self.grant["proof"]["code"].startswith("LIC1.")
        assert self.beat["proof"]["signature"]
        self.own = PoolKey("99" * 32)

    def replayed(self, body: Body) -> Body:
        """The recorded answer, as it was."""
        return dict(self.grant)

    def adapted(self, body: Body) -> Body:
        """The recorded proof beside what was asked for."""
        return {**self.grant, "id": body["id"], "count": body["count"]}

    def unproved(self, body: Body) -> Body:
        """No proof."""
        return {key: value for key, value in self.adapted(body).items() if key != "proof"}

    def own_key(self, body: Body) -> Body:
        """An own key, which signs this very answer, and the true code."""
        answer = self.adapted(body)
        return {**answer, "proof": self._sign(body, answer, answer["proof"]["code"])}

    def claimed_key(self, body: Body) -> Body:
        """The same, with the true key's name on it."""
        answer = self.own_key(body)
        return {**answer, "proof": {**answer["proof"], "pool_key": self.grant["proof"]["pool_key"]}}

    def own_code(self, body: Body) -> Body:
        """An own key and a code of an own vendor that is bound to it."""
        code = make_code(generate(), feature="cad", count=99, pool_key=self.own.public)
        answer = self.adapted(body)
        return {**answer, "proof": self._sign(body, answer, code)}

    def unbound_code(self, body: Body) -> Body:
        """An own key, and a true code that is bound to none."""
        codes = [
            line.split("code: ")[1]
            for line in self.license["text"].splitlines()
            if "code: " in line
        ]
        answer = self.adapted(body)
        return {**answer, "proof": self._sign(body, answer, codes[1])}

    def _sign(self, body: Body, answer: Body, code: str) -> Body:
        seat = (answer["id"], answer["feature"], answer["count"], answer["ttl"])
        text = proof_text(body["nonce"], answer["server"], self.own.public, [seat])
        return {
            "pool_key": self.own.public,
            "server": answer["server"],
            "signature": self.own.sign(text),
            "code": code,
        }


@pytest.fixture(name="fake")
def fake_fixture() -> Iterator[FakeServer]:
    pool = FakePool(1)
    yield pool.members[0]
    pool.close()


def test_a_server_that_copied_all_but_the_key_is_refused(
    pool: ServerPool, fake: FakeServer
) -> None:
    copied = Copied(pool)
    forgeries: list[Forge] = [
        copied.replayed,
        copied.adapted,
        copied.unproved,
        copied.own_key,
        copied.claimed_key,
        copied.own_code,
        copied.unbound_code,
    ]
    for forge in forgeries:
        fake.requests.clear()
        fake.always[GRANT] = Reply(201, forge)
        with Client([fake.url], vendor_key=vendor_key(pool)) as client:
            with pytest.raises(NotProved) as refused:
                client.checkout("cad")
            assert refused.value.code == "not_proved", forge.__name__
            wait_for(lambda: bool(fake.calls(CHECKIN)), 5, "given back")
        # Without the vendor's key the same answer is a seat.
        with Client([fake.url]) as client:
            fake.always[GRANT] = Reply(201, copied.unproved)
            assert client.checkout("cad").valid
    # A pool with such a server in its list still serves who asks for proofs.
    fake.always[GRANT] = Reply(201, copied.own_key)
    with Client(
        [fake.url, *pool.urls.values()], pool.client, vendor_key=vendor_key(pool)
    ) as client:
        assert client.checkout("cad").server in pool.names


@pytest.mark.parametrize("kind", ["unproved", "replayed", "own key"])
def test_renewals_that_prove_nothing_do_not_keep_a_seat(
    pool: ServerPool, fake: FakeServer, kind: str
) -> None:
    copied = Copied(pool)

    def renew(body: Body) -> Body:
        results = [{"id": seat.id, "status": "renewed", "ttl": 6.0} for _ in body["tokens"]]
        answer: dict[str, Any] = {"results": results}
        if kind == "replayed":
            answer["proof"] = copied.beat["proof"]
        if kind == "own key":
            key = copied.own
            text = proof_text(body["nonce"], "alpha", key.public, [(seat.id, "cad", 1, 6.0)])
            proof = {"pool_key": key.public, "server": "alpha", "signature": key.sign(text)}
            answer["proof"] = proof
        return answer

    fake.always[BEAT] = Reply(200, renew)
    urls = [pool.urls[pool.leader()], fake.url]
    with Client(urls, pool.client, vendor_key=vendor_key(pool)) as client:
        seat = client.checkout("cad")
        pool.kill(*pool.names)
        wait_for(lambda: bool(fake.calls(BEAT)), 10, "the fake server is asked")
        wait_for(lambda: seat.lost, 10, "the seat is lost")


def test_requests_without_a_nonce_are_answered_as_ever(pool: ServerPool) -> None:
    name = pool.leader()
    plain = pool.checkout(name)
    assert "proof" not in plain.body
    with_nonce = pool.checkout(name, nonce="n" * 22)
    assert set(with_nonce.body) - set(plain.body) == {"proof"}
    beat = pool.heartbeat(name, plain["token"]).body
    assert "proof" not in beat
    too_long = httpx.post(
        f"{pool.urls[name]}{GRANT}",
        json={"feature": "cad", "nonce": "n" * 200},
        headers={"authorization": f"Bearer {pool.client}"},
        trust_env=False,
    )
    assert too_long.status_code == 400
