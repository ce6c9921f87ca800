"""The command line's table of commands, its help, and what failures exit with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from licraft.cli import common
from licraft.cli.main import COMMANDS, cli
from licraft.errors import (
    ClientError,
    DataError,
    InvalidRequest,
    InvariantBroken,
    LicenseError,
    LicraftError,
    LimitReached,
    NoSeatsAvailable,
    NotAuthorized,
    NotLicensed,
    PoolUnavailable,
    SeatLost,
    SettingsError,
    UnknownFeature,
)

ROOT = Path(__file__).parents[3]
OURS = ("status", "features", "servers", "authorizations", "checkout", "checkin", "exec", "license")


def modules_after(*arguments: str) -> set[str]:
    """What is loaded when `licraft` was run with these arguments."""
    text = (
        "import sys\nfrom licraft.cli.main import cli\n"
        f"try:\n    cli.main({list(arguments)!r})\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(done.stderr.split())


def test_help_loads_no_command() -> None:
    loaded = modules_after("--help")
    assert "licraft.cli.main" in loaded
    assert not loaded & {"licraft.cli.observe", "licraft.cli.hold", "httpx", "rich", "msgspec"}


def test_exec_loads_no_server() -> None:
    loaded = modules_after("exec", "cad", "--server", "http://127.0.0.1:1", "--", "true")
    assert "licraft.client" in loaded
    rooms = {name.split(".")[1] for name in loaded if name.startswith("licraft.")}
    assert rooms == {"cli", "client", "errors", "wire"}
    assert not loaded & {"pysyncobj", "uvicorn", "cryptography", "pydantic", "yaml"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_each_command_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(100) == COMMANDS[name][1]


@pytest.mark.parametrize("name", [name for name in OURS if name != "license"])
def test_each_command_s_help_has_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert f"\n  licraft {name}" in result.output or "\n  licraft authorizations" in result.output


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for name, (_, line) in COMMANDS.items():
        assert name in result.output
        assert line in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["checkout"],
        ["checkout", "cad", "-n", "0"],
        ["exec", "cad"],
        ["exec", "cad", "ls", "-l"],
        ["status", "--server", "nonsense"],
        ["status", "--server", "http://a/x"],
        ["status", "--token", "t", "--token-file", "t"],
        ["status", "--token-file", "/nonexistent"],
        ["status", "--token", "a b"],
        ["license", "install", "/nonexistent"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("licraft: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoSeatsAvailable("x"), 1),
        (LimitReached("x"), 1),
        (NotLicensed("x"), 1),
        (UnknownFeature("x"), 1),
        (SeatLost("x"), 1),
        (ClientError("x"), 1),
        (InvalidRequest("x"), 2),
        (SettingsError("node.yaml", ["a", "b"]), 2),
        (DataError("x"), 2),
        (click.UsageError("x"), 2),
        (PoolUnavailable("x"), 3),
        (LicenseError("x"), 4),
        (NotAuthorized("x"), 5),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (ValueError("x"), None),
    ],
)
def test_exit_statuses(error: BaseException, status: int | None) -> None:
    assert common.exit_status(error) == status


def test_every_exception_of_ours_has_an_exit_status() -> None:
    kinds, seen = [LicraftError], set()
    while kinds:
        kind = kinds.pop()
        seen.add(kind)
        kinds += kind.__subclasses__()
    assert InvariantBroken in seen
    for kind in seen:
        assert common.exit_status(kind.__new__(kind)) is not None


def test_messages_say_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    common.message(NoSeatsAvailable("all 5 seats of cad are in use"))
    common.message(SettingsError("node.yaml", ["ttl: too short", "lease: no number"]))
    common.message(PoolUnavailable("bad\x1b[2Jnews"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("licraft: all 5 seats of cad are in use; `licraft authorizations`")
    assert lines[1:3] == [
        "licraft: node.yaml: ttl: too short",
        "licraft: node.yaml: lease: no number",
    ]
    assert "\x1b" not in lines[3]
    assert "LICRAFT_SERVERS" in lines[3]


def test_a_fault_of_ours_is_not_hidden() -> None:
    result = CliRunner().invoke(cli, ["--help"], obj=None)
    assert result.exit_code == 0

    @click.command()
    def broken() -> None:
        raise ZeroDivisionError

    cli.add_command(broken, "broken")
    cli.table["broken"] = (f"{__name__}:broken", "")
    globals()["broken"] = broken
    try:
        assert isinstance(CliRunner().invoke(cli, ["broken"]).exception, ZeroDivisionError)
    finally:
        del cli.table["broken"], cli.commands["broken"]
