"""`licraft vendor`: what is printed can be used, and what is refused exits with 2."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import textwrap
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from licraft.cli import passphrases
from licraft.cli.main import cli
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import generate, is_locked, load_public_key
from licraft.vendor.license_file import read_license_file


def run(*arguments: str | Path, stdin: str | bytes = "", **environ: str) -> Result:
    return CliRunner().invoke(cli, ["vendor", *map(str, arguments)], input=stdin, env=environ)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory with a new key pair."""
    assert run("keygen", tmp_path / "keys").exit_code == 0
    return tmp_path / "keys"


def code(keys: Path, *arguments: str) -> str:
    result = run("code", "--key", keys / "vendor.key", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_printed_code_has_what_was_asked_for(keys: Path) -> None:
    text = code(
        keys,
        *("--feature", "cad", "--count", "100", "--version", "2026.1", "--pool", "acme"),
        *("--starts", "2026-01-01", "--expires", "2027-12-31"),
        *("--option", "module=flow", "--option", "note=a=b", "--vendor", "ACME", "--id", "x-1"),
    )
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    found = read_code(text, [load_public_key(keys / "vendor.pub")])
    assert found.trusted
    assert (found.feature, found.count, found.version, found.pool) == ("cad", 100, "2026.1", "acme")
    assert (found.starts, found.expires) == (date(2026, 1, 1), date(2027, 12, 31))
    assert found.options == (("module", "flow"), ("note", "a=b"))
    assert (found.vendor, found.id) == ("ACME", "x-1")


def test_json_for_scripts(keys: Path, tmp_path: Path) -> None:
    made = json.loads(code(keys, "--feature", "cad", "--count", "1", "--json"))
    assert read_code(made["code"], []).id == made["id"]
    pair = json.loads(run("keygen", tmp_path / "more", "--json").stdout)
    assert Path(pair["private"]).is_file()
    assert load_public_key(Path(pair["public"])).fingerprint == pair["fingerprint"]


def test_a_license_file_is_made_of_arguments_or_of_lines(keys: Path) -> None:
    public = load_public_key(keys / "vendor.pub")
    codes = [code(keys, "--feature", name, "--count", "5") for name in ("cad", "sim")]
    given = run("file", "--sequence", "7", "--pool", "acme", *(text.strip() for text in codes))
    piped = run("file", "--sequence", "7", "--pool", "acme", stdin="\n".join(codes))
    assert given.stdout == piped.stdout
    file = read_license_file(given.stdout, [public], "acme")
    assert (file.pool, file.sequence) == ("acme", 7)
    assert [entry.feature for entry in file.codes] == ["cad", "sim"]
    wrapped = "".join(f"> {line}\n" for text in codes for line in textwrap.wrap(text, 72))
    assert run("file", "--sequence", "7", "--pool", "acme", stdin=wrapped).stdout == given.stdout


# -- locked keys --------------------------------------------------------------------------

PASSPHRASE = "correct horse battery staple"
FROM_ENVIRONMENT = {"LICRAFT_VENDOR_PASSPHRASE": PASSPHRASE}
SIM = ("--feature", "sim", "--count", "5")


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A directory with a key pair whose private key is locked with `PASSPHRASE`."""
    done = run("keygen", tmp_path / "locked", **FROM_ENVIRONMENT)
    assert done.exit_code == 0
    assert "locked with the passphrase" in done.stdout
    assert is_locked(tmp_path / "locked" / "vendor.key")
    return tmp_path / "locked"


def test_a_passphrase_comes_from_the_environment_or_a_file(locked: Path, tmp_path: Path) -> None:
    public = load_public_key(locked / "vendor.pub")
    file = tmp_path / "passphrase"
    file.write_text(f"{PASSPHRASE}\n")
    given = ("--passphrase-file", file)
    payload = '{"feature": "sim", "count": 5}'
    for done in (
        run("code", "--key", locked / "vendor.key", *SIM, **FROM_ENVIRONMENT),
        run("code", "--key", locked / "vendor.key", *SIM, *given),
        # The file is what was asked for in this call: it counts before the environment.
        run("code", "--key", locked / "vendor.key", *SIM, *given, LICRAFT_VENDOR_PASSPHRASE="x"),
        run("sign", "--key", locked / "vendor.key", *given, stdin=payload),
        run("sign", "--key", locked / "vendor.key", stdin=payload, **FROM_ENVIRONMENT),
    ):
        assert done.exit_code == 0, done.stderr
        assert read_code(done.stdout, [public]).trusted
        code = done.stdout.strip()
    for place in (given, ()):
        environ = {} if place else FROM_ENVIRONMENT
        done = run("inspect", code, "--key", locked / "vendor.key", *place, **environ)
        assert done.exit_code == 0, done.stderr
        assert "good" in done.stdout
    made = run("keygen", tmp_path / "more", *given, "--json")
    assert json.loads(made.stdout)["locked"] is True


def test_a_passphrase_is_asked_for_on_a_terminal(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passphrases, "has_terminal", lambda: True)
    done = run("code", "--key", locked / "vendor.key", *SIM, stdin=f"{PASSPHRASE}\n")
    assert done.exit_code == 0, done.stderr
    assert read_code(done.stdout, []).feature == "sim"
    assert f"Passphrase of {locked / 'vendor.key'}: " in done.stderr
    assert PASSPHRASE not in done.output
    asked = run("keygen", tmp_path / "new", "--passphrase", stdin="too short\nnot same\n" * 2)
    assert asked.exit_code == 130
    assert not (tmp_path / "new").exists()
    asked = run("keygen", tmp_path / "new", "--passphrase", stdin=f"{PASSPHRASE}\n" * 2)
    assert asked.exit_code == 0
    assert is_locked(tmp_path / "new" / "vendor.key")


def test_the_terminal_is_asked_while_a_pipe_brings_the_payloads(locked: Path) -> None:
    master, terminal = pty.openpty()
    program = "import fcntl, termios, sys; fcntl.ioctl(2, termios.TIOCSCTTY, 0); sys.argv[0] = 'x'"
    program += "; from licraft.cli.main import main; main(sys.argv[1:])"
    arguments = ["vendor", "sign", "--key", str(locked / "vendor.key")]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        assert process.stdin is not None
        process.stdin.write(b'{"feature": "sim", "count": 5}\n')
        process.stdin.close()
        process.stdin = None
        shown = b""
        while b"Passphrase of" not in shown:
            shown += os.read(master, 1000)
        os.write(master, f"{PASSPHRASE}\n".encode())
        out, _ = process.communicate(timeout=20)
    with contextlib.suppress(OSError):
        shown += os.read(master, 1000)
    os.close(master)
    assert process.returncode == 0
    assert read_code(out.decode(), [load_public_key(locked / "vendor.pub")]).trusted
    assert PASSPHRASE.encode() not in shown


def test_where_nobody_can_be_asked_it_says_so(locked: Path, tmp_path: Path) -> None:
    for arguments in (
        ("code", "--key", str(locked / "vendor.key"), *SIM),
        ("keygen", str(tmp_path / "new"), "--passphrase"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "licraft", "vendor", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            start_new_session=True,
        )
        assert done.returncode == 2
        assert "no terminal to ask for a passphrase" in done.stderr
        assert "LICRAFT_VENDOR_PASSPHRASE" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"wrong horse battery staple", "the passphrase is wrong, or the file is damaged"),
        (b"", "expected one line, the passphrase"),
        (b"\n", "expected one line, the passphrase"),
        (b"two\nlines\n", "expected one line, the passphrase"),
        (b"x" * 100_000, "the passphrase is wrong"),
        (b"\xff\xfe", "the passphrase is wrong"),
        (None, "No such file"),
    ],
)
def test_a_wrong_passphrase_is_refused_in_one_line(
    locked: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "passphrase"
    if content is not None:
        file.write_bytes(content)
    done = run("code", "--key", locked / "vendor.key", *SIM, "--passphrase-file", file)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_key_that_is_not_locked_needs_no_passphrase(keys: Path) -> None:
    done = run("code", "--key", keys / "vendor.key", *SIM, **FROM_ENVIRONMENT)
    assert done.exit_code == 0


# -- signing payloads of the vendor's own system ------------------------------------------


def test_payloads_are_signed_one_code_a_line(keys: Path, tmp_path: Path) -> None:
    public = load_public_key(keys / "vendor.pub")
    payloads = [{"feature": f"f{n}", "count": n, "id": f"order-{n}"} for n in range(1, 501)]
    text = "\ufeff" + "\r\n\r\n".join(json.dumps(payload) for payload in payloads)
    file = tmp_path / "payloads"
    file.write_text(text, encoding="utf-8")
    done = run("sign", file, "--key", keys / "vendor.key")
    piped = run("sign", "--key", keys / "vendor.key", stdin=text)
    assert done.exit_code == piped.exit_code == 0
    assert done.stdout == piped.stdout
    codes = [read_code(line, [public]) for line in done.stdout.splitlines()]
    assert all(code.trusted for code in codes)
    assert [{"feature": c.feature, "count": c.count, "id": c.id} for c in codes] == payloads
    shown = json.loads(run("sign", file, "--key", keys / "vendor.key", "--json").stdout)["codes"]
    assert [row["code"] for row in shown] == done.stdout.splitlines()
    assert [row["line"] for row in shown] == list(range(1, 1001, 2))


def test_every_faulty_payload_is_named_by_its_line_and_none_is_signed(keys: Path) -> None:
    good = '{"feature": "cad", "count": 1, "id": "a"}'
    lines = [good, "", '{"feature": "cad", "count": 0}', "nonsense", good, '{"count": 1}', "\xff"]
    done = run("sign", "--key", keys / "vendor.key", stdin="\n".join(lines).encode("latin-1"))
    assert done.exit_code == 2
    assert done.stdout == ""
    said = done.stderr.splitlines()
    assert [line.split(": ")[2] for line in said[:-1]] == [f"line {n}" for n in (3, 4, 5, 6, 7)]
    assert "its id a is that of line 1" in done.stderr
    assert "5 of 6 payloads are faulty: none was signed" in said[-1]
    many = run("sign", "--key", keys / "vendor.key", stdin="x\n" * 1000)
    assert len(many.stderr.splitlines()) == 12
    assert "and 990 more" in many.stderr


# -- inspecting ---------------------------------------------------------------------------


def test_a_code_is_inspected_as_it_was_pasted(keys: Path) -> None:
    text = code(keys, *SIM, "--option", "module=flow", "--expires", "2027-12-31", "--pool", "acme")
    pasted = "".join(f"> {line}\n" for line in textwrap.wrap(text, 70))
    for arguments, stdin in (
        ((text.strip(),), ""),
        ((pasted,), ""),
        (tuple(textwrap.wrap(text, 70)), ""),
        (("-",), pasted),
    ):
        done = run("inspect", *arguments, stdin=stdin)
        assert done.exit_code == 0, done.stderr
        for word in ("sim", "5", "module=flow", "2027-12-31", "acme", "unchecked"):
            assert word in done.stdout
    for option, name in (("--pub", "vendor.pub"), ("--key", "vendor.key")):
        done = run("inspect", text.strip(), option, keys / name, "--json")
        (shown,) = json.loads(done.stdout)["codes"]
        assert (shown["signature"], shown["count"], shown["options"]) == (
            "good",
            5,
            {"module": "flow"},
        )
        assert shown["code"] == text.strip()


def test_a_license_file_and_a_list_of_codes_are_inspected(keys: Path, tmp_path: Path) -> None:
    codes = [code(keys, "--feature", name, "--count", "5") for name in ("cad", "sim")]
    (tmp_path / "codes").write_text("\n".join(codes))
    listed = json.loads(run("inspect", tmp_path / "codes", "--json").stdout)
    assert [row["feature"] for row in listed["codes"]] == ["cad", "sim"]
    file = tmp_path / "acme.lic"
    file.write_text(run("file", "--sequence", "7", "--pool", "acme", stdin="".join(codes)).stdout)
    done = run("inspect", file, "--pub", keys / "vendor.pub")
    assert done.exit_code == 0
    assert "license file number 7, for pool acme" in done.stdout
    assert done.stdout.count("good") == 2
    shown = json.loads(run("inspect", file, "--json").stdout)
    assert (shown["pool"], shown["sequence"], len(shown["codes"])) == ("acme", 7, 2)


def test_what_does_not_verify_is_exit_status_4_and_shown_all_the_same(
    keys: Path, tmp_path: Path
) -> None:
    public = keys / "vendor.pub"
    foreign = make_code(generate(), feature="gold", count=9)
    good = code(keys, *SIM).strip()
    done = run("inspect", foreign, "--pub", public)
    assert done.exit_code == 4
    assert "gold" in done.stdout
    assert "bad" in done.stdout
    assert "it names the vendor's key" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    file = tmp_path / "acme.lic"
    file.write_text(f"sequence: 1\ncodes:\n- code: {good}\n- code: {foreign}\n")
    done = run("inspect", file, "--pub", public)
    assert done.exit_code == 4
    assert "line 4: code 2: 9 of gold" in done.stderr
    assert done.stdout.count("bad") == 1


@pytest.mark.parametrize("at", [40, 250])
def test_it_is_told_which_character_was_changed(keys: Path, at: int) -> None:
    good = code(keys, *SIM).strip()
    wrong = f"{good[:at]}{'A' if good[at] != 'A' else 'B'}{good[at + 1 :]}"
    done = run("inspect", wrong, "--pub", keys / "vendor.pub")
    assert done.exit_code == 4
    assert f"its character {at + 1} is {wrong[at]!r} and was {good[at]!r}" in done.stderr
    assert "its character" not in run("inspect", wrong).stderr


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        (["nowhere.lic"], 2, "is no file, and no license code"),
        (["vendor.pub", "vendor.pub"], 2, "give one file"),
        ([], 2, "CODE|FILE|-"),
        (["-"], 4, "is empty"),
        (["LIC1.x"], 4, "cut short"),
        (["vendor.pub"], 4, "license file"),
        (["LIC1.x", "--pub", "vendor.key"], 2, "is a private key"),
        (["LIC1.x", "--key", "vendor.pub"], 2, "is a public key"),
        (["LIC1.x", "--pub", "none.pub"], 2, "cannot be read"),
    ],
)
def test_what_cannot_be_inspected_is_refused_in_one_line(
    keys: Path, monkeypatch: pytest.MonkeyPatch, what: list[str], status: int, message: str
) -> None:
    monkeypatch.chdir(keys)
    done = run("inspect", *what)
    assert done.exit_code == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


# -- refusals -----------------------------------------------------------------------------


CODE = ["code", "--key", "vendor.key", "--feature", "cad", "--count", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["code", "--feature", "cad", "--count", "1"], "--key"),
        (["code", "--key", "vendor.pub", "--feature", "cad", "--count", "1"], "is a public key"),
        (["code", "--key", "no.key", "--feature", "cad", "--count", "1"], "cannot be read"),
        (["code", "--key", "vendor.key", "--feature", "cad", "--count", "0"], "not in the range"),
        (["code", "--key", "vendor.key", "--feature", "a b/c", "--count", "1"], "`/`"),
        (
            [*CODE, "--expires", "31.12.2027"],
            "31.12.2027",
        ),
        (
            [*CODE, "--starts", "2027-01-02", "--expires", "2027-01-01"],
            "after it expires",
        ),
        (
            [*CODE, "--option", "x"],
            "NAME=VALUE",
        ),
        ([*CODE, "--expires", "31.12.2027"], "expected YYYY-MM-DD, as in 2027-12-31"),
        ([*CODE, "--starts", "2027-02-30"], "expected YYYY-MM-DD"),
        ([*CODE, "--pool-key", "abc"], "the pool key 'abc' is none: expected the 43 letters"),
        (["file", "--sequence", "0", "LIC1.x.y"], "not in the range"),
        (["file", "--sequence", "1"], "no license code is given"),
        (["file", "--sequence", "1", "LIC1.x.y"], "license code"),
        (["file", "--sequence", "1", "--pool", "x" * 65, *2 * ["{code}"]], "`pool` is 'xxx"),
        (["file", "--sequence", "1", *2 * ["{code}"]], "remove one"),
        (["keygen", "."], "exists and is not replaced"),
        (["sign", "--key", "vendor.key"], "standard input has no payload"),
        (["sign", "none", "--key", "vendor.key"], "No such file"),
        (["sign", "vendor.pub", "--key", "vendor.key"], "payloads are faulty"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(
    keys: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(keys)
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    made = code(keys, *SIM).strip()
    result = run(*(made if argument == "{code}" else argument for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 or arguments[0] == "sign"
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_the_private_key_is_never_printed(keys: Path) -> None:
    secret = (keys / "vendor.key").read_text().splitlines()[-2]
    outputs = [
        run("code", "--key", keys / "vendor.key", "--feature", "cad", "--count", "1").output,
        run("code", "--key", keys / "vendor.key", "--feature", "/", "--count", "1").output,
        run("keygen", keys).output,
    ]
    assert not any(secret in output for output in outputs)
