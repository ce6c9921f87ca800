"""Malformed and hostile license files and codes: refused, each with its place and its cause."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from support.bad_codes import POOL, Bad, Vendor, bad_codes
from support.bad_licenses import bad_files

from licraft import yaml_text
from licraft.cli.main import cli
from licraft.errors import LicenseError
from licraft.vendor.codes import read_code
from licraft.vendor.keys import _private, public_text
from licraft.vendor.license_file import decode_license_file, read_license_file

# Always the same keys: the names of the cases depend on what is in the codes.
VENDOR = Vendor(*(_private(Ed25519PrivateKey.from_private_bytes(bytes([n] * 32))) for n in (1, 2)))
KEYS = [VENDOR.key.public]
CODES = list(bad_codes(VENDOR))
FILES = list(bad_files(VENDOR))

MAX_MESSAGE_CHARS = 4_000
# Of processor time, so that a machine that is held up does not count; the worst takes a second.
WITHIN_S = 5.0
ROOM_BYTES = 96 * 1024 * 1024


def check(case: Bad, message: str) -> None:
    """What every refusal owes the reader."""
    assert re.search(case.cause, message), message
    if case.line is not None:
        assert f"line {case.line}: " in message, message
    assert message.isprintable(), repr(message)
    assert len(message) <= MAX_MESSAGE_CHARS


def test_there_are_enough_of_them_and_no_two_are_the_same() -> None:
    assert len(FILES) >= 200
    assert len(CODES) >= 200
    for cases in (FILES, CODES):
        assert len({case.data for case in cases}) == len(cases)


def test_what_they_are_made_of_is_good() -> None:
    file = read_license_file(VENDOR.file(), KEYS, POOL)
    assert [(code.feature, code.count) for code in file.codes] == [("cad", 100), ("sim", 50)]
    terms = VENDOR.with_terms("distribution: alpha:60^beta:40")
    assert read_license_file(terms, KEYS, POOL).codes[0].distribution


@pytest.mark.parametrize("case", CODES, ids=lambda case: case.name)
def test_a_bad_code_is_refused_with_its_cause(case: Bad) -> None:
    begun = time.process_time()
    with pytest.raises(LicenseError) as caught:
        read_code(case.data.decode("utf-8", "surrogatepass"), KEYS)
    assert time.process_time() - begun < WITHIN_S
    assert caught.value.code == "invalid_license"
    check(case, str(caught.value))


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_a_bad_file_is_refused_with_its_line_and_its_cause(case: Bad) -> None:
    begun = time.process_time()
    with pytest.raises(LicenseError) as caught:
        read_license_file(decode_license_file(case.data), KEYS, POOL)
    assert time.process_time() - begun < WITHIN_S
    assert caught.value.code == "invalid_license"
    check(case, str(caught.value))


def test_the_worst_files_are_refused_in_little_memory(tmp_path: Path) -> None:
    large = [case for case in FILES if len(case.data) > 500_000]
    assert len(large) > 20
    paths = []
    for number, case in enumerate(large):
        paths.append(tmp_path / f"{number}.lic")
        paths[-1].write_bytes(case.data)
    program = (
        "import resource, sys\n"
        "from licraft.errors import LicenseError\n"
        "from licraft.vendor.license_file import decode_license_file, parse_license_file\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "room = pages * resource.getpagesize() + int(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (room, room))\n"
        "for path in sys.argv[2:]:\n"
        "    try:\n"
        "        parse_license_file(decode_license_file(open(path, 'rb').read()), ())\n"
        "    except LicenseError:\n"
        "        continue\n"
        "    sys.exit(path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOM_BYTES), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_without_libyaml_the_same_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "_Loader", yaml.SafeLoader)
    small = [case for case in FILES if len(case.data) < 50_000 and not case.name.startswith("code")]
    assert len(small) > 200
    for case in small:
        with pytest.raises(LicenseError) as caught:
            read_license_file(decode_license_file(case.data), KEYS, POOL)
        assert str(caught.value).isprintable()
    assert read_license_file(VENDOR.file(), KEYS, POOL).sequence == 50


@given(st.data())
def test_a_file_with_changed_bytes_has_no_code_that_was_not_signed(data: st.DataObject) -> None:
    file = bytearray(VENDOR.with_terms("distribution: alpha:60^beta:40").encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(file) - 1))
        file[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        read = read_license_file(decode_license_file(bytes(file)), KEYS, POOL)
    except LicenseError:
        return
    assert [code.code for code in read.codes] == [VENDOR.cad]
    assert sum(seats for _, seats in read.codes[0].distribution or ()) <= 100


@pytest.mark.parametrize("command", ["license verify", "vendor inspect"])
def test_the_command_line_refuses_them_with_exit_status_4(tmp_path: Path, command: str) -> None:
    key = tmp_path / "vendor.pub"
    key.write_text(public_text(VENDOR.key.public))
    arguments = {
        "license verify": ["--key", str(key), "--pool", POOL],
        "vendor inspect": ["--pub", str(key)],
    }[command]
    # What is good elsewhere: a file for another pool, and a code, can be looked at.
    shown = ("pool umbrella", "a code alone") if command == "vendor inspect" else ()
    cases = [c for c in FILES if c.is_text and len(c.data) < 100_000 and c.name not in shown]
    assert len(cases) >= 400
    wrong = []
    for case in cases:
        path = tmp_path / "bad.lic"
        path.write_bytes(case.data)
        done = CliRunner().invoke(cli, [*command.split(), str(path), *arguments])
        said = done.stderr.removeprefix("licraft: ").removesuffix("\n")
        if done.exit_code != 4 or "\n" in said or path.read_bytes() != case.data:
            wrong.append((case.name, done.exit_code, done.stderr))
    assert wrong == []
