"""`licraft init`: a pool's files fit together, are private where they must be, and are new."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from licraft.cli.init import init
from licraft.errors import SettingsError
from licraft.pool_files import (
    NAMES,
    PlannedServer,
    PoolPlan,
    local_servers,
    parse_server,
    write_pool,
)
from licraft.settings import Settings, load_settings

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(init, [str(argument) for argument in arguments])


def all_settings(directory: Path) -> dict[str, Settings]:
    return {path.stem: load_settings(path, {}) for path in directory.glob("*.yaml")}


def test_three_servers_by_default_whose_configurations_agree(tmp_path: Path) -> None:
    pool = tmp_path / "new" / "pool"
    result = run(pool)
    assert result.exit_code == 0, result.output
    found = all_settings(pool)
    assert set(found) == {"alpha", "beta", "gamma"}
    assert len({entry.servers for entry in found.values()}) == 1
    for number, name in enumerate(["alpha", "beta", "gamma"]):
        settings = found[name]
        assert settings.server == name
        assert (settings.api_host, settings.api_port) == ("127.0.0.1", 7700 + number)
        assert (settings.peer_host, settings.peer_port) == ("127.0.0.1", 7800 + number)
        assert settings.data_dir.is_dir()
        assert settings.address.api == f"http://127.0.0.1:{7700 + number}"
    assert len({settings.data_dir for settings in found.values()}) == 3
    assert len({settings.license_file for settings in found.values()}) == 3


def test_everything_a_configuration_names_is_there_except_what_comes_later(tmp_path: Path) -> None:
    assert run(tmp_path, "--servers", "1", "--port", "9000").exit_code == 0
    (settings,) = all_settings(tmp_path).values()
    assert settings.peer_tls
    assert settings.tokens
    named = [settings.peer_tls.ca, settings.peer_tls.cert, settings.peer_tls.key]
    for path in [*named, settings.tokens.admin, settings.tokens.client]:
        assert path.is_file()
    assert settings.vendor_keys == (tmp_path / "vendor.pub",)
    assert settings.api_port == 9000
    assert settings.peer_port == 9100


def test_secrets_are_new_strong_and_for_their_owner_only(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run(tmp_path / name).exit_code == 0
    tokens = [path.read_text().strip() for path in tmp_path.glob("*/*.token")]
    assert len(set(tokens)) == 4
    assert all(len(token) >= 43 for token in tokens)
    secret = [*tmp_path.glob("*/*.token"), *tmp_path.glob("*/*.key")]
    assert len(secret) == 12
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert not any(token in run(tmp_path / "three").output for token in tokens)


def test_named_servers_listen_where_others_can_reach_them(tmp_path: Path) -> None:
    result = run(
        *(tmp_path, "--pool", "2026"),
        *("--server", "no=license1.example.com:7700:7800"),
        *("--server", "2=[fd00::2]:443:7801"),
        *("--server", "c=127.0.0.1:7702:7802"),
    )
    assert result.exit_code == 0, result.output
    found = all_settings(tmp_path)
    assert [entry.name for entry in found["no"].servers] == ["no", "2", "c"]
    assert found["2"].address.api == "http://[fd00::2]:443"
    assert found["2"].address.peer == "[fd00::2]:7801"
    assert (found["no"].api_host, found["no"].peer_host) == ("0.0.0.0", "0.0.0.0")
    assert (found["2"].api_host, found["2"].peer_host) == ("::", "::")
    assert (found["c"].api_host, found["c"].peer_host) == ("127.0.0.1", "127.0.0.1")
    assert {settings.pool for settings in found.values()} == {"2026"}
    assert "license1.example.com: no.yaml no.crt no.key ca.crt" in result.output
    assert "ca.key" not in result.output.partition("Keep `ca.key`")[0]


def test_a_directory_that_holds_anything_is_left_alone(tmp_path: Path) -> None:
    assert run(tmp_path).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(SettingsError, match="expected an empty directory"):
        write_pool(tmp_path, PoolPlan("acme", local_servers(3, 7700)), NOW)
    assert run(tmp_path).exit_code != 0
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_a_plan_that_contradicts_itself_writes_nothing(tmp_path: Path) -> None:
    twice = tuple(PlannedServer("alpha", "10.0.0.1", port, port + 1) for port in (1, 3))
    with pytest.raises(SettingsError, match=r"servers\.1\.name"):
        write_pool(tmp_path / "x", PoolPlan("acme", twice), NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--servers", "10"], "10 is not in the range"),
        (["--port", "65535"], "65535 is not in the range"),
        (["--pool", "a b"], "'a b' is not a name"),
        (["--server", "alpha"], "NAME=HOST:APIPORT:PEERPORT"),
        (["--server", "alpha=h:1"], "HOST:APIPORT:PEERPORT"),
        (["--server", "alpha=h:1:0"], "HOST:APIPORT:PEERPORT"),
        (["--server", "alpha=::1:1:2"], "HOST:APIPORT:PEERPORT"),
        (["--server", "a/b=h:1:2"], "'a/b' is not a name"),
        (["--server", "ca=h:1:2"], "cannot be a server's name"),
        (["--server", "a=h:1:1"], "port 1 twice"),
        (["--server", "a=h:1:2", "--servers", "3"], "not both"),
        ([f"--server={name}=h{name}:1:2" for name in (*NAMES, "k")], "at most 9"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(tmp_path / "pool", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "pool").exists()


def test_server_texts() -> None:
    assert parse_server("a.b_c-1=host:1:2") == PlannedServer("a.b_c-1", "host", 1, 2)
    assert parse_server("a=[::1]:1:2") == PlannedServer("a", "::1", 1, 2)


def test_certificates_prove_the_server_to_its_peers_and_to_nobody_else(tmp_path: Path) -> None:
    plan = PoolPlan("acme", (PlannedServer("alpha", "10.0.0.1", 1, 2),))
    write_pool(tmp_path / "a", plan, NOW)
    write_pool(tmp_path / "b", plan, NOW)
    certificate = x509.load_pem_x509_certificate((tmp_path / "a/alpha.crt").read_bytes())
    authority = x509.load_pem_x509_certificate((tmp_path / "a/ca.crt").read_bytes())
    other = x509.load_pem_x509_certificate((tmp_path / "b/ca.crt").read_bytes())
    certificate.verify_directly_issued_by(authority)
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(other)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["alpha"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not basic.ca
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc > NOW + timedelta(days=3650)
    key = serialization.load_pem_private_key((tmp_path / "a/alpha.key").read_bytes(), None)
    assert key.public_key() == certificate.public_key()


def test_two_servers_can_shake_hands_with_what_is_written(tmp_path: Path) -> None:
    write_pool(tmp_path, PoolPlan("acme", local_servers(2, 7700)), datetime.now(UTC))
    sides = {}
    for name, protocol in (("alpha", ssl.PROTOCOL_TLS_SERVER), ("beta", ssl.PROTOCOL_TLS_CLIENT)):
        context = ssl.SSLContext(protocol)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(tmp_path / "ca.crt")
        context.load_cert_chain(tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        sides[name] = context
    to_alpha, to_beta = ssl.MemoryBIO(), ssl.MemoryBIO()
    alpha = sides["alpha"].wrap_bio(to_alpha, to_beta, server_side=True)
    beta = sides["beta"].wrap_bio(to_beta, to_alpha, server_hostname="alpha")
    done: set[ssl.SSLObject] = set()
    for side in [beta, alpha] * 4:
        try:
            side.do_handshake()
            done.add(side)
        except ssl.SSLWantReadError:
            pass
    assert done == {alpha, beta}
    assert ("DNS", "beta") in (alpha.getpeercert() or {})["subjectAltName"]
    assert ("DNS", "alpha") in (beta.getpeercert() or {})["subjectAltName"]
