"""The copy of the license file: whole or not at all, with the one before it beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from licraft.server import license_copy
from licraft.server.license_copy import read_text, replace_text
from licraft.wire import MAX_LICENSE_BYTES


def test_the_file_before_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "license.yaml"
    for number in range(4):
        replace_text(path, f"sequence: {number}\r\n")
        assert read_text(path) == f"sequence: {number}\r\n"
    replace_text(path, "sequence: 3\r\n")  # The same: nothing changes.
    assert read_text(tmp_path / "license.previous") == "sequence: 2\r\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["license.previous", "license.yaml"]


def test_a_failure_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "license.yaml"
    replace_text(path, "one")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(license_copy, "replace_file", fail)
    with pytest.raises(OSError, match="No space"):
        replace_text(path, "two")
    assert read_text(path) == "one"
    monkeypatch.undo()
    replace_text(path, "two")
    assert read_text(path) == "two"


def test_what_cannot_be_read_is_returned(tmp_path: Path) -> None:
    assert isinstance(read_text(tmp_path / "none"), FileNotFoundError)
    assert isinstance(read_text(tmp_path), IsADirectoryError)
    (tmp_path / "odd").write_bytes(b"\xff\xfe")
    assert isinstance(read_text(tmp_path / "odd"), UnicodeDecodeError)
    (tmp_path / "huge").write_bytes(b"a" * (MAX_LICENSE_BYTES + 9))
    huge = read_text(tmp_path / "huge")
    assert isinstance(huge, str)
    assert len(huge) == MAX_LICENSE_BYTES + 1  # Enough to see that it is too large.
