"""What soon expires, what has expired, and which files contradict the pool's."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
from support.pools import ALPHA, BETA, CAD, CAM, GAMMA, TODAY, Pool, code, license_file, licensed

from licraft.core.codec import decode_entry, encode_entry
from licraft.core.commands import Entry, InstallLicense, LicenseConflict
from licraft.core.conflicts import conflicts
from licraft.core.expiry import Expiring, expired, expiring
from licraft.core.license import LicenseCode, entitlements, packed, unpacked
from licraft.core.outcomes import Code, Effect, Outcome

DAY = timedelta(days=1)


def soon(*codes: LicenseCode) -> dict[str, Expiring]:
    return expiring(license_file(1, *codes), "acme", TODAY)


@pytest.mark.parametrize(
    ("days", "notice"),
    [(31, None), (30, 30), (15, 30), (14, 14), (8, 14), (7, 7), (2, 7), (1, 1), (0, 1)],
)
def test_it_is_told_in_steps(days: int, notice: int | None) -> None:
    last = TODAY + days * DAY
    expected = {} if notice is None else {CAD: Expiring(CAD, last, days, 9, notice)}
    assert soon(code(9, expires=last), code(2, feature=CAM)) == expected


def test_only_what_goes_is_told() -> None:
    """The first day after which there is less, and how much less."""
    last = TODAY + 5 * DAY
    assert soon(
        code(9, id="a", expires=last),
        code(4, id="b", expires=last),
        code(2, id="c", expires=last + DAY),
        code(7, id="d"),
    )[CAD] == Expiring(CAD, last, 5, 13, 7)
    # Another takes over at once, or an older version that was superseded counts again.
    assert soon(code(9, id="a", expires=last), code(9, id="b", starts=last + DAY)) == {}
    assert soon(code(9, id="a", version="2", expires=last), code(9, id="b", version="1")) == {}
    older = code(4, id="b", version="1")
    assert soon(code(9, id="a", version="2", expires=last), older)[CAD].seats == 5
    # What grants nothing now is not missed.
    assert soon(code(9, pool="other", expires=last)) == {}
    assert soon(code(9, expires=TODAY - DAY)) == {}


def test_what_is_bound_to_another_pools_key_is_not_missed() -> None:
    last = TODAY + 5 * DAY
    mine = code(9, id="a", expires=last)
    theirs = replace(code(4, id="b", expires=last), pool_key="theirs")
    file = license_file(1, mine, theirs)
    assert expiring(file, "acme", TODAY, "mine")[CAD] == Expiring(CAD, last, 5, 9, 7)
    assert expiring(license_file(1, theirs), "acme", TODAY, "mine") == {}
    assert expired(license_file(1, theirs), "acme", last + DAY, "mine") == {}
    assert expired(license_file(1, theirs), "acme", last + DAY, "theirs") == {CAD: last}


def test_the_end_of_time_is_no_day_to_look_beyond() -> None:
    assert expiring(license_file(1, code(9, expires=date.max)), "acme", date.max) == {}


def test_a_feature_has_expired_when_no_code_is_valid_and_one_was() -> None:
    file = license_file(
        1,
        code(9, id="a", expires=TODAY - 3 * DAY),
        code(9, id="b", expires=TODAY - DAY),
        code(9, id="c", starts=TODAY + DAY),
        code(9, id="d", feature=CAM, expires=TODAY - DAY),
        code(1, id="e", feature=CAM),
        code(1, id="f", feature="sim", trusted=False, expires=TODAY - DAY),
    )
    assert expired(file, "acme", TODAY) == {CAD: TODAY - DAY}
    assert expired(file, "acme", TODAY - DAY) == {}
    assert expired(file, "acme", TODAY + DAY) == {}


def test_of_several_expired_codes_the_last_day_is_told() -> None:
    codes = [code(9, id=str(n), expires=TODAY - n * DAY) for n in (3, 1, 2)]
    found = entitlements(license_file(1, *codes), "acme", TODAY)[CAD]
    assert (found.count, found.expires) == (0, TODAY - DAY)


def test_seats_of_codes_without_a_distribution_are_added_evenly() -> None:
    both = license_file(1, code(5, "beta:4", id="a"), code(7, id="b"), code(6, feature=CAM))
    found = entitlements(both, "acme", TODAY, (ALPHA, BETA, GAMMA))
    assert found[CAD].distribution == ((ALPHA, 3), (BETA, 6), (GAMMA, 2))
    assert found[CAM].distribution == ()


# -- the file in the log ----------------------------------------------------------------------


def real(*codes: LicenseCode) -> tuple[LicenseCode, ...]:
    """Codes whose text looks like that of a code."""
    return tuple(replace(c, code=f"LIC1.{c.id}.c2ln") for c in codes)


def test_a_code_is_written_once_in_the_log_and_is_whole_again_when_applied() -> None:
    codes = real(code(9, id="a"), code(5, id="b"))
    file = replace(license_file(1, *codes), text="codes:\n- LIC1.a.c2ln\n- LIC1.b.c2ln # mine\n")
    short = packed(file)
    assert [c.code for c in short.codes] == ["", ""]
    assert unpacked(short) == file
    assert packed(short) == short
    entry = Entry("", 0, 0, (InstallLicense(short),))
    assert encode_entry(entry, 1).count(b"c2ln") == 2
    pool = Pool()
    pool.apply(decode_entry(encode_entry(entry, 1)))
    assert pool.state.license == file


@pytest.mark.parametrize(
    "text", ["- LIC1.a.c2ln", "- LIC1.b.c2ln\n- LIC1.a.c2ln", "- LIC1.a.c2l\n n"]
)
def test_a_file_whose_text_is_otherwise_is_sent_as_it_is(text: str) -> None:
    file = replace(license_file(1, *real(code(9, id="a"), code(5, id="b"))), text=text)
    assert packed(file) is file
    assert unpacked(file) is file


def test_an_installation_made_from_another_file_than_the_pools_has_no_effect() -> None:
    pool = licensed(9)
    made = license_file(2, code(9), code(3, id="more"))
    assert pool.now(InstallLicense(made, 0)).outcomes == (Outcome(Effect.NONE, 1),)
    assert pool.now(InstallLicense(made, 1)).outcomes == (Outcome(Effect.DONE, 2),)
    assert pool.now(InstallLicense(made, 1)).outcomes == (Outcome(Effect.NONE, 2),)
    assert sum(pool.seats().values()) == 12


# -- files that contradict ----------------------------------------------------------------------


def test_a_file_that_says_the_same_in_other_words_is_the_same() -> None:
    pool = licensed(9)
    same = replace(pool.state.license, text="file 1 with a comment")
    assert pool.now(InstallLicense(same)).outcomes[0].effect is Effect.DONE
    assert pool.state.license.text == "file 1"
    other = replace(same, codes=(replace(same.codes[0], threshold=0.5),))
    assert pool.now(InstallLicense(other)).outcomes[0].code == Code.STALE_SEQUENCE


def test_a_conflict_stays_until_its_server_or_a_newer_file_settles_it() -> None:
    pool = licensed(9)
    pool.now(LicenseConflict(BETA, 1, "b" * 64))
    pool.now(LicenseConflict(ALPHA, 1, "a" * 64))
    assert conflicts(pool.state) == {ALPHA: "a" * 64, BETA: "b" * 64}
    pool.down(BETA)
    pool.now(LicenseConflict(ALPHA, 0, ""))
    assert conflicts(pool.state) == {BETA: "b" * 64}
    pool.install(code(9), code(3, id="more"))
    assert conflicts(pool.state) == {}


@pytest.mark.parametrize(
    "command",
    [
        LicenseConflict("nobody", 1, "a" * 64),
        LicenseConflict(ALPHA, 2, "a" * 64),  # of a number that the pool does not have
        LicenseConflict(ALPHA, 0, "a" * 64),
    ],
)
def test_a_conflict_that_is_none_has_no_effect(command: LicenseConflict) -> None:
    pool = licensed(9)
    assert pool.now(command).outcomes[0].effect is Effect.NONE
    same = LicenseConflict(ALPHA, 1, pool.state.license.sha256)
    assert pool.now(same).outcomes[0].effect is Effect.NONE
    assert conflicts(pool.state) == {}
