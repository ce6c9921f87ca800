"""Attackers at the peer port of engines that work on: nothing is executed, applied or let in.

Three engines with peer security, real files and real sockets, in one process, where all that
they apply can be counted. What a crowd costs is in `test_engine_crowds.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from support.attackers import AT_ONCE_S, Papers, Program, caller_context, frame, frames_of, say
from support.relays import Network
from test_engine import NAMES, Pool, until

from licraft.replication import link as link_module
from licraft.replication.link import ASK, HELLO, RAFT, Link
from licraft.replication.messages import MAX_FRAME_BYTES
from licraft.replication.peers import Peers
from licraft.replication.pysyncobj_engine import EngineConfig

ENOUGH_COMMITS = 30
TYPICAL_S = 0.1
WORST_S = 2.0
"""Attackers, three servers and what measures them share one event loop."""

MAX_ANSWER_BYTES = 4096
"""A refusal, or the server's half of a handshake, which is encrypted; nothing of the pool."""


@dataclass(slots=True)
class Tap:
    """What links have heard, decrypted, and whom they have let in."""

    heard: dict[Link, bytearray] = field(default_factory=dict)
    admitted: list[str] = field(default_factory=list)

    def recording(self, hub: Peers, server: str) -> bytes:
        """What `server` has said to the server of `hub` first."""
        for link, heard in self.heard.items():
            if link._hub is hub and link.server == server:
                return bytes(heard)
        raise AssertionError(f"{hub.server} never heard {server}")


@pytest.fixture
def tap(monkeypatch: pytest.MonkeyPatch) -> Tap:
    tap = Tap()
    receive, admit = Link.data_received, Peers.link_ready

    def data_received(link: Link, data: bytes) -> None:
        heard = tap.heard.setdefault(link, bytearray())
        if len(heard) < 100_000:
            heard += data
        receive(link, data)

    def link_ready(peers: Peers, link: Link, server: str) -> None:
        tap.admitted.append(server)
        admit(peers, link, server)

    monkeypatch.setattr(Link, "data_received", data_received)
    monkeypatch.setattr(Peers, "link_ready", link_ready)
    return tap


class SecurePool(Pool):
    """A pool whose engines have certificates, and what an attacker may have got hold of."""

    def __init__(self, directory: Path, tap: Tap) -> None:
        super().__init__(directory / "data")
        self.tap = tap
        self.papers = Papers(directory / "papers")
        self.others_papers = Papers(directory / "others")
        self.program = Program(directory / "executed")
        self.session: list[bytes] = []

    def config(self, name: str) -> EngineConfig:
        return replace(super().config(name), tls=self.papers.of(name))

    @property
    def port(self) -> int:
        """Where alpha listens: the others dial it."""
        return int(self._members["alpha"].rpartition(":")[2])

    def recording(self, server: str) -> bytes:
        """What a server has said to alpha, in the clear: a hello and Raft's frames."""
        return self.tap.recording(self.engines["alpha"]._peers, server)

    def hello(self, server: str) -> bytes:
        """The frame by which a server says hello to alpha."""
        kind, body = next(frames_of(self.recording(server)))
        assert kind == HELLO
        return frame(kind, body)

    def with_papers_of(self, server: str) -> ssl.SSLContext:
        """A caller's side of TLS with a good certificate of the pool."""
        return caller_context(self.papers.of(server))

    async def work(self, over: asyncio.Event) -> list[float]:
        """Commit at one server after the other until it is over; the seconds of each commit."""
        took: list[float] = []
        for number in itertools.count():
            if over.is_set() and number >= ENOUGH_COMMITS:
                return took
            engine = self.engines[list(self.engines)[number % len(self.engines)]]
            begun = time.monotonic()
            await engine.propose(b"work %d" % number, 10.0)
            took.append(time.monotonic() - begun)
            await asyncio.sleep(0.002)
        raise AssertionError("there are always more numbers")

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """While the block runs, the pool commits, in one term, and applies nothing else."""
        terms = {engine.status().term for engine in self.engines.values()}
        counts = {machine.count for machine in self.machines.values()}
        over = asyncio.Event()
        work = asyncio.create_task(self.work(over))
        try:
            yield
        finally:
            over.set()
            took = await work
        assert sorted(took)[len(took) // 2] < TYPICAL_S
        assert max(took) < WORST_S
        await self.same_everywhere()
        assert not self.program.was_executed()
        assert {engine.status().term for engine in self.engines.values()} == terms
        (count,) = counts
        assert {m.count for m in self.machines.values()} == {count + len(took)}


@asynccontextmanager
async def secure_pool(directory: Path, tap: Tap) -> AsyncIterator[SecurePool]:
    """A pool in which all are connected, and that has committed something."""
    pool = SecurePool(directory, tap)
    async with pool:
        await pool.elected()
        await until(lambda: all(len(e.status().connected) == 2 for e in pool.engines.values()))
        for name in NAMES:
            await pool.commit(name, b"before")
        await pool.same_everywhere()
        yield pool


# Those who are not in the pool.

Attack = Callable[[SecurePool], Awaitable[list[bytes]]]
"""Attacks a pool; what was answered to each attempt."""


async def random_bytes(pool: SecurePool) -> list[bytes]:
    rng = random.Random(1)
    lengths = [1, 5, 100, 1024, 20_000, 300_000] * 5
    return await asyncio.gather(*(say(pool.port, [rng.randbytes(n)]) for n in lengths))


async def plain_text(pool: SecurePool) -> list[bytes]:
    # The second is what a server says, only not encrypted.
    said = [b"GET / HTTP/1.1\r\nHost: alpha\r\n\r\n", pool.recording("beta"), b"\n" * 5000]
    return [await say(pool.port, [text]) for text in said]


async def broken_tls(pool: SecurePool) -> list[bytes]:
    """Records that promise too much, alerts, and a hello that is cut off and goes on as garbage."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    greeting = pool.with_papers_of("beta").wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        greeting.do_handshake()
    hello = outgoing.read()
    said = [
        b"\x16\x03\x01\xff\xff" + bytes(70_000),
        b"\x15\x03\x03\x00\x02\x01\x00" * 100,
        hello + b"\x17\x03\x03\x40\x00" + bytes(0x4000),
        hello[: len(hello) // 2] + bytes(1000),
        hello * 20,
    ]
    return [await say(pool.port, [text]) for text in said]


def callers(*names: str) -> Attack:
    """Callers with papers that are not good enough, who say what a server said once."""

    async def attack(pool: SecurePool) -> list[bytes]:
        contexts = {
            "no certificate": caller_context(None),
            "another authority": caller_context(pool.others_papers.of("beta")),
            "expired": caller_context(pool.papers.of("beta", expired=True)),
            "tls 1.2": caller_context(pool.papers.of("beta"), newest=ssl.TLSVersion.TLSv1_2),
            "another member": caller_context(pool.papers.of("gamma")),
            "no member": caller_context(pool.papers.of("delta")),
        }
        said = pool.recording("beta")
        return [await say(pool.port, [said], contexts[name]) for name in names]

    return attack


@pytest.mark.parametrize(
    "attack",
    [
        random_bytes,
        plain_text,
        broken_tls,
        callers("no certificate", "another authority", "expired"),
        callers("tls 1.2"),
        callers("another member", "no member"),
    ],
    ids=["random bytes", "plain text", "broken TLS", "bad papers", "TLS 1.2", "another name"],
)
def test_a_stranger_gets_no_answer_and_changes_nothing(
    tmp_path: Path, tap: Tap, attack: Attack
) -> None:
    async def scenario() -> None:
        async with secure_pool(tmp_path, tap) as pool:
            admitted = list(tap.admitted)
            async with pool.at_work():
                for answer in await attack(pool):
                    assert not _is_hello(answer)
                    assert len(answer) < MAX_ANSWER_BYTES
            assert tap.admitted == admitted
            assert all(len(e.status().connected) == 2 for e in pool.engines.values())

    asyncio.run(scenario())


def _is_hello(answer: bytes) -> bool:
    return any(kind == HELLO for kind, _ in frames_of(answer))


def test_a_good_certificate_does_get_an_answer(tmp_path: Path, tap: Tap) -> None:
    """So that the tests above fail for the right reason: such a caller is heard."""

    async def scenario() -> None:
        async with secure_pool(tmp_path, tap) as pool:
            pool.kill("gamma")
            said = pool.hello("gamma") + frame(0xEE, b"")
            answer = await say(pool.port, [said], pool.with_papers_of("gamma"))
            assert _is_hello(answer)
            assert tap.admitted[-1] == "gamma"

    asyncio.run(scenario())


def test_a_recorded_session_cannot_be_played_again(tmp_path: Path, tap: Tap) -> None:
    """All that a server sent over its connection, TLS and all, as someone on the way hears it."""

    async def scenario() -> None:
        with Network(*NAMES) as network:
            pool = SecurePool(tmp_path, tap)
            async with pool:
                await pool.elected()
                direct = pool._members["alpha"]
                await pool.stop("beta")
                relayed = await asyncio.to_thread(
                    network.relay, "alpha", pool.port, lambda _: "beta"
                )
                pool._members["alpha"] = f"127.0.0.1:{relayed}"
                await pool.start("beta")
                pool._members["alpha"] = direct
                await pool.commit("beta", b"recorded")
                await pool.same_everywhere()
                await until(
                    lambda: all(len(e.status().connected) == 2 for e in pool.engines.values())
                )
                recorded = list(network.recording("beta", "alpha"))
                assert sum(map(len, recorded)) > 1000
                admitted = list(tap.admitted)
                async with pool.at_work():
                    for said in (recorded, [b"".join(recorded)], recorded[:1] * 2 + recorded[1:]):
                        await say(pool.port, said)
                assert tap.admitted == admitted

    asyncio.run(scenario())


# Those who have stolen a member's certificate and key.


def nested(levels: int) -> bytes:
    """msgpack arrays in arrays."""
    return b"\x91" * levels + b"\xc0"


def tagged(kind: int, body: bytes) -> bytes:
    """A Raft message of a type that exists, with something else in it."""
    return msgspec.msgpack.encode([kind, 1])[:2] + body


BOMBS = {
    "nested": nested(200_000),
    "nested in a message": tagged(1, nested(100_000)),
    "a list of 4 thousand million": tagged(1, b"\xdd\xff\xff\xff\xff"),
    "bytes of 4 GB": tagged(9, b"\xc6\xff\xff\xff\xff"),
    "many entries": msgspec.msgpack.encode([1, 9, 1, 0, 0, 0, [[b"\x00", 1, 1]] * 300_000]),
    "a map": msgspec.msgpack.encode({str(n): n for n in range(200_000)}),
    "a long number": msgspec.msgpack.encode([1, 2**64 - 1, 1, 0, 0, 0, []]),
    "not text": b"\xa4\xff\xfe\xfd\xfc",
    "nothing": b"",
}


async def said_by_gamma(pool: SecurePool, *frames: bytes) -> list[bytes]:
    """Say each of these on a connection of its own, with the papers of gamma.

    Each is ended for what is said, and not because nothing more comes.
    """
    tls = pool.with_papers_of("gamma")
    return [await say(pool.port, [one], tls, within_s=AT_ONCE_S) for one in frames]


@pytest.mark.parametrize("case", ["kinds", "lengths", "bombs", "programs", "another pool"])
def test_nothing_is_taken_before_a_good_hello(tmp_path: Path, tap: Tap, case: str) -> None:
    async def scenario() -> None:
        async with secure_pool(tmp_path, tap) as pool:
            raft = next(body for kind, body in frames_of(pool.recording("gamma")) if kind == RAFT)
            hello = pool.hello("gamma")
            frames = {
                # With what would be a good frame of that kind, where there is one.
                "kinds": [frame(kind, raft) for kind in [*range(1, 20), 255]],
                "lengths": [
                    length.to_bytes(4, "big") + bytes(2000)
                    for length in (0, 1026, 0xFFFF, MAX_FRAME_BYTES, 2**31 - 1, 2**32 - 1)
                ],
                "bombs": [frame(HELLO, bomb[:1000]) for bomb in BOMBS.values()],
                "programs": [frame(kind, pool.program.bytes_) for kind in (HELLO, RAFT, ASK)],
                "another pool": [
                    hello.replace(b"\xa4pool", b"\xa4loop"),
                    hello.replace(b"\xa5alpha", b"\xa5omega"),
                    hello.replace(b"\xa5gamma", b"\xa5alpha"),
                ],
            }[case]
            assert hello not in frames
            admitted = list(tap.admitted)
            async with pool.at_work():
                for answer in await said_by_gamma(pool, *frames):
                    assert not _is_hello(answer)
            assert tap.admitted == admitted
            assert all(len(e.status().connected) == 2 for e in pool.engines.values())

    asyncio.run(scenario())


@pytest.mark.parametrize("case", ["lengths", "bombs", "programs"])
def test_what_a_member_may_not_say_ends_its_connection(tmp_path: Path, tap: Tap, case: str) -> None:
    async def scenario() -> None:
        async with secure_pool(tmp_path, tap) as pool:
            hello, program = pool.hello("gamma"), pool.program.bytes_
            pool.kill("gamma")
            frames = {
                "lengths": [
                    length.to_bytes(4, "big") + bytes(2000)
                    for length in (0, MAX_FRAME_BYTES + 1, 2**31 - 1, 2**32 - 1)
                ],
                "bombs": [frame(RAFT, bomb) for bomb in BOMBS.values()],
                "programs": [
                    frame(RAFT, program),
                    # A question has any bytes; what follows it is wrong.
                    frame(ASK, bytes(8) + program) + frame(0xEE, b""),
                    frame(link_module.ANSWER, bytes(8) + program) + frame(0xEE, b""),
                    frame(link_module.ANSWER_ERROR, bytes(8) + program) + frame(0xEE, b""),
                    # A forwarded command, and an entry, of a type that PySyncObj unpickles.
                    *(
                        frame(RAFT, msgspec.msgpack.encode([9, bytes([kind]) + program, 1]))
                        for kind in (2, 3, 5, 255)
                    ),
                    *(
                        frame(
                            RAFT,
                            msgspec.msgpack.encode(
                                [1, 1, 1, 9, 0, 0, [[bytes([kind]) + program, 1, 1]]]
                            ),
                        )
                        for kind in (2, 3, 5, 255)
                    ),
                ],
            }[case]
            async with pool.at_work():
                for answer in await said_by_gamma(pool, *(hello + one for one in frames)):
                    assert _is_hello(answer), "it was not even let in"
            # The member itself gets in again, and has missed nothing.
            await pool.start("gamma")
            await until(lambda: "gamma" in pool.engines["alpha"].status().connected, 5.0)
            await pool.same_everywhere()

    asyncio.run(scenario())
