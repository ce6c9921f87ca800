"""Which pool a command means, and how results are printed."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from licraft.cli.common import DEFAULT_URL, Pool, pool_options, print_table, read_text
from licraft.cli.observe import trouble
from licraft.wire import LicenseView, PoolView, ServerView


def chosen(arguments: list[str], environment: dict[str, str]) -> Pool:
    """The pool that a command gets."""
    seen: list[Pool] = []

    @click.command()
    @pool_options
    def command(pool: Pool) -> None:
        seen.append(pool)

    environment = {"LICRAFT_SERVERS": "", "LICRAFT_TOKEN": "", **environment}
    result = CliRunner().invoke(command, arguments, env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def test_servers_come_from_the_option_or_the_environment_or_the_default() -> None:
    environment = {"LICRAFT_SERVERS": "7700@alpha:7701@beta"}
    assert chosen([], {}).urls == (DEFAULT_URL,)
    assert chosen([], environment).urls == ("http://alpha:7700", "http://beta:7701")
    given = ["--server", "http://c:1", "--server", "2@d"]
    assert chosen(given, environment).urls == ("http://c:1", "http://d:2")


def test_tokens_come_from_the_option_or_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "client.token"
    file.write_text("from-file\n")
    environment = {"LICRAFT_TOKEN": "from-environment"}
    assert chosen([], {}).token is None
    assert chosen([], environment).token == "from-environment"
    assert chosen(["--token-file", str(file)], environment).token == "from-file"
    pool = chosen(["--token", "given"], environment)
    assert pool.token == "given"
    assert "given" not in repr(pool)


def test_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")

    @click.command()
    @pool_options
    def command(pool: Pool) -> None:
        raise AssertionError

    result = CliRunner().invoke(command, ["--token-file", str(tmp_path / "empty")])
    assert result.exit_code == 2
    assert "empty" in result.output


def test_tables_are_plain_and_never_cut_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "COUNT", "NOTE"), [("a" * 300, 7, None), ("b\x1b[31m", 12, "x")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "NAME" + " " * 296 + "  COUNT  NOTE"
    assert lines[1] == "a" * 300 + "      7  -"
    assert lines[2].split() == ["b", "[31m", "12", "x"]


def test_an_empty_table_is_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [])
    assert capsys.readouterr().out == "A  B\n"


def test_on_a_terminal_tables_are_drawn_and_other_people_s_text_is_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    print_table(("SERVER", "STATE"), [("[red]alpha[/red]", "up")])
    printed = capsys.readouterr().out
    assert "[red]alpha[/red]" in printed
    assert "\u2500" in printed


def test_files_are_bounded_and_must_be_text(tmp_path: Path) -> None:
    file = tmp_path / "acme.lic"
    file.write_bytes(b"12345")
    assert read_text(str(file), 5) == "12345"
    with pytest.raises(click.UsageError, match="larger than 4 bytes"):
        read_text(str(file), 4)
    file.write_bytes(b"\xff")
    with pytest.raises(click.UsageError, match=r"acme\.lic"):
        read_text(str(file), 5)


def pool_view(**changes: object) -> PoolView:
    server = ServerView("alpha", "leader", "up", "http://a", 1, 2.5, 3, 10)
    license = LicenseView(7, "00")
    view = PoolView(
        "acme", "alpha", "serving", "alpha", 3, 9, ["alpha"], [server], license, [], "1"
    )
    for name, value in changes.items():
        setattr(view, name, value)
    return view


def test_a_healthy_pool_has_no_trouble() -> None:
    assert trouble(pool_view()) == []


def test_what_the_server_says_of_another_is_not_said_twice() -> None:
    down = ServerView("beta", "follower", "down", "http://b", 1, None, 0, 10)
    told = "server beta is down: its seats are kept for it"
    assert trouble(pool_view(servers=[down], trouble=[told])) == [told]


def test_trouble_is_what_the_server_says_and_what_its_figures_say() -> None:
    down = ServerView("beta", "follower", "down", "http://b", 1, None, 0, 10)
    view = pool_view(
        leader=None, servers=[down], license=LicenseView(0, ""), trouble=["disk nearly full"]
    )
    found = trouble(view)
    assert found[0] == "disk nearly full"
    assert [line.split(":")[0] for line in found[1:]] == [
        "no leader",
        "server beta is down",
    ]
