"""The report of a run is one file that shows what happened, and reads what was kept."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from chaos.account import Span, account
from chaos.chart import LEFT, PLOT, Scale, family
from chaos.histories import SERVERS, fault, held, quiet
from chaos.history import AnyEntry, Count, Denied, Keeper, Order, Seen, Stalled, read
from chaos.nemesis import IN_WORDS
from chaos.page import page

OUTSIDE = ("src", "data", "srcset", "xlink:href", "action", "background")


class Outline(HTMLParser):
    """What a browser would open, close and fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert name not in OUTSIDE, f"{tag} {name}"
            if name == "href":
                self.links.append(value or "")
            if name == "id":
                self.ids.add(value or "")


def eventful() -> list[AnyEntry]:
    return [
        *fault(1, "kill", 100.0, 110.0, "beta"),
        *fault(2, "cut-peers-out", 300.0, 320.0, "gamma"),
        *fault(3, "clock", 310.0, 330.0),
        Seen(100.1, "beta", "down"),
        Seen(112.0, "beta", "serving"),
        Count(200.0, "cad", 1, 2),
        Denied(205.0, "cad", "no_seats"),
        Denied(206.0, "cad", "unavailable"),
        Order(209.0, 210.0, "alpha", "drain <beta> & co", "no_quorum"),
        Stalled(400.0, 1.5, "visitors"),
    ]


def test_a_page_shows_what_happened_and_needs_nothing_else() -> None:
    history = quiet(*eventful())
    text = page(history, account(history))
    outline = Outline()
    outline.feed(text)
    assert "script" not in outline.tags
    assert "link" not in outline.tags
    assert "url(" not in text
    assert "http" not in text
    assert outline.links
    assert all(link.startswith("#") and link[1:] in outline.ids for link in outline.links)
    for word in (*SERVERS, "cad", "No violation was found", "cut-peers-out", "1 denied: no_seats"):
        assert word in text
    assert "drain &lt;beta&gt; &amp; co: no_quorum" in text
    assert text == page(history, account(history))


def test_a_violation_is_marked_where_it_happened() -> None:
    history = quiet(*eventful(), held(253.0, 255.0, 2))
    text = page(history, account(history))
    assert "a promise was broken" in text
    assert "Broken: over-issue." in text
    # In the overview, and in the strip of its time.
    assert text.count('class="violation"') == 2
    assert '<a href="#strip1">4:13</a>' in text


def test_a_run_that_was_cut_short_says_so() -> None:
    history = quiet()
    killed = type(history)(history.began, history.entries[:-1])
    text = page(killed, account(killed))
    assert "The run did not play to its end: the run was killed." in text


def test_every_kind_of_fault_has_a_colour() -> None:
    assert {family(kind) for kind in IN_WORDS if not kind.startswith(("cut", "minority"))} == {
        "kill",
        "stop",
        "disk",
        "clock",
    }


def test_the_highest_value_within_a_pixel_is_drawn() -> None:
    scale = Scale(Span(0.0, PLOT * 1.0), 0.0)
    peaks = scale.peaks([(10.2, 5), (10.3, 90), (10.4, 5), (12.5, 0)])
    assert peaks[9:14] == [0, 90, 5, 5, 0]
    assert scale.x(10.0) == LEFT + 10
    assert scale.line([(10.0, 3)], 100.0, 1.0) == f"M{LEFT} 100.0H102.0V97.0H{LEFT + PLOT}"


def test_what_is_kept_is_read_again_but_for_a_line_that_was_cut(tmp_path: Path) -> None:
    history = quiet(*eventful())
    for name, entries in (("a.jsonl", history.entries[::2]), ("b.jsonl", history.entries[1::2])):
        keeper = Keeper(tmp_path / name)
        for entry in entries:
            keeper.note(entry)
        keeper.close()
    with (tmp_path / "b.jsonl").open("ab") as file:
        file.write(b'{"is":"seen","at_s":1')
    again = read(tmp_path)
    assert sorted(map(repr, again.entries)) == sorted(map(repr, history.entries))
    assert page(again, account(again)).count("<rect") == page(history, account(history)).count(
        "<rect"
    )


def test_a_history_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 runs began"):
        read(tmp_path)
