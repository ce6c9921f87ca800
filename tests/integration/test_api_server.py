"""Starting and stopping the HTTP server, with and without TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from pathlib import Path

import httpx
import pytest
from api_fakes import FakeService, Wire, checkout, request, run, serving, until
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from licraft.api.limits import Limits
from licraft.api.server import ApiServer
from licraft.errors import SettingsError
from licraft.wire import Problem


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "licraft test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def test_calls_over_tls(certificate: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        async with serving(FakeService(), tls=certificate) as server:
            base = f"https://127.0.0.1:{server.port}"
            async with httpx.AsyncClient(base_url=base, verify=trust) as client:
                answer = await client.post("/v1/authorizations", json={"feature": "cad"})
                assert answer.status_code == 201
                assert (await client.get("/v1/pool")).status_code == 200
                large = b"#" * 1_000_000
                assert (await client.put("/v1/license", content=large)).status_code == 200
            plain = await Wire.to(server.port)
            await plain.send(checkout())
            assert b"201" not in await plain.closed()

    run(scenario())


def test_tls_pipelining_past_the_bound(certificate: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        service = FakeService()
        async with serving(service, tls=certificate) as server:
            wire = await Wire.to(server.port, ssl=trust)
            sending = asyncio.ensure_future(wire.send(checkout("wait") + checkout() * 5000))
            await until(lambda: service.waiting)
            service.waiting[0].set_result((404, Problem(404, "unknown_feature", "gone")))
            assert (await wire.answer()).status == 404
            for _ in range(5000):
                assert (await wire.answer()).status == 201
            await sending
            wire.close()

    run(scenario())


def test_a_handshake_that_does_not_come_is_ended(certificate: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        async with serving(
            FakeService(), tls=certificate, limits=Limits(handshake_s=0.2)
        ) as server:
            wire = await Wire.to(server.port)
            assert await wire.closed(3) == b""

    run(scenario())


def test_port_in_use_is_named() -> None:
    async def scenario() -> None:
        async with serving(FakeService()) as first:
            second = ApiServer(FakeService(), "127.0.0.1", first.port, tls=None, tokens=None)
            with pytest.raises(SettingsError) as raised:
                await second.start()
            message = str(raised.value)
            assert f"127.0.0.1:{first.port} is already in use" in message
            assert "choose another port" in message
            await second.stop()

    run(scenario())


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_address_that_cannot_be_bound_is_named(host: str) -> None:
    async def scenario() -> None:
        server = ApiServer(FakeService(), host, 7700, tls=None, tokens=None)
        with pytest.raises(SettingsError, match="7700"):
            await server.start()

    run(scenario())


def test_certificate_that_cannot_be_used_is_named(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    async def scenario() -> None:
        wrong = tmp_path / "wrong.pem"
        wrong.write_text("not a key")
        for pair in [(tmp_path / "missing.pem", wrong), (certificate[0], wrong)]:
            server = ApiServer(FakeService(), "127.0.0.1", 0, tls=pair, tokens=None)
            with pytest.raises(SettingsError, match=str(pair[0])):
                await server.start()

    run(scenario())


def test_stop_ends_idle_connections_and_frees_the_port() -> None:
    async def scenario() -> None:
        async with serving(FakeService()) as server:
            port = server.port
            idle, half = [await Wire.to(port) for _ in range(2)]
            await idle.send(checkout())
            assert (await idle.answer()).status == 201
            await half.send(b"POST /v1")
            began = asyncio.get_running_loop().time()
            await server.stop()
            assert asyncio.get_running_loop().time() - began < 1
            assert await idle.closed() == b""
            assert await half.closed() == b""
            with socket.socket() as probe:
                # As a server that starts again does; a listener would still be in the way.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                probe.listen()
            await server.stop()  # once more does nothing

    run(scenario())


def test_stop_waits_for_requests_under_way() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service) as server:
            wire = await Wire.to(server.port)
            await wire.send(checkout("wait"))
            await until(lambda: service.waiting)
            stopping = asyncio.ensure_future(server.stop())
            await asyncio.sleep(0.05)
            assert not stopping.done()
            service.waiting[0].set_result((404, Problem(404, "unknown_feature", "gone")))
            answer = await wire.answer()
            assert (answer.status, answer.headers["connection"]) == (404, "close")
            await stopping

    run(scenario())


def test_stop_does_not_wait_without_end() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service, limits=Limits(stop_s=0.2)) as server:
            wire = await Wire.to(server.port)
            await wire.send(checkout("wait") + request("GET", "/healthz"))
            await until(lambda: service.waiting)
            await server.stop()
            assert service.waiting[0].cancelled()
            assert await wire.closed() == b""

    run(scenario())


def test_date_is_kept_current() -> None:
    async def scenario() -> None:
        async with serving(FakeService()) as server:
            wire = await Wire.to(server.port)
            dates: set[str] = set()
            async with asyncio.timeout(5):
                while len(dates) < 2:
                    await wire.send(checkout())
                    dates.add((await wire.answer()).headers["date"])

    run(scenario())
