"""Peer certificates of real servers: what is shown before one expires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.processes import MakePool, ServerPool, wait_for

from licraft.certificates import VALIDITY, Certificate, issue

pytest_plugins = ["support.pool_fixtures"]


def certify(pool: ServerPool, name: str, days_left: float) -> None:
    """Give a server a certificate of its pool that expires in so many days."""
    files = pool.directory
    authority = Certificate((files / "ca.crt").read_text(), (files / "ca.key").read_text())
    began = datetime.now(UTC) - VALIDITY + timedelta(days=days_left)
    certificate = issue(authority, name, "127.0.0.1", began)
    (files / f"{name}.crt").write_text(certificate.cert)
    (files / f"{name}.key").write_text(certificate.key)


@pytest.mark.parametrize(("days_left", "shown"), [(29.5, True), (31.0, False)])
def test_a_certificate_that_expires_soon_is_trouble(
    make_pool: MakePool, days_left: float, shown: bool
) -> None:
    pool = make_pool({"cad": 3})
    pool.stop("gamma")
    certify(pool, "gamma", days_left)
    pool.start("gamma")
    pool.wait_ready()
    wait_for(lambda: not pool.get("alpha", "/v1/pool")["trouble"] or shown, 10, "gamma is back")
    day = (datetime.now(UTC) + timedelta(days=days_left)).date().isoformat()
    for by in ("alpha", "gamma"):
        line = f"server gamma: its peer certificate expires on {day}: give it a new one"
        assert (line in pool.get(by, "/v1/pool")["trouble"]) is shown
