"""A proof is believed for the vendor's code, the pool's key and this very request alone."""

from __future__ import annotations

import subprocess
import sys
from base64 import urlsafe_b64decode
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.client import InvalidRequest
from licraft.client.proof import Verifier
from licraft.server.proof import PoolKey
from licraft.vendor.codes import make_code
from licraft.vendor.keys import VendorPrivateKey, generate, public_text, write_keys
from licraft.wire import (
    Authorization,
    HeartbeatAnswer,
    HeartbeatResult,
    Proof,
    ServerList,
    proof_text,
)

ROOT = Path(__file__).parents[3]
VENDOR = generate()
POOL = PoolKey("5e" * 32)
TODAY = datetime.now(UTC).date()


@dataclass
class Server:
    """One that answers as a license server would; each part may be another's."""

    key: PoolKey = POOL
    vendor: VendorPrivateKey = VENDOR
    bound_to: str | None = POOL.public
    feature: str = "cad"
    starts: date | None = None
    expires: date | None = None
    signs: Callable[[str, str, int, float], tuple[str, str, int, float]] | None = None

    def code(self) -> str:
        return make_code(
            self.vendor,
            feature=self.feature,
            count=10,
            starts=self.starts,
            expires=self.expires,
            pool_key=self.bound_to,
        )

    def grant(self, nonce: str) -> Authorization:
        seat = ("R1", "cad", 2, 60.0)
        signed = self.signs(*seat) if self.signs else seat
        text = proof_text(nonce, "alpha", self.key.public, [signed])
        proof = Proof(self.key.public, "alpha", self.key.sign(text), self.code())
        servers = ServerList(1, [])
        return Authorization("R1", "token", "cad", 2, "alpha", 60.0, 20.0, "", servers, proof)


def test_the_pools_server_is_believed() -> None:
    verifier = Verifier(public_text(VENDOR.public))
    nonce = verifier.nonce()
    assert verifier.fault(nonce, Server().grant(nonce)) is None


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (Server(key=PoolKey("77" * 32)), "bound to no key or to another pool's"),
        (Server(key=PoolKey("77" * 32), bound_to=None), "bound to no key"),
        (Server(bound_to=None), "bound to no key"),
        (Server(vendor=generate()), "not by the vendor"),
        (
            Server(key=PoolKey("77" * 32), vendor=generate(), bound_to=PoolKey("77" * 32).public),
            "not by the vendor",
        ),
        (Server(feature="cam"), "is for 'cam'"),
        (Server(expires=TODAY - timedelta(days=3)), "expired on"),
        (Server(starts=TODAY + timedelta(days=3)), "starts on"),
        (Server(signs=lambda i, f, c, t: ("R2", f, c, t)), "not by the licensed pool's key"),
        (Server(signs=lambda i, f, c, t: (i, "cam", c, t)), "not by the licensed pool's key"),
        (Server(signs=lambda i, f, c, t: (i, f, 1, t)), "not by the licensed pool's key"),
        (Server(signs=lambda i, f, c, t: (i, f, c, 6.0)), "not by the licensed pool's key"),
    ],
)
def test_any_other_is_not(server: Server, why: str) -> None:
    verifier = Verifier(public_text(VENDOR.public))
    nonce = verifier.nonce()
    fault = verifier.fault(nonce, server.grant(nonce))
    assert fault is not None
    assert why in fault


@pytest.mark.parametrize("server", [Server(expires=TODAY), Server(starts=TODAY)])
def test_a_clock_that_is_a_day_off_does_no_harm(server: Server) -> None:
    verifier = Verifier(public_text(VENDOR.public))
    for off in (-1, 0, 1):
        day = TODAY + timedelta(days=off)
        assert verifier.fault("n", server.grant("n"), day) is None


@pytest.mark.parametrize("today", [date.min, TODAY, date.max])
def test_codes_without_an_end_or_a_beginning_to_speak_of_hold_on_any_day(today: date) -> None:
    verifier = Verifier(public_text(VENDOR.public))
    ever = Server(starts=date.min, expires=date.max)
    assert verifier.fault("n", ever.grant("n"), today) is None
    ended, not_begun = Server(expires=date.min), Server(starts=date.max)
    assert (verifier.fault("n", ended.grant("n"), today) is None) == (today == date.min)
    assert (verifier.fault("n", not_begun.grant("n"), today) is None) == (today == date.max)


def test_an_old_proof_is_refused_for_a_new_request() -> None:
    verifier = Verifier(public_text(VENDOR.public))
    old, new = verifier.nonce(), verifier.nonce()
    assert old != new
    answer = Server().grant(old)
    assert verifier.fault(old, answer) is None
    assert verifier.fault(new, answer) is not None


def test_no_proof_is_refused_and_says_what_to_do() -> None:
    answer = Server().grant("n")
    answer.proof = None
    assert "licraft pool request" in (Verifier(public_text(VENDOR.public)).fault("n", answer) or "")


# One for all examples: a code's random id must not change what is drawn.
GRANTED = Server().grant("n")


@given(st.sampled_from(["pool_key", "server", "signature", "code"]), st.data())
def test_a_proof_altered_anywhere_is_refused(part: str, data: st.DataObject) -> None:
    verifier = Verifier(public_text(VENDOR.public))
    answer = deepcopy(GRANTED)
    assert isinstance(answer.proof, Proof)
    text = getattr(answer.proof, part)
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.characters(codec="utf-8", exclude_characters=text[at]))
    altered = text[:at] + new + text[at + 1 :]
    if part in ("pool_key", "signature") and _same_bytes(text, altered):
        return  # The last character of base64 has bits that mean nothing.
    if part == "code" and _same_bytes(text.rpartition(".")[2], altered.rpartition(".")[2]):
        return
    setattr(answer.proof, part, altered)
    assert verifier.fault("n", answer) is not None


def _same_bytes(text: str, other: str) -> bool:
    try:
        return urlsafe_b64decode(text + "==") == urlsafe_b64decode(other + "==")
    except ValueError:
        return False


# Heartbeats


def renewed(
    nonce: str, *results: HeartbeatResult, key: PoolKey = POOL, seats: int = 2
) -> HeartbeatAnswer:
    """An answer to a heartbeat, with a proof over the results that have a ttl."""
    told = [(r.id, "cad", seats, r.ttl) for r in results if r.ttl is not None]
    text = proof_text(nonce, "beta", key.public, told)
    return HeartbeatAnswer(list(results), proof=Proof(key.public, "beta", key.sign(text)))


GOOD = HeartbeatResult("R1", "renewed", 60.0)
MOVED = HeartbeatResult("R2", "converted", 60.0, token="t", server="beta")
LOST = HeartbeatResult("R3", "lost", code="removed")
SEATS = [("cad", 2), ("cad", 2), ("cad", 2)]


@pytest.fixture(name="verifier")
def verifier_fixture() -> Verifier:
    """One that has seen the pool proved by a checkout."""
    verifier = Verifier(public_text(VENDOR.public))
    assert verifier.fault("n", Server().grant("n")) is None
    return verifier


def test_a_renewal_by_the_pool_that_granted_is_believed(verifier: Verifier) -> None:
    assert verifier.renews("m", renewed("m", GOOD, MOVED, LOST), SEATS)
    assert verifier.renews("m", HeartbeatAnswer([LOST]), SEATS[:1])  # nothing to prove


@pytest.mark.parametrize(
    "answer",
    [
        HeartbeatAnswer([GOOD]),
        renewed("another", GOOD),
        renewed("m", GOOD, seats=3),
        renewed("m", GOOD, key=PoolKey("77" * 32)),
        HeartbeatAnswer([GOOD], proof=renewed("m", MOVED).proof),
        HeartbeatAnswer([GOOD, MOVED], proof=renewed("m", GOOD).proof),
        HeartbeatAnswer([HeartbeatResult("R1", "renewed")], proof=renewed("m").proof),
        HeartbeatAnswer([HeartbeatResult("R1", "renewed", 9e9)], proof=renewed("m", GOOD).proof),
    ],
)
def test_any_other_renewal_is_not(verifier: Verifier, answer: HeartbeatAnswer) -> None:
    assert not verifier.renews("m", answer, SEATS[: len(answer.results)])


def test_a_pool_that_was_never_proved_renews_nothing() -> None:
    assert not Verifier(public_text(VENDOR.public)).renews("m", renewed("m", GOOD), SEATS[:1])


# The vendor's key


def test_the_key_may_be_a_path_or_its_text(tmp_path: Path) -> None:
    key = write_keys(tmp_path / "keys")
    path = tmp_path / "keys" / "vendor.pub"
    for given_as in (path, str(path), path.read_text()):
        server = Server(vendor=key)
        assert Verifier(given_as).fault("n", server.grant("n")) is None


@pytest.mark.parametrize("kind", ["missing", "private", "garbage", "binary", "other"])
def test_what_is_no_vendors_public_key_is_refused(tmp_path: Path, kind: str) -> None:
    write_keys(tmp_path / "keys")
    path = tmp_path / "given"
    texts = {
        "private": (tmp_path / "keys" / "vendor.key").read_bytes(),
        "garbage": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "binary": b"\xff\x00",
        "other": b"hello",
    }
    if kind in texts:
        path.write_bytes(texts[kind])
    with pytest.raises(InvalidRequest, match="vendor_key"):
        Verifier(path)


def test_who_asks_for_no_proof_loads_no_cryptography() -> None:
    program = (
        "import sys\n"
        "from licraft.client import Client\n"
        "client = Client(['http://127.0.0.1:9'])\n"
        "client.start()\n"
        "client.close()\n"
        "print('cryptography' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "False\n"


def test_keys_of_pools_are_base64url_of_32_bytes() -> None:
    assert len(POOL.public) == 43
    assert PoolKey("5e" * 32).public == POOL.public
    assert PoolKey("5f" * 32).public != POOL.public
