"""The client module against a scripted pool: TLS, its own life, reads and changes."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from client_answers import CHECKIN, GRANT, ROOT, problem
from client_answers import pool_fixture as pool_fixture
from client_fakes import Body, FakePool, Hang, Lose, Reply, eventually
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from licraft.client import (
    Client,
    Denied,
    LicenseError,
    PoolUnavailable,
)

# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(addresses, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "authority.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    return file


def test_https_servers_are_checked_with_the_given_authority(authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    pool = FakePool(1, tls=context)
    try:
        with Client(pool.urls, verify=authority) as client, client.checkout("cad") as seat:
            assert seat.server == "alpha"
        with Client(pool.urls) as client, pytest.raises(PoolUnavailable, match="CERTIFICATE"):
            client.checkout("cad")
    finally:
        pool.close()


# Its own life


def test_what_is_held_is_checked_in_at_the_end(pool: FakePool) -> None:
    with Client(pool.urls) as client:
        seats = [client.checkout("cad") for _ in range(3)]
    (checkin,) = pool.members[0].calls(CHECKIN)
    assert sorted(checkin["tokens"]) == sorted(seat.token for seat in seats)
    assert not any(seat.valid for seat in seats)


def test_closing_takes_a_bounded_time(pool: FakePool) -> None:
    for server in pool.members:
        server.always[CHECKIN] = Hang()
    client = Client(pool.urls, close_timeout_s=0.2)
    client.checkout("cad")
    runner = client._runner
    assert runner is not None
    client.close()
    eventually(lambda: not runner._thread.is_alive(), 2)


def test_checkin_goes_to_another_server_if_need_be(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    with Client(pool.urls) as client:
        seat = client.checkout("cad")
        alpha.stop()
        assert seat.checkin()
        assert beta.calls(CHECKIN)[0]["tokens"] == [seat.token]
        assert not seat.checkin()


def program(text: str, pool: FakePool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *pool.urls],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_program_that_just_ends_checks_in(pool: FakePool) -> None:
    process = program(
        """
        import sys
        from licraft.client import Client
        seat = Client(sys.argv[1:]).checkout("cad")
        print(seat.token)
        """,
        pool,
    )
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert pool.members[0].calls(CHECKIN)[0]["tokens"] == [output.strip()]


def test_a_fork_has_seats_of_its_own_only(pool: FakePool) -> None:
    process = program(
        """
        import os, sys
        from licraft.client import Client
        client = Client(sys.argv[1:])
        seat = client.checkout("cad")
        child = os.fork()
        if child == 0:
            told = [seat.valid, seat.lost_reason, seat.checkin()]
            with client.checkout("cad") as own:
                told += [own.valid, own.id != seat.id]
            client.close()
            os._exit(0 if told == [False, "forked", False, True, True] else 1)
        status = os.waitpid(child, 0)[1]
        print(status, seat.valid, seat.checkin())
        """,
        pool,
    )
    output, _ = process.communicate(timeout=20)
    assert output.split() == ["0", "True", "True"]
    assert len(pool.members[0].calls(CHECKIN)) == 2


def test_ctrl_c_while_waiting_ends_the_program_at_once(pool: FakePool) -> None:
    pool.members[0].plan(GRANT, Hang())
    process = program(
        """
        import sys
        from licraft.client import Client
        try:
            with Client(sys.argv[1:]) as client:
                client.checkout("cad", wait=60)
        except KeyboardInterrupt:
            print("stopped")
        """,
        pool,
    )
    eventually(lambda: pool.members[0].calls(GRANT), 20)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert output.strip() == "stopped"


# Observation and administration


POOL_VIEW = {
    "pool": "acme",
    "server": "beta",
    "state": "serving",
    "leader": "beta",
    "term": 3,
    "applied_index": 9,
    "priority": ["beta"],
    "servers": [],
    "license": {"sequence": 7, "sha256": "00"},
    "trouble": [],
    "version": "1",
}


def test_reads_are_answered_by_any_server(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    alpha.always["/v1/pool"] = Lose()
    beta.always["/v1/pool"] = Reply(200, POOL_VIEW)
    beta.always["/v1/features"] = Reply(200, {"features": []})
    empty: Body = {"authorizations": [], "truncated": False, "as_of": {}}
    beta.always[GRANT] = Reply(200, empty)
    with Client(pool.urls) as client:
        alpha.stop()
        assert client.pool().pool == "acme"
        assert client.features() == []
        assert client.authorizations(feature="a b", user="ann").authorizations == []
        with pytest.raises(Denied, match="no /v1/features/x"):
            client.feature("x/../y")
    assert beta.calls(GRANT)[0]["_target"] == "/v1/authorizations?feature=a+b&user=ann"
    assert beta.requests[-1][1]["_target"] == "/v1/features/x%2F..%2Fy"


def test_changes_are_not_sent_twice_in_the_dark(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    alpha.plan(
        "/v1/license", Lose(), problem(409, "stale_sequence"), problem(422, "invalid_license")
    )
    with Client(pool.urls) as client:
        with pytest.raises(PoolUnavailable, match="may or may not") as unknown:
            client.install_license("sequence: 8")
        assert unknown.value.code == "outcome_unknown"
        assert len(alpha.calls("/v1/license")) == 1
        assert not beta.requests
        for _ in range(2):
            with pytest.raises(LicenseError):
                Client([alpha.url]).install_license("sequence: 8")
        alpha.stop()
        beta.plan("/v1/license", Reply(200, {"sequence": 8, "index": 12}))
        assert client.install_license("sequence: 8").sequence == 8
    assert beta.calls("/v1/license")[0]["text"] == "sequence: 8"


def test_an_authorization_is_removed(pool: FakePool) -> None:
    pool.members[0].plan("/v1/authorizations/7", Reply(204), problem(404, "not_found"))
    with Client(pool.urls) as client:
        client.remove("7")
        with pytest.raises(Denied):
            client.remove("7")


def test_an_endless_answer_is_cut_off(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("licraft.client.transport.MAX_ANSWER_BYTES", 1000)
    for server in pool.members:
        server.always["/v1/pool"] = Reply(200, b"x" * 2000)
    with Client(pool.urls) as client, pytest.raises(PoolUnavailable, match="more than 1000 bytes"):
        client.pool()
