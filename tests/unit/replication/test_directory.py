"""What a server knows of the others, by whose word, and where it looks for them."""

from __future__ import annotations

import pytest

from licraft.errors import SettingsError
from licraft.replication.directory import MAX_NAMES, Directory
from licraft.replication.engine import Members

CONFIGURED = {"alpha": "h:1", "beta": "h:2", "gamma": "h:3"}


def directory() -> Directory:
    return Directory("beta", CONFIGURED)


def test_first_the_configuration_counts() -> None:
    found = directory()
    assert (found.index, set(found.others)) == (0, {"alpha", "gamma"})
    with pytest.raises(SettingsError):
        Directory("beta", {"beta": "nowhere"})


def test_the_log_counts_more_and_learners_are_servers_too() -> None:
    found = directory()
    assert found.apply(Members(7, {"alpha": "h:1", "beta": "h:2"}, {"delta": "h:4"}))
    assert (found.index, set(found.others)) == (7, {"alpha", "delta"})
    assert not found.apply(Members(7, {"alpha": "h:1"}, {}))
    assert found.others == {"alpha", "delta"}


def test_the_newest_word_counts_whoever_says_it() -> None:
    found = directory()
    assert found.hear(9, [("beta", "h:2"), ("delta", "h:4")])
    assert not found.hear(8, [("beta", "h:2"), ("zeta", "h:6")])
    assert not found.apply(Members(7, {"alpha": "h:1", "beta": "h:2"}, {}))
    assert found.others == {"delta"}
    assert found.apply(Members(10, {"alpha": "h:1", "beta": "h:2"}, {}))
    assert found.others == {"alpha"}


def test_a_word_of_servers_without_this_one_is_not_followed() -> None:
    found = directory()
    assert not found.hear(9, [("alpha", "h:1"), ("delta", "h:4")])
    assert found.others == {"alpha", "gamma"}


@pytest.mark.parametrize(
    "entries",
    [
        [("beta", "h:2"), ("delta", "nowhere")],
        [("beta", "h:2"), *((f"s{n}", "h:9") for n in range(MAX_NAMES))],
    ],
)
def test_a_malformed_word_is_refused(entries: list[tuple[str, str]]) -> None:
    found = directory()
    with pytest.raises(ValueError, match=r"servers|host:port"):
        found.hear(9, entries)
    assert found.others == {"alpha", "gamma"}


def test_where_the_log_and_the_configuration_differ_both_are_tried() -> None:
    found = directory()
    found.apply(Members(7, {"alpha": "h:11", "beta": "h:2", "delta": "h:4"}, {}))
    tried = []
    for _ in range(3):
        tried.append(found.address("alpha"))
        found.failed("alpha")
    assert tried == ["h:11", "h:1", "h:11"]
    found.failed("delta")
    assert found.address("delta") == "h:4"
    assert found.address("gamma") is None
