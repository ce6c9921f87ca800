"""Crowds and floods at the peer port of real servers, which work on and stay within bounds."""

from __future__ import annotations

import itertools
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from support.attackers import Papers, caller_context, frame
from support.crowds import Costs, Crowd, Pour, gathered, knock, measured
from support.processes import ServerPool, free_ports, wait_for

from licraft.core import versions
from licraft.core.codec import encode_entry
from licraft.core.commands import Entry, PromoteServer
from licraft.replication.link import ASK, PING, RAFT
from licraft.replication.listener import MAX_HANDSHAKES
from licraft.replication.peers import MAX_STRANGERS, PeerTls

CROWD = 1000
MAX_SHOUT_MB = 150
MAX_PROPOSED_MB = 64
RECOVERS_WITHIN_S = 15.0
BACK_WITHIN_S = 5.0
TYPICAL_S = 0.25
WORST_S = 3.0
"""The attackers have as much of this machine's two cores as the servers."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    """A pool of three with the default lease; its leader does not give its place back meanwhile."""
    pool = ServerPool(tmp_path_factory.mktemp("calm") / "pool", lease_s=3.0, ttl_s=12.0)
    pool.environ["LICRAFT_LEADER_HANDBACK"] = "false"
    try:
        pool.start()
        pool.wait_ready()
        pool.install({"cad": 100})
        yield pool
    finally:
        # Shown beside a failure only.
        print(pool.logs())
        pool.close()


@pytest.fixture(autouse=True)
def room_for_a_crowd() -> Iterator[None]:
    """The attacker's own limit of descriptors must not protect the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CROWD
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"at most {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Work:
    """Commits at one server after the other, all of which must succeed."""

    def __init__(self, pool: ServerPool, *names: str) -> None:
        self._pool = pool
        self._names = names
        self.took: list[float] = []

    def go_on(self, over: threading.Event) -> None:
        """Commit until it is over; raises AssertionError if anything is not committed."""
        sequence = self._pool.get(self._names[0], "/v1/license")["sequence"]
        for number in itertools.count():
            if over.wait(0.005):
                return
            name = self._names[number % len(self._names)]
            sequence += 1
            text = self._pool.license_text({"cad": 100 + number % 7}, sequence=sequence)
            begun = time.monotonic()
            answer = self._pool.ask(name, "PUT", "/v1/license", content=text.encode())
            self.took.append(time.monotonic() - begun)
            assert answer.status == 200, answer


def commits(pool: ServerPool, name: str) -> bool:
    """Whether a server commits a license file, at one attempt."""
    now = pool.get(name, "/v1/license")
    if now.status != 200:
        return False
    text = pool.license_text({"cad": 100}, sequence=now["sequence"] + 1)
    return pool.ask(name, "PUT", "/v1/license", content=text.encode()).status == 200


@contextmanager
def at_work(pool: ServerPool, *names: str) -> Iterator[Work]:
    """While the block runs, these servers, or all, commit, and nobody is elected."""
    running = [name for name in pool.names if pool.running(name)]
    terms = {pool.get(name, "/v1/pool")["term"] for name in running}
    leader = pool.leader()
    over = threading.Event()
    work = Work(pool, *(names or pool.names))
    with ThreadPoolExecutor(1) as worker:
        working = worker.submit(work.go_on, over)
        try:
            yield work
        finally:
            over.set()
            working.result(30)
    took = sorted(work.took)
    print(f"{len(took)} commits: {took[len(took) // 2]:.3f} s typical, {took[-1]:.3f} s worst")
    assert len(took) >= 5
    assert took[len(took) // 2] < TYPICAL_S
    assert took[-1] < WORST_S
    assert {pool.get(name, "/v1/pool")["term"] for name in running} == terms
    assert pool.leader() == leader


def stay(seconds: float) -> None:
    """Let an attack last."""
    time.sleep(seconds)


def tell(what: str, costs: Costs) -> None:
    print(f"{what}: {costs.grown_mb:.1f} MB and {costs.grown_descriptors} descriptors more")


def restart(pool: ServerPool, name: str) -> float:
    """Kill a server and start it again; the seconds until it may grant."""
    pool.kill(name)
    begun = time.monotonic()
    pool.start(name)
    pool.wait_ready(name, within_s=BACK_WITHIN_S)
    return time.monotonic() - begun


def test_a_crowd_that_says_nothing_or_little_costs_little(calm: ServerPool) -> None:
    pool = calm
    leader, (_, last) = pool.leader(), pool.followers()
    port = pool.planned[leader].peer_port
    crowds = [
        Crowd(port, CROWD // 2, b""),
        # A record of 16 KB that never comes whole.
        Crowd(port, CROWD // 4, b"\x16\x03\x01\x40\x00\x01", murmur=b"\x00" * 16),
        Crowd(port, CROWD // 4, b"GET / HTTP/1.1\r\n", murmur=b"a"),
    ]
    others = [name for name in pool.names if name != last]
    with measured(pool, leader) as costs, at_work(pool, *others), gathered(*crowds):
        wait_for(lambda: sum(c.came for c in crowds) > 2 * CROWD, 10, "they come again")
        took_s = restart(pool, last)
        # Longer than the time that a handshake may take.
        stay(3.0)
    tell(f"{sum(crowd.came for crowd in crowds)} connections", costs)
    print(f"{last} was back after {took_s:.2f} s")
    assert sum(crowd.at_once for crowd in crowds) > CROWD // 2
    assert costs.grown_mb < 32
    assert costs.grown_descriptors < MAX_HANDSHAKES + MAX_STRANGERS + 20
    wait_for(lambda: pool.ready(last), 5, f"{last} is ready")


def test_handshakes_that_must_fail_do_not_keep_a_server_from_its_work(
    calm: ServerPool, tmp_path: Path
) -> None:
    pool = calm
    leader, (_, last) = pool.leader(), pool.followers()
    stranger = caller_context(Papers(tmp_path / "others").of(last))
    over = threading.Event()
    with measured(pool, leader) as costs, at_work(pool), ThreadPoolExecutor(4) as attackers:
        port = pool.planned[leader].peer_port
        knocking = [attackers.submit(knock, port, stranger, over) for _ in range(4)]
        stay(4.0)
        over.set()
        times = sum(attempt.result(10) for attempt in knocking)
    tell(f"{times} handshakes", costs)
    assert times > 100
    assert costs.grown_mb < 16
    assert costs.grown_descriptors < MAX_HANDSHAKES + MAX_STRANGERS + 20


# A member's certificate and key have been stolen, and are used to shout.


def papers_of(pool: ServerPool, name: str) -> PeerTls:
    folder = pool.directory
    return PeerTls(folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key")


def overheard_hello(pool: ServerPool, server: str, target: str) -> bytes:
    """The frame by which `server` says hello to `target`: it dials somebody who has its papers.

    It has nothing in its data directory, so that it believes its configuration.
    """
    config = pool.directory / f"{server}.yaml"
    text = config.read_text(encoding="utf-8")
    (port,) = free_ports(1)
    true = f"127.0.0.1:{pool.planned[target].peer_port}"
    config.write_text(text.replace(true, f"127.0.0.1:{port}"), encoding="utf-8")
    pool.environ["LICRAFT_DATA_DIR"] = str(pool.directory / "data" / "empty")
    try:
        with socket.create_server(("127.0.0.1", port)) as listener:
            listener.settimeout(10)
            pool.start(server)
            sock, _ = listener.accept()
            sock.settimeout(10)
            with (
                papers_of(pool, target)
                .context(accepts=True)
                .wrap_socket(sock, server_side=True) as secured
            ):
                heard = secured.recv(65536)
    finally:
        pool.stop(server, starting=True)
        del pool.environ["LICRAFT_DATA_DIR"]
        config.write_text(text, encoding="utf-8")
    assert len(heard) == 4 + int.from_bytes(heard[:4], "big")
    return heard


@pytest.fixture(scope="module")
def robbed(calm: ServerPool) -> Iterator[tuple[ServerPool, str, bytes, ssl.SSLContext]]:
    """A pool whose last follower is down; its hello to the leader, and its papers."""
    leader, (_, thief) = calm.leader(), calm.followers()
    calm.stop(thief)
    hello = overheard_hello(calm, thief, leader)
    yield calm, thief, hello, caller_context(papers_of(calm, thief))
    if not calm.running(thief):
        calm.start(thief)
        calm.wait_ready(thief, within_s=BACK_WITHIN_S)


def forwarded(entry: Entry) -> bytes:
    """An entry on its way from a follower to the leader, many times."""
    command = b"\x00" + encode_entry(entry, versions.KNOWN)
    one = frame(RAFT, msgspec.msgpack.encode([9, command, 1]))
    return one * (1 + 1_000_000 // len(one))


# These have no effect: their serial was used long ago.
SMALL = Entry("gamma", 1, 1, (PromoteServer("gamma"),))
LARGE = Entry("gamma", 1, 1, (PromoteServer("gamma" * 200_000),))
COMMANDS = {"short": forwarded(SMALL), "long": forwarded(LARGE)}
FLOODS = {
    "pings": frame(PING, b"") * 10_000,
    "questions": frame(ASK, bytes(8) + b"what?") * 5_000,
    "long questions": frame(ASK, bytes(8) + bytes(4_000_000)),
    "frames without an end": (16_000_000).to_bytes(4, "big") + bytes(15_000_000),
}


@pytest.mark.parametrize("what", list(FLOODS))
def test_a_member_that_shouts_is_bounded(
    robbed: tuple[ServerPool, str, bytes, ssl.SSLContext], what: str
) -> None:
    pool, thief, hello, tls = robbed
    leader = pool.leader()
    pour = Pour(pool.planned[leader].peer_port, tls, hello, FLOODS[what])
    others = [name for name in pool.names if name != thief]
    over = threading.Event()
    with measured(pool, leader) as costs, at_work(pool, *others), ThreadPoolExecutor(1) as flooder:
        pouring = flooder.submit(pour.go_on, over)
        stay(4.0)
        over.set()
        pouring.result(20)
    tell(f"{pour.poured / 2**20:.0f} MB of {what}, admitted {pour.admitted} times", costs)
    assert pour.admitted > 0
    assert pour.poured > 2**20
    assert costs.grown_mb < MAX_SHOUT_MB


@pytest.mark.parametrize("what", list(COMMANDS))
def test_a_member_that_proposes_without_end_does_no_lasting_harm(
    robbed: tuple[ServerPool, str, bytes, ssl.SSLContext], what: str
) -> None:
    """Whoever is a member may propose; all servers must then carry it out, at its pace.

    What is promised is less, therefore: what it proposes has its due effect, here none, and
    when it ends the pool is as it was, soon.
    """
    pool, thief, hello, tls = robbed
    leader = pool.leader()
    others = [name for name in pool.names if name != thief]
    pour = Pour(
        pool.planned[leader].peer_port, tls, hello, COMMANDS[what], most=MAX_PROPOSED_MB * 2**20
    )
    over = threading.Event()
    with measured(pool, leader) as costs, ThreadPoolExecutor(1) as flooder:
        pouring = flooder.submit(pour.go_on, over)
        stay(2.0)
        over.set()
        pouring.result(20)
        begun = time.monotonic()
        wait_for(
            lambda: all(commits(pool, name) for name in others), RECOVERS_WITHIN_S, "all commit"
        )
    print(f"commits again after {time.monotonic() - begun:.2f} s")
    tell(f"{pour.poured / 2**20:.0f} MB of {what} commands", costs)
    assert pour.admitted > 0
    assert pour.poured > 2**20
    # The log, its way to the others, and what is applied now.
    assert costs.grown_mb < 6 * MAX_PROPOSED_MB
    assert all(pool.running(name) for name in others)
    assert pool.unbalanced(others) == []
