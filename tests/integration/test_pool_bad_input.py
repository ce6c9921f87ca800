"""Bad input of every kind is refused with its code, and costs nobody anything."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.processes import MakePool, ServerPool, free_ports, stranger, wait_for

pytest_plugins = ["support.pool_fixtures"]

START_S = 15.0


@pytest.fixture(autouse=True)
def _unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the shared pool grants as before, and what was held is held."""
    if "calm" not in request.fixturenames:
        yield
        return
    pool: ServerPool = request.getfixturevalue("calm")
    kept = pool.checkout("alpha")["token"]
    text = pool.get("alpha", "/v1/license")["text"]
    yield
    assert pool.status_of("alpha", kept) == "renewed"
    assert [h["feature"] for h in pool.holders("beta")] == ["cad"]
    assert len(pool.checkin("alpha", kept)["released"]) == 1
    assert pool.get("gamma", "/v1/license")["text"] == text
    assert pool.unbalanced() == []
    assert all(pool.ready(name) for name in pool.names)


# -- requests -----------------------------------------------------------------------------


def test_an_unknown_feature_is_not_found(calm: ServerPool) -> None:
    answer = calm.checkout("alpha", "nonesuch")
    assert (answer.status, answer.code) == (404, "unknown_feature")
    assert "cad" in answer["detail"]
    assert calm.get("alpha", "/v1/features/nonesuch").status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"feature": "cad", "count": 0},
        {"feature": "cad", "count": -1},
        {"feature": "cad", "count": 10**30},
        {"feature": "cad", "count": 1_000_001},
        {"feature": "cad", "count": "two"},
        {"feature": "cad", "count": 1.5},
        {"feature": "cad", "count": None},
        {"feature": "cad", "wait": -1},
        {"feature": "cad", "wait": 10**9},
        {"feature": "cad", "colour": "red"},
        {"feature": "cad", "client": {"pid": -1}},
        {"feature": "cad", "id": "not an id"},
        {"feature": ""},
        {"feature": 7},
        {"count": 1},
        [],
        None,
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_a_bad_checkout_is_invalid(calm: ServerPool, body: Any) -> None:
    content = json.dumps(body).encode()
    answer = calm.ask("beta", "POST", "/v1/authorizations", content=content)
    assert (answer.status, answer.code) == (400, "invalid_request")


def test_more_than_the_license_has_is_denied(calm: ServerPool) -> None:
    answer = calm.checkout("alpha", count=1_000_000, wait=30)
    assert (answer.status, answer.code) == (409, "no_seats")
    assert answer["deployed"] == 100


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_request"),
        (b"feature=cad", 400, "invalid_request"),
        (b'{"feature": "cad"', 400, "invalid_request"),
        (b'{"feature": "c\xff"}', 400, "invalid_request"),
        (b'{"feature": "cad", "client": ' + b"[" * 50_000, 400, "invalid_request"),
        (b'{"feature": "cad", "nonce": "' + b"x" * 300_000 + b'"}', 413, "too_large"),
    ],
    ids=["empty", "form", "cut", "latin", "deep", "large"],
)
@pytest.mark.parametrize("path", ["/v1/authorizations", "/v1/heartbeats", "/v1/checkins"])
def test_a_bad_body_is_refused(
    calm: ServerPool, path: str, content: bytes, status: int, code: str
) -> None:
    answer = calm.ask("alpha", "POST", path, content=content)
    assert (answer.status, answer.code) == (status, code)


def test_a_request_that_is_half_sent_grants_nothing(calm: ServerPool) -> None:
    place = urlsplit(calm.urls["alpha"])
    with socket.create_connection((place.hostname, place.port)) as half:
        half.sendall(
            b"POST /v1/authorizations HTTP/1.1\r\nhost: x\r\n"
            b"authorization: Bearer %s\r\ncontent-length: 100\r\n\r\n"
            b'{"feature": "sim"' % calm.client.encode()
        )
        half.shutdown(socket.SHUT_WR)
        half.settimeout(5)
        assert not half.recv(65536).startswith(b"HTTP/1.1 2")
    assert calm.holders("alpha", "?feature=sim") == []


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_wrong_access_token_is_refused(calm: ServerPool, token: str) -> None:
    for method, path, body in (
        ("POST", "/v1/authorizations", {"feature": "cad"}),
        ("POST", "/v1/heartbeats", {"tokens": []}),
        ("POST", "/v1/checkins", {"tokens": []}),
        ("GET", "/v1/authorizations", None),
        ("PUT", "/v1/license", None),
        ("DELETE", "/v1/authorizations/x", None),
    ):
        answer = calm.ask("alpha", method, path, body, token=token)
        assert (answer.status, answer.code) == (401, "not_authorized"), path


def test_the_client_token_may_not_change_the_pool(calm: ServerPool) -> None:
    for method, path in (("PUT", "/v1/license"), ("DELETE", "/v1/authorizations/x")):
        answer = calm.ask("alpha", method, path, token=calm.client, content=b"")
        assert (answer.status, answer.code) == (403, "not_authorized"), path


def test_a_token_that_no_server_sealed_is_worth_nothing(calm: ServerPool) -> None:
    genuine = calm.checkout("beta", "sim")["token"]
    middle = len(genuine) // 2
    other = "A" if genuine[middle] != "A" else "B"
    forged = genuine[:middle] + other + genuine[middle + 1 :]
    for token in (forged, genuine[:-4], "x", "ü", "A" * 2048):
        (result,) = calm.heartbeat("beta", token)["results"]
        assert (result["status"], result["code"]) == ("lost", "not_authorized")
        assert calm.checkin("beta", token)["released"] == []
    assert calm.feature("beta", "sim")["in_use"] == 1
    assert len(calm.checkin("beta", genuine)["released"]) == 1


def test_one_id_for_two_requests_is_refused(calm: ServerPool) -> None:
    first = calm.checkout("alpha", "sim", id="once")
    again = calm.checkout("alpha", "sim", id="once")
    assert (first.status, again.status) == (201, 200)
    assert again["token"] == first["token"]
    other = calm.checkout("alpha", "sim", count=2, id="once")
    assert (other.status, other.code) == (400, "invalid_request")
    assert len(calm.checkin("alpha", first["token"])["released"]) == 1


# -- license files ------------------------------------------------------------------------


def _bad_licenses(pool: ServerPool) -> dict[str, tuple[str, int, str]]:
    good = pool.license_text({"cad": 500}, sequence=50)
    code = re.search(r"LIC1\.\S+", good)
    assert code is not None
    signed, _, signature = code[0].rpartition(".")
    return {
        "truncated": (good[:-30], 422, "invalid_license"),
        "cut before the codes": (good[: good.index("codes")], 422, "invalid_license"),
        "unsigned": (good.replace("." + signature, ""), 422, "invalid_license"),
        "an empty signature": (good.replace(signature, ""), 422, "invalid_license"),
        "changed": (good.replace(signed[20:24], "AAAA", 1), 422, "invalid_license"),
        "by someone else": (
            pool.license_text({"cad": 500}, sequence=50, key=stranger()),
            422,
            "invalid_license",
        ),
        "for another pool": (
            pool.license_text({"cad": 500}, sequence=50, pool="umbrella"),
            422,
            "invalid_license",
        ),
        "not newer": (pool.license_text({"cad": 500}, sequence=1), 409, "stale_sequence"),
        "no license": ("hello", 422, "invalid_license"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "cut before the codes",
        "unsigned",
        "an empty signature",
        "changed",
        "by someone else",
        "for another pool",
        "not newer",
        "no license",
    ],
)
def test_a_bad_license_file_is_not_installed(calm: ServerPool, kind: str, tmp_path: Path) -> None:
    text, status, code = _bad_licenses(calm)[kind]
    answer = calm.ask("beta", "PUT", "/v1/license", content=text.encode())
    assert (answer.status, answer.code) == (status, code)
    assert answer["detail"]
    file = tmp_path / "bad.lic"
    file.write_text(text)
    command = ["license", "install", str(file), "--server", calm.urls["gamma"]]
    done = subprocess.run(
        [sys.executable, "-m", "licraft", *command],
        env={**calm.environ, "LICRAFT_TOKEN": calm.admin},
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert calm.feature("alpha")["deployed"] == 100


def test_a_server_that_is_given_a_bad_license_file_says_so_and_goes_on(
    make_pool: MakePool,
) -> None:
    pool = make_pool({"cad": 5}, servers=1)
    for kind in ("truncated", "by someone else", "for another pool"):
        text, _, _ = _bad_licenses(pool)[kind]
        pool.stop("alpha")
        (pool.directory / "alpha.lic").write_text(text)
        pool.start("alpha")
        pool.wait_ready()
        assert pool.feature("alpha")["deployed"] == 5
        token = pool.checkout("alpha", count=5)["token"]
        wait_for(
            lambda: any("alpha.lic" in line for line in pool.get("alpha", "/v1/pool")["trouble"]),
            5,
            f"the trouble with a license file {kind} is told",
        )
        assert len(pool.checkin("alpha", token)["released"]) == 1


# -- starting -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    """The files of a pool of three; nothing runs."""
    pool = ServerPool(tmp_path_factory.mktemp("stopped") / "pool")
    yield pool
    pool.close()


def start_in_vain(pool: ServerPool, name: str = "alpha", **environ: str) -> tuple[int, str]:
    """Run a server that cannot start: its exit status and what it says at last."""
    done = subprocess.run(
        [sys.executable, "-m", "licraft", "run", "--config", f"{pool.directory}/{name}.yaml"],
        env={**pool.environ, **environ},
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.parametrize("which", ["api_port", "peer_port"])
def test_a_port_in_use_is_named(stopped: ServerPool, which: str) -> None:
    port = getattr(stopped.planned["alpha"], which)
    with socket.create_server(("127.0.0.1", port)):
        status, said = start_in_vain(stopped)
    assert status == 2
    assert str(port) in said
    assert "in use" in said


def test_a_data_directory_that_cannot_be_used_is_named(stopped: ServerPool, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        status, said = start_in_vain(stopped, LICRAFT_DATA_DIR=str(path))
        assert status == 2
        assert str(path) in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_data_directory_that_may_not_be_read_is_named(
    stopped: ServerPool, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o000)
    status, said = start_in_vain(stopped, LICRAFT_DATA_DIR=str(locked))
    assert status == 2
    assert str(locked) in said


@pytest.mark.parametrize("file", ["journal", "snapshot", "record.log", "lock"])
def test_a_directory_in_place_of_a_file_is_named(
    stopped: ServerPool, tmp_path: Path, file: str
) -> None:
    (tmp_path / file).mkdir()
    status, said = start_in_vain(stopped, LICRAFT_DATA_DIR=str(tmp_path))
    assert status == 2
    assert str(tmp_path / file) in said


def test_a_second_server_on_the_same_data_directory_does_not_start(calm: ServerPool) -> None:
    api, peer = free_ports(2)
    status, said = start_in_vain(
        calm,
        LICRAFT_API_LISTEN=f"127.0.0.1:{api}",
        LICRAFT_PEER_LISTEN=f"127.0.0.1:{peer}",
    )
    assert status == 2
    assert str(calm.directory / "data" / "alpha") in said
    assert calm.checkout("alpha", "sim").status == 201
    for line in calm.holders("alpha", "?feature=sim"):
        assert calm.ask("alpha", "DELETE", f"/v1/authorizations/{line['id']}").status == 204


def test_missing_access_tokens_and_certificates_are_named(
    stopped: ServerPool, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    for variable in ("LICRAFT_TOKENS_ADMIN", "LICRAFT_PEER_TLS_KEY", "LICRAFT_PEER_TLS_CA"):
        status, said = start_in_vain(stopped, **{variable: str(missing)})
        assert status == 2, variable
        assert str(missing) in said


def test_a_damaged_journal_is_named(stopped: ServerPool, tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(os.urandom(4096))
    status, said = start_in_vain(stopped, LICRAFT_DATA_DIR=str(tmp_path))
    assert status == 2
    assert str(tmp_path / "journal") in said
