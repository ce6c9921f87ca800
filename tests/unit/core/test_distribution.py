"""Distribution criteria: their text, the even split, and how new seats are deployed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.core.distribution import (
    MAX_SEATS,
    deploy,
    even_split,
    format_distribution,
    parse_distribution,
)

ABC = ("alpha", "beta", "gamma")


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("alpha:40", (("alpha", 40),)),
        ("alpha:40^beta:30^gamma:30", (("alpha", 40), ("beta", 30), ("gamma", 30))),
        ("beta:0^alpha:1", (("beta", 0), ("alpha", 1))),
        (" alpha:1 ^ beta:2 ", (("alpha", 1), ("beta", 2))),
        (f"alpha:{MAX_SEATS}", (("alpha", MAX_SEATS),)),
        ("alpha:007", (("alpha", 7),)),
        ("^".join(f"s{n}:1" for n in range(64)), tuple((f"s{n}", 1) for n in range(64))),
    ],
)
def test_reads(text: str, pairs: tuple[tuple[str, int], ...]) -> None:
    assert parse_distribution(text) == pairs


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not SERVER:SEATS"),
        ("alpha", "not SERVER:SEATS"),
        (":3", "not SERVER:SEATS"),
        ("alpha:1^", "not SERVER:SEATS"),
        ("alpha:", "seats for alpha"),
        ("alpha:-1", "seats for alpha"),
        ("alpha:1.5", "seats for alpha"),
        ("alpha:\u0663", "seats for alpha"),  # a digit elsewhere, not in this format
        (f"alpha:{MAX_SEATS + 1}", f"0 to {MAX_SEATS}"),
        ("alpha:1^alpha:2", "named twice"),
        ("alpha :1^alpha:2", "named twice"),
        (
            "alpha:" + "9" * 5_000,
            f"^'9{{64}}\\.\\.\\.' seats for alpha: expected 0 to {MAX_SEATS}$",
        ),
        ("a" * 65 + ":1", "^'a{64}\\.\\.\\.' is no server: a name has at most 64 letters$"),
        ("a" * 5_000, "^'a{64}\\.\\.\\.' is not SERVER:SEATS"),
        ("^".join(f"s{n}:1" for n in range(65)), "^65 servers are named; at most 64 can be$"),
        ("^" * 1_000_000, "^1000001 servers are named; at most 64 can be$"),
    ],
)
def test_refuses_and_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_distribution(text)


@given(
    st.dictionaries(
        st.text("abcdefghij-._0123456789", min_size=1, max_size=8),
        st.integers(0, MAX_SEATS),
        min_size=1,
    )
)
def test_text_and_back(seats: dict[str, int]) -> None:
    pairs = tuple(seats.items())
    assert parse_distribution(format_distribution(pairs)) == pairs


@pytest.mark.parametrize(
    ("seats", "servers", "shares"),
    [
        (100, ABC, [34, 33, 33]),
        (101, ABC, [34, 34, 33]),
        (99, ABC, [33, 33, 33]),
        (2, ABC, [1, 1, 0]),
        (0, ABC, [0, 0, 0]),
        (7, ("alpha",), [7]),
        (7, (), []),
    ],
)
def test_even_split(seats: int, servers: tuple[str, ...], shares: list[int]) -> None:
    assert even_split(seats, servers) == dict(zip(servers, shares, strict=True))


@pytest.mark.parametrize(
    ("seats", "allocations", "target", "given", "rest"),
    [
        (100, {}, None, {"alpha": 34, "beta": 33, "gamma": 33}, 0),
        (3, {"alpha": 50}, None, {"alpha": 1, "beta": 1, "gamma": 1}, 0),
        (100, {}, {"alpha": 40, "beta": 30}, {"alpha": 40, "beta": 30, "gamma": 0}, 30),
        (20, {"alpha": 35}, {"alpha": 40, "beta": 30}, {"alpha": 5, "beta": 15, "gamma": 0}, 0),
        (5, {"alpha": 60}, {"alpha": 40}, {"alpha": 0, "beta": 0, "gamma": 0}, 5),
        (5, {}, {"nobody": 5}, {"alpha": 0, "beta": 0, "gamma": 0}, 5),
    ],
)
def test_deploy_fills_up_to_the_target_or_splits_evenly(
    seats: int,
    allocations: dict[str, int],
    target: dict[str, int] | None,
    given: dict[str, int],
    rest: int,
) -> None:
    assert deploy(seats, allocations, target, ABC) == (given, rest)


def test_deploy_without_servers_leaves_all_free() -> None:
    assert deploy(9, {}, None, ()) == ({}, 9)
    assert deploy(9, {}, {"alpha": 9}, ()) == ({}, 9)


counts = st.dictionaries(st.sampled_from(ABC), st.integers(0, 50))


@given(st.integers(0, 200), counts, st.none() | counts, st.permutations(ABC))
def test_deploy_gives_out_exactly_what_there_is(
    seats: int, allocations: dict[str, int], target: dict[str, int] | None, servers: list[str]
) -> None:
    shares, rest = deploy(seats, allocations, target, servers)
    assert sum(shares.values()) + rest == seats
    assert min(rest, *shares.values()) >= 0
    if target is None:
        assert max(shares.values()) - min(shares.values()) <= 1
    else:
        for server, share in shares.items():
            assert not share or allocations.get(server, 0) + share <= target.get(server, 0)
