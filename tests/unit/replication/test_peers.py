"""Connections between servers: who gets in, what is refused, what a question may cost."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pysyncobj.node import Node

from licraft.errors import PeerUnreachable, SettingsError
from licraft.replication import link as link_module
from licraft.replication import peers as peers_module
from licraft.replication.directory import split_address
from licraft.replication.messages import Message, encode
from licraft.replication.peers import Peers, PeerTls

MESSAGE = {"type": "timeout_now", "term": 3}


class Authority:
    """A certificate authority in a directory, for tests only."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test pool")])
        ca = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        (directory / "ca.pem").write_bytes(ca)

    def issue(self, server: str) -> PeerTls:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, server)])
        cert = self._sign(name, key, x509.SubjectAlternativeName([x509.DNSName(server)]))
        paths = PeerTls(
            *(self._directory / n for n in ("ca.pem", f"{server}.pem", f"{server}.key"))
        )
        paths.cert.write_bytes(cert)
        paths.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def free_addresses(names: list[str]) -> dict[str, str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    addresses = {
        name: f"127.0.0.1:{held.getsockname()[1]}"
        for name, held in zip(names, sockets, strict=True)
    }
    for held in sockets:
        held.close()
    return addresses


async def until(condition: Callable[[], object], timeout_s: float = 8.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come true in time")
        await asyncio.sleep(0.005)


async def shout(server: str, body: bytes) -> bytes:
    return server.encode() + b":" + body.upper()


class Member:
    """One server's peers, and what it received."""

    def __init__(
        self,
        server: str,
        members: Mapping[str, str],
        *,
        tls: PeerTls | None = None,
        pool: str = "pool",
        on_ask: Callable[[str, bytes], Awaitable[bytes]] = shout,
    ) -> None:
        self.address = members[server]
        self.received: list[tuple[str, Message]] = []
        self.lost: list[str] = []
        self.peers = Peers(pool, server, members, tls, on_ask, time.monotonic, random.Random(1))
        self.peers.setOnMessageReceivedCallback(self._receive)
        self.peers.setOnNodeDisconnectedCallback(lambda node: self.lost.append(node.id))
        self.peers.on_activity = self.let_leave

    def let_leave(self) -> None:
        self.peers.seal()
        self.peers.release()

    def _receive(self, node: Node, message: Message) -> None:
        self.received.append((node.id, message))


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[None]:
    try:
        for member in members:
            await member.peers.start(member.address)
        yield
    finally:
        for member in members:
            member.peers.destroy()
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "RETRY_S", (0.01, 0.03))


def pair() -> tuple[Member, Member]:
    addresses = free_addresses(["alpha", "beta"])
    return Member("alpha", addresses), Member("beta", addresses)


async def connected(*members: Member) -> None:
    await until(lambda: all(member.peers.connected for member in members))


@pytest.mark.parametrize("secure", [False, True])
def test_messages_and_questions_go_both_ways(tmp_path: Path, secure: bool) -> None:
    async def scenario() -> None:
        addresses = free_addresses(["alpha", "beta"])
        authority = Authority(tmp_path / "ca") if secure else None
        tls = {name: authority.issue(name) if authority else None for name in addresses}
        alpha, beta = (Member(name, addresses, tls=tls[name]) for name in addresses)
        async with running(alpha, beta):
            await connected(alpha, beta)
            assert alpha.peers.send(Node("beta"), dict(MESSAGE))
            assert beta.peers.send(Node("alpha"), dict(MESSAGE))
            await until(lambda: alpha.received and beta.received)
            assert alpha.received == [("beta", MESSAGE)]
            assert beta.received == [("alpha", MESSAGE)]
            assert await alpha.peers.ask("beta", b"hi", 5.0) == b"alpha:HI"
            assert await beta.peers.ask("alpha", bytes(1_000_000), 5.0) == b"beta:" + bytes(10**6)

    asyncio.run(scenario())


def test_raft_waits_for_the_disk_and_questions_do_not() -> None:
    async def scenario() -> None:
        alpha, beta = pair()
        async with running(alpha, beta):
            await connected(alpha, beta)
            alpha.peers.on_activity = alpha.peers.flush
            alpha.peers.send(Node("beta"), dict(MESSAGE))
            # An answer to what was asked later proves that the message could have arrived.
            assert await alpha.peers.ask("beta", b"?", 5.0) == b"alpha:?"
            alpha.peers.seal()
            alpha.peers.send(Node("beta"), dict(MESSAGE))
            assert await alpha.peers.ask("beta", b"?", 5.0) == b"alpha:?"
            assert beta.received == []
            alpha.peers.release()
            await until(lambda: beta.received)
            # What came after the seal belongs to the next turn.
            assert await alpha.peers.ask("beta", b"?", 5.0) == b"alpha:?"
            assert len(beta.received) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("case", ["other authority", "other name", "no certificate"])
def test_who_cannot_prove_its_name_does_not_get_in(tmp_path: Path, case: str) -> None:
    async def scenario() -> None:
        addresses = free_addresses(["alpha", "beta"])
        authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
        bad = {
            "other authority": other.issue("beta"),
            "other name": authority.issue("gamma"),
            "no certificate": None,
        }[case]
        alpha = Member("alpha", addresses, tls=authority.issue("alpha"))
        beta = Member("beta", addresses, tls=bad)
        good = Member("beta", addresses, tls=authority.issue("beta"))
        async with running(alpha):
            beta_task = asyncio.create_task(until(lambda: beta.peers.connected, 0.6))
            async with running(beta):
                with pytest.raises(AssertionError, match="did not come true"):
                    await beta_task
                assert not alpha.peers.connected
            async with running(good):
                await connected(alpha, good)

    asyncio.run(scenario())


@pytest.mark.parametrize("difference", ["pool", "members"])
def test_another_pool_or_another_list_of_servers_is_refused(difference: str) -> None:
    async def scenario() -> None:
        addresses = free_addresses(["alpha", "beta"])
        alpha = Member("alpha", addresses)
        if difference == "pool":
            beta = Member("beta", addresses, pool="other")
        else:
            beta = Member("beta", {**addresses, "gamma": "127.0.0.1:1"})
        async with running(alpha, beta):
            with pytest.raises(AssertionError, match="did not come true"):
                await until(lambda: alpha.peers.connected or beta.peers.connected, 0.5)

    asyncio.run(scenario())


def hello(server: str, **changes: object) -> bytes:
    fields = {
        "newest": 1,
        "oldest": 1,
        "pool": "pool",
        "server": server,
        "members": hashlib.sha256(b"alpha\nbeta").hexdigest(),
        "to": "alpha",
        "check": False,
        "leading": None,
    }
    fields.update(changes)
    return frame(link_module.HELLO, msgspec.msgpack.encode(list(fields.values())))


@pytest.mark.parametrize(
    ("newest", "oldest", "more", "admitted"),
    [(1, 1, (), True), (2, 1, ("news", 7), True), (3, 2, (), False), (0, 0, (), False)],
)
def test_releases_that_share_a_version_of_the_protocol_talk(
    newest: int, oldest: int, more: tuple[object, ...], admitted: bool
) -> None:
    """A later release may speak more versions, and say more in its hello (rolling upgrade)."""

    async def scenario() -> None:
        alpha, _ = pair()
        host, port = alpha.address.split(":")
        async with running(alpha):
            reader, writer = await asyncio.open_connection(host, int(port))
            extra = {str(place): thing for place, thing in enumerate(more)}
            writer.write(hello("beta", newest=newest, oldest=oldest, **extra))
            answer = await asyncio.wait_for(reader.read(1024), 5.0)
            assert bool(answer) == admitted
            if admitted:
                await until(lambda: "beta" in alpha.peers.connected)
            else:
                assert not alpha.peers.connected
            writer.close()

    asyncio.run(scenario())


async def read_to_the_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(1024):
            pass


def frame(kind: int, body: bytes) -> bytes:
    return (len(body) + 1).to_bytes(4, "big") + bytes([kind]) + body


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\xff\xff\xff\xff" + bytes(100), b""),
        (bytes(4), b""),
        (frame(link_module.RAFT, b"x"), b""),
        (frame(link_module.HELLO, b"x"), b""),
        (frame(link_module.HELLO, bytes(2000)), b""),
        ("beta", b"\x7f\xff\xff\xff\x01"),
        ("beta", frame(link_module.RAFT, b"\x80\x04\x95.")),
        ("beta", frame(77, b"")),
        ("beta", frame(link_module.ASK, b"short")),
        ("alpha", b""),
        ("gamma", b""),
    ],
)
def test_garbage_closes_the_connection_and_nothing_else(before: bytes | str, after: bytes) -> None:
    async def scenario() -> None:
        alpha, beta = pair()
        async with running(alpha):
            host, port = alpha.address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write((hello(before) if isinstance(before, str) else before) + after)
            async with asyncio.timeout(5.0):
                await read_to_the_end(reader)
            writer.close()
            assert alpha.received == []
            async with running(beta):
                await connected(alpha, beta)

    asyncio.run(scenario())


def test_a_connection_that_is_replaced_delivers_nothing_more() -> None:
    async def scenario() -> None:
        alpha, _ = pair()
        host, port = alpha.address.split(":")
        async with running(alpha):
            _, first = await asyncio.open_connection(host, int(port))
            first.write(hello("beta"))
            await until(lambda: alpha.peers.connected)
            (old,) = alpha.peers._links.values()
            _, second = await asyncio.open_connection(host, int(port))
            second.write(hello("beta"))
            await until(lambda: alpha.lost == ["beta"])
            raft = frame(link_module.RAFT, encode(MESSAGE))
            old.data_received(raft)
            second.write(raft)
            await until(lambda: alpha.received)
            assert alpha.received == [("beta", MESSAGE)]
            first.close()
            second.close()

    asyncio.run(scenario())


def test_a_peer_that_is_lost_comes_back() -> None:
    async def scenario() -> None:
        addresses = free_addresses(["alpha", "beta"])
        beta = Member("beta", addresses)
        async with running(beta):
            for _ in range(3):
                alpha = Member("alpha", addresses)
                async with running(alpha):
                    await connected(alpha, beta)
                await until(lambda: not beta.peers.connected)

    asyncio.run(scenario())


def test_a_half_open_connection_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "SILENCE_S", 0.3)
    monkeypatch.setattr(peers_module, "PING_S", 0.05)

    async def scenario() -> None:
        alpha, _ = pair()
        host, port = alpha.address.split(":")
        async with running(alpha):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(hello("beta"))
            await until(lambda: alpha.peers.connected)
            await until(lambda: alpha.lost == ["beta"])
            writer.close()

    asyncio.run(scenario())


def test_an_idle_connection_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "SILENCE_S", 0.3)
    monkeypatch.setattr(peers_module, "PING_S", 0.05)

    async def scenario() -> None:
        alpha, beta = pair()
        async with running(alpha, beta):
            await connected(alpha, beta)
            received_at = alpha.peers._links["beta"].received_at
            await until(lambda: alpha.peers._links["beta"].received_at > received_at + 0.6)
            assert alpha.lost == []
            assert beta.lost == []

    asyncio.run(scenario())


def test_a_peer_that_does_not_read_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_UNSENT_BYTES", 2_000_000)

    async def scenario() -> None:
        alpha, _ = pair()
        host, port = alpha.address.split(":")
        async with running(alpha):
            _, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.write(hello("beta"))
            await until(lambda: alpha.peers.connected)
            large = {"type": "apply_command", "command": bytes(1_000_000), "request_id": 1}
            sent = [alpha.peers.send(Node("beta"), large) for _ in range(50)]
            assert sent[0]
            assert not sent[-1]
            assert alpha.lost == ["beta"]
            writer.close()

    asyncio.run(scenario())


def test_strangers_are_bounded_and_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "MAX_STRANGERS", 3)
    monkeypatch.setattr(peers_module, "CONNECT_S", 0.3)
    monkeypatch.setattr(peers_module, "PING_S", 0.05)

    async def scenario() -> None:
        alpha, beta = pair()
        host, port = alpha.address.split(":")
        async with running(alpha):
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
            await until(lambda: len(alpha.peers._strangers) <= 3)
            await until(lambda: not alpha.peers._strangers)
            async with running(beta):
                await connected(alpha, beta)
            for _, writer in silent:
                writer.close()

    asyncio.run(scenario())


def test_every_way_a_question_fails_is_peer_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_ASKS", 4)

    async def answer(server: str, body: bytes) -> bytes:
        if body == b"fail":
            raise KeyError("secret")
        if body == b"wait":
            await asyncio.sleep(60)
        return body

    async def scenario() -> None:
        addresses = free_addresses(["alpha", "beta"])
        alpha, beta = Member("alpha", addresses, on_ask=answer), Member("beta", addresses)
        async with running(alpha, beta):
            await connected(alpha, beta)
            with pytest.raises(PeerUnreachable, match="KeyError") as failed:
                await beta.peers.ask("alpha", b"fail", 5.0)
            assert "secret" not in str(failed.value)
            with pytest.raises(PeerUnreachable, match="no answer within"):
                await beta.peers.ask("alpha", b"wait", 0.02)
            for unknown in ("gamma", "beta"):
                with pytest.raises(PeerUnreachable, match="not connected"):
                    await beta.peers.ask(unknown, b"", 5.0)
            with pytest.raises(ValueError, match="at most"):
                await beta.peers.ask("alpha", bytes(9 * 1024 * 1024), 5.0)
            waiting = [
                asyncio.create_task(beta.peers.ask("alpha", b"wait", 30.0)) for _ in range(4)
            ]
            await asyncio.sleep(0)
            with pytest.raises(PeerUnreachable, match="open already"):
                await beta.peers.ask("alpha", b"x", 5.0)
            alpha.peers.destroy()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(result) for result in results} == {PeerUnreachable}

    asyncio.run(scenario())


def test_a_check_goes_over_a_connection_of_its_own() -> None:
    async def scenario() -> None:
        alpha, beta = pair()
        async with running(alpha, beta):
            await connected(alpha, beta)
            assert await alpha.peers.check("beta", 5.0) is None
            beta.peers.leading = lambda: 7
            assert await alpha.peers.check("beta", 5.0) == 7
            assert alpha.lost == []
            assert beta.lost == []
            beta.peers.destroy()
            assert await alpha.peers.check("beta", 5.0) is None

    asyncio.run(scenario())


def test_a_pool_that_others_can_reach_needs_peer_security() -> None:
    async def scenario() -> None:
        alpha, _ = pair()
        with pytest.raises(SettingsError, match="can be reached from other machines"):
            await alpha.peers.start("0.0.0.0:7800")

    asyncio.run(scenario())


def test_an_address_in_use_is_named() -> None:
    async def scenario() -> None:
        alpha, _ = pair()
        with socket.create_server(("127.0.0.1", 0)) as held:
            listen = f"127.0.0.1:{held.getsockname()[1]}"
            with pytest.raises(SettingsError, match=listen):
                await alpha.peers.start(listen)
        alpha.peers.destroy()

    asyncio.run(scenario())


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:port", "host:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SettingsError):
        split_address(address)


def test_addresses_of_both_families() -> None:
    assert split_address("[::1]:7800") == ("::1", 7800)
    assert split_address("alpha.example:7800") == ("alpha.example", 7800)


def test_missing_certificates_are_named(tmp_path: Path) -> None:
    tls = PeerTls(tmp_path / "ca.pem", tmp_path / "a.pem", tmp_path / "a.key")
    with pytest.raises(SettingsError, match=r"ca\.pem"):
        tls.context(accepts=True)
