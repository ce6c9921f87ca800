"""`licraft license diff` of two files, and what `licraft run` does on SIGHUP."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from licraft.cli.main import cli
from licraft.cli.run import reread
from licraft.core.distribution import parse_distribution
from licraft.core.license import LicenseCode
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import generate, write_keys
from licraft.vendor.license_file import write_license_file

KEY = generate()


def a_code(count: int, feature: str = "cad") -> LicenseCode:
    return read_code(make_code(KEY, feature=feature, count=count), [KEY.public])


def diff(*files: Path, as_json: bool = False) -> str:
    options = ["--json"] if as_json else []
    result = CliRunner().invoke(cli, ["license", "diff", *map(str, files), *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_two_files_are_compared_by_their_codes(tmp_path: Path) -> None:
    both, gone, new, moved = a_code(9), a_code(8), a_code(7, "cam"), a_code(6)
    elsewhere = replace(moved, distribution=parse_distribution("alpha:6"))
    old_file, new_file = tmp_path / "old.lic", tmp_path / "new.lic"
    old_file.write_text(write_license_file("acme", 1, [both, gone, moved]))
    new_file.write_text(write_license_file("acme", 2, [elsewhere, new, both]))
    (rows,) = json.loads(diff(old_file, new_file, as_json=True))["differences"]
    assert {(r["only_in"], r["id"], r["count"], r["distribution"]) for r in rows} == {
        (str(old_file), gone.id, 8, None),
        (str(old_file), moved.id, 6, None),
        (str(new_file), moved.id, 6, "alpha:6"),
        (str(new_file), new.id, 7, None),
    }
    shown = diff(old_file, new_file)
    assert f"{old_file}: number 1, 3 codes, for pool acme" in shown
    assert shown.count(moved.id) == 2
    assert both.id not in shown


def test_files_of_the_same_codes_do_not_differ(tmp_path: Path) -> None:
    path = tmp_path / "a.lic"
    path.write_text(write_license_file(None, 1, [a_code(9)]))
    assert "the codes are the same" in diff(path, path)
    result = CliRunner().invoke(cli, ["license", "diff", *([str(path)] * 3)])
    assert result.exit_code == 2


class Keeper:
    """Notes what it is told to read."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def reread(self, keys: object = None) -> None:
        self.told.append(keys)


def test_sighup_reads_the_keys_and_has_the_license_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_keys(tmp_path)
    path = tmp_path / "vendor.pub"
    settings: Any = SimpleNamespace(vendor_keys=(path, tmp_path / "later.pub"))
    keeper = Keeper()
    with caplog.at_level(logging.WARNING):
        reread(settings, cast(Any, keeper))
        assert len(keeper.told[0]) == 1
        assert "later.pub does not exist yet" in caplog.text
        path.write_text("no key")
        reread(settings, cast(Any, keeper))
    assert keeper.told[1] is None  # Those of before stay.
    assert "the vendor keys of before stay" in caplog.text
