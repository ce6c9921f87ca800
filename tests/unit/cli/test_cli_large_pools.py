"""What the commands show of a thousand features and a million seats, on narrow terminals too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from licraft.cli import common
from licraft.cli.main import cli
from licraft.wire import (
    AllocationView,
    BorrowingView,
    CodeView,
    FeatureView,
    LicenseDocument,
    LicenseView,
    PoolView,
    ServerView,
)

Show = Callable[..., Result]
NAMES = ("alpha", "beta", "gamma")
MILLION = 1_000_000


def feature(name: str, seats: int = 100, **changes: Any) -> FeatureView:
    part = AllocationView(seats // 3, seats // 4, None, 0.8)
    view = FeatureView(
        name,
        "2026.1",
        seats,
        seats,
        0,
        3 * (seats // 4),
        0,
        0,
        12,
        None,
        "2027-12-31",
        "valid",
        BorrowingView(enabled=True, pending=0),
        dict.fromkeys(NAMES, part),
    )
    for field, value in changes.items():
        setattr(view, field, value)
    return view


class Client:
    """A client of a pool of a thousand features."""

    def __init__(self) -> None:
        self.found = [feature(f"feature-{n:04}") for n in range(1000)]
        self.found[3] = feature("the-largest-of-all-with-a-name-that-is-long", MILLION)
        self.found[500] = feature("feature-0500", status="expired", warning="it has expired")
        self.found[700] = feature("feature-0700", over=12, warning="over by 12", waiting=1)
        self.borrowing: list[dict[str, object]] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def pool(self) -> PoolView:
        servers = [
            ServerView(name, "follower", "up", f"http://{name}:7700", 1, None, MILLION, MILLION)
            for name in NAMES
        ]
        license = LicenseView(7, "00")
        name = NAMES[0]
        return PoolView("acme", name, "serving", name, 3, 9, list(NAMES), servers, license, [], "1")

    def features(self) -> list[FeatureView]:
        return self.found

    def feature(self, name: str) -> FeatureView:
        return next(f for f in self.found if f.feature == name)

    def license(self) -> LicenseDocument:
        codes = [
            CodeView(
                f"id-{n}",
                "The Vendor of Long Names Ltd",
                f.feature,
                None,
                MILLION,
                None,
                None,
                None,
                "valid",
            )
            for n, f in enumerate(self.found)
        ]
        return LicenseDocument(7, "", codes)

    def set_borrowing(self, name: str, server: str | None, **limits: object) -> FeatureView:
        self.borrowing.append({"server": server} | limits)
        return self.feature(name)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(common.Pool, "client", lambda pool: client)
    return client


@pytest.fixture
def show(client: Client, monkeypatch: pytest.MonkeyPatch) -> Show:
    def run(*arguments: str, columns: int | None = None) -> Result:
        """Run a command, on a terminal of so many columns if there is one."""
        environment = {"LICRAFT_SERVERS": "", "NO_COLOR": "1", "TERM": "xterm"}
        if columns is not None:
            monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True)
            environment["COLUMNS"] = str(columns)
        return CliRunner().invoke(cli, arguments, env=environment, catch_exceptions=False)

    return run


def test_status_shows_those_that_have_something_to_tell(show: Show) -> None:
    lines = show("status").stdout.splitlines()
    assert len(lines) < 40
    (place,) = (n for n, line in enumerate(lines) if line.startswith("FEATURE"))
    shown = [line.split()[0] for line in lines[place + 1 : place + 3]]
    assert sorted(shown) == ["feature-0500", "feature-0700"]
    assert lines[-1] == "and 980 more features: `licraft features [--match PATTERN]`"


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_on_a_narrow_terminal_no_number_is_cut_and_what_is_left_out_is_told(
    show: Show, columns: int
) -> None:
    shown = show("features", columns=columns)
    lines = click.unstyle(shown.stdout).splitlines()
    assert max(map(len, lines)) <= columns
    (large,) = (line for line in lines if line.startswith("the-largest"))
    assert {"1000000", "750000"} <= set(large.split())
    (usual,) = (line for line in lines if line.startswith("feature-0999"))
    assert "2027-12-31" in usual.split()
    every = {"COMMUTERS", "VERSION", "DENIED", "ENTITLED", "WAITING", "FREE"}
    left_out = {word for word in every if word not in lines[0]}
    assert bool(left_out) == (columns < 110)
    assert all(word in shown.stderr for word in left_out)
    assert ("too narrow" in shown.stderr) == bool(left_out)


def test_the_codes_of_a_large_license_fit_on_a_terminal(show: Show) -> None:
    shown = show("license", "show", columns=80)
    lines = click.unstyle(shown.stdout).splitlines()
    assert lines[0] == "license file number 7, codes: 1000"
    assert len(lines) < 1010
    assert max(map(len, lines)) <= 80
    assert "VENDOR" in shown.stderr


def test_elsewhere_nothing_is_left_out(show: Show) -> None:
    shown = show("features")
    assert len(shown.stdout.splitlines()) == 1001
    assert "COMMUTERS" in shown.stdout
    assert shown.stderr == ""


def test_features_are_chosen_by_their_names_and_their_trouble(show: Show) -> None:
    def names(*arguments: str) -> list[str]:
        shown = show("features", *arguments)
        found = [line.split()[0] for line in shown.stdout.splitlines()[1:]]
        assert f"{len(found)} of 1000 features" in shown.stderr
        return found

    assert names("--match", "feature-000?") == [f"feature-000{n}" for n in range(10) if n != 3]
    assert names("--trouble") == ["feature-0500", "feature-0700"]
    assert names("--trouble", "--match", "*7*") == ["feature-0700"]
    assert names("--match", "FEATURE*") == []
    assert show("features", "feature-0000", "--trouble").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        (["--on"], {"enabled": True}),
        (["--off"], {"enabled": False}),
        (["--borrowing", "on"], {"enabled": True}),
        (["--borrowing", "off"], {"enabled": False}),
        (["--borrowing", "default"], {"enabled": None}),
        (["--threshold", "default", "--cap", "7"], {"threshold": None, "cap": 7}),
    ],
)
def test_borrowing_can_go_back_to_the_default(
    show: Show, client: Client, arguments: list[str], limits: dict[str, object]
) -> None:
    done = show("borrowing", "set", "feature-0001", "--only", "beta", *arguments)
    assert done.exit_code == 0, done.output
    assert client.borrowing == [{"server": "beta"} | limits]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["borrowing", "set", "cad", "--on", "--borrowing", "off"], "give one of them"),
        (["borrowing", "set", "cad", "--borrowing", "maybe"], "maybe"),
        (["borrowing", "set", "cad"], "--borrowing"),
        (["borrowing", "set", "cad", "--threshold", "80"], "as in 0.8"),
        (["distribution", "set", "cad", "alpha:1,beta:2"], "SERVER:SEATS^SERVER:SEATS"),
        (["distribution", "set", "cad", "alpha=1"], "SERVER:SEATS^SERVER:SEATS"),
        (["license", "add-code", "LIC1.x", "--distribution", "alpha:1 beta:1"], "without spaces"),
    ],
)
def test_likely_mistakes_are_told_before_anything_is_sent(
    show: Show, client: Client, arguments: list[str], said: str
) -> None:
    result = show(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert client.borrowing == []
