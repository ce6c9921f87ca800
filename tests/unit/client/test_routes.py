"""Addresses, and the order in which servers are tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.client.routes import (
    MAX_FAILED,
    MAX_SERVERS,
    MAX_VERSION,
    SUSPECT_S,
    Routes,
    server_url,
    server_urls,
)
from licraft.errors import InvalidRequest
from licraft.wire import ServerEntry, ServerList

A, B, C, D = (f"http://{name}:7700" for name in "abcd")


def servers(version: int, *urls: str) -> ServerList:
    entries = [ServerEntry(f"s{i}", url, "follower", "up") for i, url in enumerate(urls)]
    return ServerList(version, entries)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://alpha:7700", "http://alpha:7700"),
        ("HTTPS://Alpha:7700/", "https://alpha:7700"),
        ("http://[::1]:7700", "http://[::1]:7700"),
        ("http://alpha", "http://alpha"),
    ],
)
def test_urls(text: str, url: str) -> None:
    assert server_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alpha:7700",
        "ftp://alpha",
        "http://",
        "http://alpha:7700/v1",
        "http://alpha:7700?x",
        "http://alpha:7700#x",
        "http://ann:pw@alpha:7700",
        "http://alpha:77000",
        "http://alpha:0",
        "http://alpha:x",
        "http://al pha",
        "http://alpha\r\nhost: x",
        "http://alph\u00e4:7700",
        "http://[::1",
        "http://" + "a" * 600,
    ],
)
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(InvalidRequest):
        server_url(text)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        url = server_url(text)
    except InvalidRequest:
        return
    assert server_url(url) == url


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a:7700, https://b:7701", ("http://a:7700", "https://b:7701")),
        ("7700@a", ("http://a:7700",)),
        ("7700@a:7701@b:7702@c", ("http://a:7700", "http://b:7701", "http://c:7702")),
        ("7700@a,7701@b;7702@c", ("http://a:7700", "http://b:7701", "http://c:7702")),
        ("7700@[::1]:7701@10.0.0.1", ("http://[::1]:7700", "http://10.0.0.1:7701")),
        ("http://a:1,7700@b", ("http://a:1", "http://b:7700")),
        ("7700@a,,7700@a,", ("http://a:7700",)),
    ],
)
def test_the_environment_s_forms(text: str, urls: tuple[str, ...]) -> None:
    assert server_urls(text) == urls


@pytest.mark.parametrize("text", ["", " , ", "alpha", "a@7700", "7700@a:b", "7700@a@b", "99999@a"])
def test_what_the_environment_may_not_say(text: str) -> None:
    with pytest.raises(InvalidRequest):
        server_urls(text)


def test_too_many_servers_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="17 servers"):
        Routes([f"http://s{i}:1" for i in range(MAX_SERVERS + 1)])


def test_one_text_is_no_list() -> None:
    with pytest.raises(InvalidRequest, match="list"):
        Routes("http://alpha:7700")


def test_the_given_order_until_a_list_is_known() -> None:
    assert Routes([A, B, C]).order(0) == (A, B, C)


def test_the_list_comes_first_and_the_given_urls_stay() -> None:
    routes = Routes([A, B])
    assert routes.adopt(servers(3, C, B))
    assert routes.order(0) == (C, B, A)
    routes.prefer(B)
    assert routes.order(0) == (B, C, A)
    assert routes.order(0, home=A) == (A, C, B)


def test_only_a_newer_list_is_adopted() -> None:
    routes = Routes([A])
    assert routes.adopt(servers(3, B))
    assert not routes.adopt(servers(3, C))
    assert not routes.adopt(servers(2, C))
    assert not routes.adopt(None)
    assert routes.version == 3
    assert routes.order(0) == (B, A)


def test_entries_that_are_no_servers_are_left_out() -> None:
    routes = Routes([A])
    assert routes.adopt(servers(1, "file:///etc/passwd", B))
    assert routes.order(0) == (B, A)
    assert not routes.adopt(servers(2, "nonsense"))
    assert not routes.adopt(servers(2, *(f"http://s{i}:1" for i in range(MAX_SERVERS + 1))))
    assert routes.version == 1


def test_a_list_without_servers_or_with_an_endless_version_changes_nothing() -> None:
    routes = Routes([A])
    assert not routes.adopt(servers(1))
    assert not routes.adopt(servers(MAX_VERSION + 1, B))
    assert not routes.adopt(servers(-1, B))
    assert (routes.version, routes.order(0)) == (0, (A,))
    assert routes.adopt(servers(MAX_VERSION, B))


@given(
    st.lists(
        st.tuples(
            st.integers(-5, 5),
            st.lists(st.tuples(st.text(max_size=5), st.sampled_from([A, B, C, "x"]), st.text())),
        )
    )
)
def test_whatever_lists_come_the_given_servers_stay_and_the_rest_is_bounded(
    lists: list[tuple[int, list[tuple[str, str, str]]]],
) -> None:
    routes = Routes([D])
    newest = 0
    for version, entries in lists:
        found = [ServerEntry(name, url, text, text) for name, url, text in entries]
        adopted = routes.adopt(ServerList(version, found))
        assert not adopted or version > newest
        newest = max(newest, version) if adopted else newest
        assert routes.version == newest
        assert D in routes.order(0)
        assert set(routes.order(0)) <= {A, B, C, D}


def test_a_list_does_not_lead_from_https_to_http() -> None:
    routes = Routes(["https://a:7700"])
    assert routes.adopt(servers(1, B, "https://c:7700"))
    assert routes.order(0) == ("https://c:7700", "https://a:7700")


def test_who_was_of_no_use_goes_to_the_end_for_a_while() -> None:
    routes = Routes([A, B, C])
    routes.failed(A, now=10)
    assert routes.order(10) == (B, C, A)
    assert routes.order(10, home=A) == (B, C, A)
    assert routes.order(10, home=A, trust_home=True) == (A, B, C)
    assert routes.order(10 + SUSPECT_S) == (A, B, C)
    assert routes.order(10 + SUSPECT_S, suspect_s=2 * SUSPECT_S) == (B, C, A)
    routes.failed(A, now=20)
    routes.answered(A)
    assert routes.order(20) == (A, B, C)


def test_if_all_were_of_no_use_each_has_its_turn() -> None:
    routes = Routes([A, B, C])
    asked = []
    for now in range(6):
        asked.append(routes.order(now, home=A)[0])
        routes.failed(asked[-1], now)
    assert asked == [A, B, C, A, B, C]


def test_a_home_that_left_the_list_is_remembered_too() -> None:
    routes = Routes([A])
    routes.adopt(servers(1, B))
    routes.failed(D, now=10)
    assert routes.order(10, home=D) == (B, A, D)


def test_what_is_remembered_of_servers_is_bounded() -> None:
    routes = Routes([A])
    for number in range(10 * MAX_FAILED):
        routes.failed(f"http://s{number}:1", now=number)
    assert len(routes._failed_at) == MAX_FAILED


def test_a_list_that_arrives_on_the_way_is_walked_too() -> None:
    routes = Routes([A, B])
    seen = []
    for url in routes.walk(lambda: 0.0):
        seen.append(url)
        if url == A:
            routes.adopt(servers(1, C, B))
    assert seen == [A, C, B]


def test_a_pool_whose_servers_were_all_replaced_is_found_by_the_given_urls() -> None:
    routes = Routes([A])
    routes.adopt(servers(7, B, C))
    routes.prefer(B)
    seen = []
    for url in routes.walk(lambda: 0.0):
        seen.append(url)
        if url == D:
            break
        routes.failed(url, 0.0)
        if url == A:  # the name leads to one of the new servers
            routes.adopt(servers(8, D))
    assert seen == [B, C, A, D]
    assert routes.order(0) == (D, A)


def test_a_walk_ends_whatever_lists_arrive() -> None:
    routes = Routes([A])
    seen = []
    for version, url in enumerate(routes.walk(lambda: 0.0), start=1):
        seen.append(url)
        routes.adopt(servers(version, f"http://s{version}:1"))
    assert len(seen) == 2 * MAX_SERVERS
