"""`licraft vendor`: what is printed can be used, and what is refused exits with 2."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from licraft.cli.main import cli
from licraft.vendor.codes import read_code
from licraft.vendor.keys import load_public_key
from licraft.vendor.license_file import read_license_file


def run(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, ["vendor", *map(str, arguments)], input=stdin)


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
        (["file", "--sequence", "0", "LIC1.x.y"], "not in the range"),
        (["file", "--sequence", "1"], "no license code is given"),
        (["file", "--sequence", "1", "LIC1.x.y"], "license code"),
        (["keygen", "."], "exists and is not replaced"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(
    keys: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(keys)
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_the_private_key_is_never_printed(keys: Path) -> None:
    secret = (keys / "vendor.key").read_text().splitlines()[-2]
    outputs = [
        run("code", "--key", keys / "vendor.key", "--feature", "cad", "--count", "1").output,
        run("code", "--key", keys / "vendor.key", "--feature", "/", "--count", "1").output,
        run("keygen", keys).output,
    ]
    assert not any(secret in output for output in outputs)
