"""Settings: what a configuration means, and every problem at once with its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from licraft.errors import SettingsError
from licraft.settings import (
    PeerTlsFiles,
    ServerAddress,
    Settings,
    TlsFiles,
    TokenFiles,
    load_settings,
    parse_settings,
)

FOLDER = Path("/etc/licraft")


def servers(*names: str) -> list[dict[str, str]]:
    return [
        {"name": name, "api": f"http://127.0.0.1:{7700 + n}", "peer": f"127.0.0.1:{7800 + n}"}
        for n, name in enumerate(names)
    ]


def document(**changes: Any) -> dict[str, Any]:
    """The least configuration that is accepted, changed; a key that is ... is left out."""
    least = {
        "pool": "acme",
        "server": "alpha",
        "data_dir": "data/alpha",
        "api": {"listen": "127.0.0.1:7700"},
        "servers": servers("alpha", "beta", "gamma"),
        "tokens": "none",
    }
    return {key: value for key, value in {**least, **changes}.items() if value is not ...}


def settings(environ: dict[str, str] | None = None, **changes: Any) -> Settings:
    text = yaml.safe_dump(document(**changes))
    return parse_settings(text, source="alpha.yaml", folder=FOLDER, environ=environ or {})


def problems(environ: dict[str, str] | None = None, **changes: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings(environ, **changes)
    assert caught.value.source == "alpha.yaml"
    return caught.value.problems


TOKENS = {"admin": "admin.token", "client": "client.token"}
PEER_TLS = {"ca": "ca.crt", "cert": "alpha.crt", "key": "/keys/alpha.key"}


def test_the_least_configuration_has_the_defaults_of_the_contract() -> None:
    assert settings() == Settings(
        pool="acme",
        server="alpha",
        servers=(
            ServerAddress("alpha", "http://127.0.0.1:7700", "127.0.0.1:7800"),
            ServerAddress("beta", "http://127.0.0.1:7701", "127.0.0.1:7801"),
            ServerAddress("gamma", "http://127.0.0.1:7702", "127.0.0.1:7802"),
        ),
        data_dir=FOLDER / "data/alpha",
        api_host="127.0.0.1",
        api_port=7700,
        api_tls=None,
        peer_host="127.0.0.1",
        peer_port=7800,
        peer_tls=None,
        tokens=None,
        vendor_keys=(),
        license_file=None,
        lease_s=3.0,
        ttl_s=60.0,
        drift=0.01,
        threshold=0.8,
        leader_handback=True,
        log_format="json",
        log_level="info",
    )
    assert settings().address == settings().servers[0]


def test_every_key_is_read_and_paths_are_relative_to_the_file() -> None:
    found = settings(
        server="beta",
        api={"listen": "[::]:7701", "tls": {"cert": "api.crt", "key": "/keys/api.key"}},
        servers=[
            {"name": "alpha", "api": "http://10.0.0.1", "peer": "[fd00::1]:7800"},
            {"name": "beta", "api": "https://beta.example.com/", "peer": "beta:7800"},
        ],
        peer_listen="0.0.0.0:7801",
        peer_tls=PEER_TLS,
        license_file="../acme.lic",
        vendor_keys=["vendor.pub", "/keys/other.pub"],
        tokens=TOKENS,
        lease="500ms",
        ttl="2m",
        drift=0,
        borrowing={"threshold": 1},
        leader_handback=False,
        expiry_grace="2d",
        log={"format": "text", "level": "debug"},
    )
    assert found.address == ServerAddress("beta", "https://beta.example.com:443", "beta:7800")
    assert found.servers[0].api == "http://10.0.0.1:80"
    assert (found.servers[0].peer_host, found.servers[0].peer_port) == ("fd00::1", 7800)
    assert (found.api_host, found.api_port) == ("::", 7701)
    assert found.api_tls == TlsFiles(FOLDER / "api.crt", Path("/keys/api.key"))
    assert (found.peer_host, found.peer_port) == ("0.0.0.0", 7801)
    assert found.peer_tls == PeerTlsFiles(
        FOLDER / "ca.crt", FOLDER / "alpha.crt", Path("/keys/alpha.key")
    )
    assert found.license_file == FOLDER / "../acme.lic"
    assert found.vendor_keys == (FOLDER / "vendor.pub", Path("/keys/other.pub"))
    assert found.tokens == TokenFiles(FOLDER / "admin.token", FOLDER / "client.token")
    assert (found.lease_s, found.ttl_s, found.drift, found.threshold) == (0.5, 120.0, 0.0, 1.0)
    assert (found.expiry_grace_s, settings().expiry_grace_s) == (172_800.0, 0.0)
    assert (found.leader_handback, found.log_format, found.log_level) == (False, "text", "debug")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("3s", 3.0), ("500ms", 0.5), ("0.5m", 30.0), ("1h", 3600.0), ("1d", 86400.0), (90, 90.0)],
)
def test_durations(written: object, seconds: float) -> None:
    assert settings(lease="50ms", ttl=written).ttl_s == seconds


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pool": ...}, "pool: found nothing; expected"),
        ({"pool": ""}, "pool: found ''; expected a name"),
        ({"pool": 5}, "pool: found 5; expected a name"),
        ({"pool": "x" * 65}, "pool: found"),
        ({"server": "../alpha"}, "server: found '../alpha'; expected a name"),
        ({"data_dir": 5}, "data_dir: found 5; expected a path"),
        ({"api": {"listen": "7700"}}, "api.listen: found '7700'; expected host:port"),
        ({"api": {"listen": "127.0.0.1:0"}}, "api.listen: found"),
        ({"api": {"listen": "127.0.0.1:65536"}}, "api.listen: found"),
        ({"api": {"listen": "::1:7700"}}, "api.listen: found"),
        ({"api": {}}, "api.listen: found nothing; expected HOST:PORT"),
        ({"api": "127.0.0.1:7700"}, "expected keys below it: listen, tls"),
        ({"api": {"listen": "127.0.0.1:7700", "tls": {"cert": "a"}}}, "api.tls.key: found nothing"),
        ({"servers": []}, "servers: found 0 entries; expected 1 to 9"),
        ({"servers": servers("alpha", *"bcdefghij")}, "servers: found 10 entries; expected 1 to 9"),
        (
            {"servers": ["alpha"]},
            "servers.0: found 'alpha'; expected keys below it: name, api, peer",
        ),
        (
            {"servers": [*servers("alpha"), {"name": "b", "peer": "b:1"}]},
            "servers.1.api: found nothing",
        ),
        (
            {"tokens": ...},
            "tokens: found nothing; expected {admin: FILE, client: FILE}, or `tokens: none`",
        ),
        ({"tokens": None}, "tokens: found nothing"),
        ({"tokens": {"admin": "a"}}, "tokens.client: found nothing"),
        ({"lease": "3 parsecs"}, "lease: found '3 parsecs'; expected a duration such as 3s"),
        ({"lease": True}, "lease: found True; expected a duration"),
        ({"lease": -1}, "lease: found -1"),
        ({"lease": float("nan")}, "lease: found nan"),
        ({"ttl": 10**400}, "ttl: found"),
        ({"drift": 0.21}, "drift: found 0.21; expected a number from 0 to 0.2"),
        ({"drift": "1%"}, "drift: found '1%'"),
        (
            {"borrowing": {"threshold": 0}},
            "borrowing.threshold: found 0; expected a number above 0",
        ),
        ({"borrowing": {"threshold": 1.01}}, "borrowing.threshold: found 1.01"),
        ({"expiry_grace": "91d"}, "expiry_grace: found '91d'; expected a duration"),
        ({"leader_handback": 1}, "leader_handback: found 1; expected true or false"),
        ({"log": {"format": "xml"}}, "log.format: found 'xml'; expected one of 'json', 'text'"),
        ({"vendor_keys": "vendor.pub"}, "vendor_keys: found 'vendor.pub'; expected a list"),
        ({"peer_tls": {**PEER_TLS, "crl": "x"}}, "peer_tls.crl: found an unknown key; expected"),
        ({"leese": "3s"}, "leese: found an unknown key; expected `lease`?"),
        ({"zzz": 1}, "zzz: found an unknown key; expected only pool, server"),
        ({5: 1}, "5: found"),
    ],
)
def test_one_fault_is_one_problem_with_its_path(changes: Any, expected: str) -> None:
    text = yaml.safe_dump(document(**{k: v for k, v in changes.items() if isinstance(k, str)}))
    text += "".join(f"{key}: {value}\n" for key, value in changes.items() if key == 5)
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, source="alpha.yaml", folder=FOLDER, environ={})
    (problem,) = caught.value.problems
    assert expected in problem


def api(url: str) -> dict[str, str]:
    return {"name": "beta", "api": url, "peer": "127.0.0.1:7801"}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:7701",
        "ftp://127.0.0.1:7701",
        "http://",
        "http://:7701",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:7701/api",
        "http://127.0.0.1:7701?x",
        "http://me:secret@127.0.0.1:7701",
        "http://0.0.0.0:7701",
        "http://127.0.0.1 :7701",
        5,
    ],
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    (problem,) = problems(servers=[*servers("alpha"), api(url)])
    assert problem.startswith("servers.1.api: found ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ttl": "11.9s"}, "ttl: found 11.9 seconds; expected at least 4 * lease = 12 seconds"),
        (
            {"server": "delta"},
            "server: found 'delta'; expected one of `servers`: alpha, beta, gamma",
        ),
        ({"servers": servers("alpha", "beta", "beta")}, "servers.2.name: found 'beta'"),
        (
            {"servers": [*servers("alpha"), api("http://127.0.0.1:7700/")]},
            "servers.1.api: found 'http://127.0.0.1:7700'; expected another than servers.0.api",
        ),
        (
            {"servers": [*servers("alpha"), {**api("http://x:1"), "peer": "127.0.0.1:7800"}]},
            "servers.1.peer: found '127.0.0.1:7800'; expected another than servers.0.peer",
        ),
        (
            {"servers": [*servers("alpha"), {**api("http://x:1"), "peer": "127.0.0.1:7700"}]},
            "servers.1.peer: found '127.0.0.1:7700'; expected another than servers.0.api",
        ),
        ({"api": {"listen": "0.0.0.0:7700"}}, "tokens: found none; expected {admin: FILE"),
        ({"api": {"listen": "license1:7700"}}, "tokens: found none; expected {admin: FILE"),
        (
            {"tokens": {"admin": "a", "client": "a"}},
            "tokens.client: found the administrators' file",
        ),
        ({"peer_listen": "0.0.0.0:7800"}, "peer_tls: found nothing; expected {ca: FILE"),
        ({"peer_listen": "127.0.0.1:7700"}, "peer_listen: found port 7700; expected different"),
        (
            {"api": {"listen": "127.0.0.1:7700", "tls": {"cert": "c", "key": "k"}}},
            "servers.0.api: found http://127.0.0.1:7700; expected https://",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], expected: str) -> None:
    (problem,) = problems(**changes)
    assert expected in problem


def test_the_boundaries_themselves_are_accepted() -> None:
    assert settings(ttl="12s").ttl_s == 12
    assert settings(lease="300ms", ttl="1200ms").ttl_s == 1.2
    assert settings(drift=0.2, borrowing={"threshold": 1.0}).drift == 0.2
    assert len(settings(servers=servers("alpha", *"bcdefghi")).servers) == 9
    assert settings(servers=servers("alpha")).servers[0].name == "alpha"
    assert settings(api={"listen": "localhost:7700"}).tokens is None
    assert settings(api={"listen": "0.0.0.0:7700"}, tokens=TOKENS).api_host == "0.0.0.0"
    assert settings(peer_listen="0.0.0.0:7800", peer_tls=PEER_TLS).peer_host == "0.0.0.0"


def test_all_problems_come_at_once_faults_and_contradictions() -> None:
    found = problems(
        pool="../acme",
        tokens=...,
        ttl="5s",
        leese="1s",
        borrowing={"threshold": 2, "x": 1},
        log={"level": "loud"},
    )
    paths = [problem.partition(":")[0] for problem in found]
    assert sorted(paths) == [
        "borrowing.threshold",
        "borrowing.x",
        "leese",
        "log.level",
        "pool",
        "tokens",
        "ttl",
    ]


def test_a_faulty_side_makes_no_contradiction() -> None:
    (problem,) = problems(lease="long", ttl="5s")
    assert problem.startswith("lease: ")


def test_a_token_written_into_the_file_is_not_shown() -> None:
    (problem,) = problems(tokens="tMx0cUAfVrkZ")
    assert problem.startswith("tokens: found text; expected")
    assert "tMx0cUAfVrkZ" not in problem


def test_the_environment_overrides_scalars() -> None:
    found = settings(
        {
            "LICRAFT_LEASE": "1s",
            "LICRAFT_TTL": "4",
            "LICRAFT_API_LISTEN": "127.0.0.1:9000",
            "LICRAFT_BORROWING_THRESHOLD": "0.5",
            "LICRAFT_LEADER_HANDBACK": "false",
            "LICRAFT_EXPIRY_GRACE": "12h",
            "LICRAFT_LOG_LEVEL": "debug",
            "LICRAFT_DATA_DIR": "/srv/x",
            "LICRAFT_LICENSE_FILE": "y.lic",
            "LICRAFT_SERVER": "beta",
            "LICRAFT_POOL": "2026",
            "LICRAFT_TOKENS_ADMIN": "a",
            "LICRAFT_TOKENS_CLIENT": "c",
            "LICRAFT_DRIFT": "",
            # Of the command line, and of container platforms: not for us.
            "LICRAFT_SERVERS": "http://x",
            "LICRAFT_TOKEN": "secret",
            "LICRAFT_PORT_7700_TCP": "tcp://10.0.0.1:7700",
        },
        tokens=...,
    )
    assert (found.lease_s, found.ttl_s, found.threshold, found.drift) == (1, 4, 0.5, 0.01)
    assert (found.api_port, found.server, found.pool) == (9000, "beta", "2026")
    assert (found.leader_handback, found.log_level) == (False, "debug")
    assert found.expiry_grace_s == 43_200
    assert (found.data_dir, found.license_file) == (Path("/srv/x"), FOLDER / "y.lic")
    assert found.tokens == TokenFiles(FOLDER / "a", FOLDER / "c")
    assert settings({"LICRAFT_TOKENS": "none"}, tokens=...).tokens is None


def test_a_faulty_override_is_named_by_its_variable() -> None:
    assert problems({"LICRAFT_DRIFT": "much"}) == [
        "drift (LICRAFT_DRIFT): found 'much'; expected a number from 0 to 0.2"
    ]


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "alpha.yaml"
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(path, {})
    for content, message in [
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * 300_000, "larger than"),
        (b"", "expected keys"),
        (b"- pool\n", "expected keys"),
        (b"pool: acme\nserver: [\n", "not readable YAML: line"),
        (b"pool: acme\npool: acme\n", "line 2: the key `pool` is written twice"),
    ]:
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=message):
            load_settings(path, {})


def test_paths_are_relative_to_the_file_and_absolute_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alpha.yaml").write_text(yaml.safe_dump(document()))
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path("alpha.yaml"), {}).data_dir == tmp_path / "data/alpha"


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "api", "cert", "level", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from([*document(), "peer_tls", "lease", "ttl", "log", "vendor_keys", "x"]), anything
)
def test_whatever_a_key_holds_the_answer_is_settings_or_problems(key: str, value: object) -> None:
    text = yaml.safe_dump(document(**{key: value}))
    found: list[str] = []
    try:
        parse_settings(text, source="alpha.yaml", folder=FOLDER, environ={})
    except SettingsError as fault:
        found = fault.problems or ["a SettingsError without a problem"]
    assert all("; expected " in problem or "YAML" in problem for problem in found)
