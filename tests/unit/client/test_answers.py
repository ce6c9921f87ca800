"""What a problem document becomes."""

from __future__ import annotations

import json

import pytest

from licraft.client.answers import MAX_RETRY_AFTER_S, Elsewhere, unavailable, understand
from licraft.client.transport import Answer, NoAnswer
from licraft.core.outcomes import Code
from licraft.errors import (
    ClientError,
    InvalidRequest,
    LicenseError,
    LicraftError,
    NoSeatsAvailable,
    PoolUnavailable,
)
from licraft.wire import Installed

URL = "http://alpha:7700"


def answer(status: int, **problem: object) -> Answer:
    return Answer(URL, 0.0, status, json.dumps({"status": status, **problem}).encode())


def test_a_success_is_its_body() -> None:
    found = understand(Answer(URL, 0.0, 200, b'{"sequence": 8, "index": 3}'), Installed)
    assert found == Installed(8, 3)


def test_no_content_is_none() -> None:
    assert understand(Answer(URL, 0.0, 204, b""), type(None)) is None


def test_no_answer_is_a_reason_to_go_on() -> None:
    silent = NoAnswer(URL, 0.0, "no answer in time", may_have_arrived=True)
    assert understand(silent, Installed) == Elsewhere(URL, "no answer in time")


@pytest.mark.parametrize("code", [code.value for code in Code])
def test_every_code_of_the_contract_has_a_meaning(code: str) -> None:
    found = understand(answer(409, code=code, detail="words"), Installed)
    assert isinstance(found, LicraftError)
    assert "words" in str(found)
    assert isinstance(found, ClientError | LicenseError)
    assert found.code == code


def test_retry_after_is_bounded() -> None:
    found = understand(answer(503, code="no_quorum", detail="x", retry_after=1e9), Installed)
    assert isinstance(found, Elsewhere)
    assert found.retry_after_s == MAX_RETRY_AFTER_S


def test_an_unknown_outcome_is_not_asked_for_elsewhere() -> None:
    found = understand(answer(503, code="outcome_unknown", detail="x"), Installed)
    assert isinstance(found, PoolUnavailable)


def test_the_field_is_named() -> None:
    found = understand(
        answer(400, code="invalid_request", detail="too big", field="count"), Installed
    )
    assert isinstance(found, InvalidRequest)
    assert str(found) == "count: too big"


def test_a_server_s_words_are_one_printable_line() -> None:
    found = understand(answer(409, code="no_seats", detail="a\x1b[2J\nb" + "c" * 1000), Installed)
    assert isinstance(found, NoSeatsAvailable)
    assert str(found).isprintable()
    assert len(str(found)) <= 500


def test_unavailable_names_every_server() -> None:
    error = unavailable([Elsewhere(URL, "cannot connect"), Elsewhere("http://b", "x", "draining")])
    assert "http://alpha:7700: cannot connect; http://b: x" in str(error)
    assert error.code == "draining"
