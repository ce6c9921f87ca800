"""Which parts of the model are searched whole, and what each removed rule has to bring to light.

May import the standard library. The names of switches are those of pool.pml and rules.pml; the
code and the mutation that belong to a rule are in README.rst.
"""

from __future__ import annotations

from dataclasses import dataclass

EVERYTHING = ("RENEWALS", "CRASHES", "LOSSES", "RELEASES", "HANDOVERS", "ADOPTIONS", "RETURNS")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the model: its size, what can happen in it, and how answers travel.

    `begun`: server 0 has all seats, and has granted them, to be sooner where something may go
    wrong. `deep`: the search needs more memory for the way back than others.
    """

    name: str
    servers: int = 2
    holders: int = 2
    seats: int = 1
    count: int = 1
    happens: tuple[str, ...] = EVERYTHING
    late_answers: bool = False
    begun: bool = False
    deep: bool = False

    def switches(self, without: str = "", *, named: bool = False) -> list[str]:
        """The definitions for spin; `named`: servers and holders keep their names in a trail."""
        sizes = {
            "SERVERS": self.servers,
            "HOLDERS": self.holders,
            "SEATS": self.seats,
            "COUNT": self.count,
        }
        switches = [f"-D{name}={size}" for name, size in sizes.items()]
        switches += [f"-DWITH_{event}" for event in self.happens]
        switches += ["-DLATE_ANSWERS"] * self.late_answers + ["-DBEGUN"] * self.begun
        if without:
            switches.append(f"-DWITHOUT_{without}")
        return switches if named else [*switches, "-DSYMMETRIC"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the protocol, and the part in which its removal is noticed.

    `harmless` if its removal is not noticed anywhere in that part: others stand behind it.
    """

    name: str
    says: str
    part: Part
    harmless: bool = False

    @property
    def switch(self) -> str:
        """What follows `-DWITHOUT_`."""
        return self.name.upper().replace("-", "_")


TWO = Part("two servers")
LATE = Part("late answers", late_answers=True)
THREE = Part(
    "three servers",
    servers=3,
    happens=("RENEWALS", "CRASHES", "ADOPTIONS", "RETURNS"),
    deep=True,
)

SEATS = Part(
    "three servers, three seats",
    servers=3,
    seats=3,
    count=2,
    happens=("RENEWALS", "CRASHES", "ADOPTIONS", "RETURNS"),
    deep=True,
)
MOVES = Part(
    "three holders of two seats",
    holders=3,
    seats=2,
    happens=("RENEWALS", "HANDOVERS", "ADOPTIONS", "RETURNS"),
    deep=True,
)

_BEGUN = Part("two servers, granted", begun=True)
_BEGUN_LATE = Part("late answers, granted", late_answers=True, begun=True)
_CROWD = Part(
    "three holders, granted", holders=3, happens=("RENEWALS", "ADOPTIONS", "RETURNS"), begun=True
)
_TWICE = Part(
    "three holders of two seats, granted",
    holders=3,
    seats=2,
    happens=("ADOPTIONS",),
    begun=True,
)
_TO_AND_FRO = Part(
    "three holders, handovers, granted", holders=3, seats=2, happens=("HANDOVERS",), begun=True
)
_OLD_TOKEN = Part(
    "three of each but seats, granted",
    servers=3,
    holders=3,
    seats=2,
    happens=("HANDOVERS", "ADOPTIONS"),
    begun=True,
)
_LONG = Part(
    "two servers, adoptions, granted", happens=("RENEWALS", "ADOPTIONS", "RETURNS"), begun=True
)

RULES = (
    Rule("lease-check", "a server acts only while its lease runs, seen when it acts", _BEGUN),
    Rule("lease-from-proposal", "a lease runs from when its renewal was proposed", _BEGUN),
    Rule("renewal-refused", "renewals of a server that is down have no effect", _BEGUN),
    Rule("down-after-lease", "a server is called down when its lease is over", _BEGUN),
    Rule("down-names-renewal", "ServerDown names the renewal that was waited on", _BEGUN),
    Rule("reclaim-after-ttl", "Reclaim waits a ttl after the down", _BEGUN),
    Rule("reclaim-names-down", "Reclaim names the down that was waited on", _BEGUN),
    Rule("earlier-void", "commands of an earlier incarnation have no effect", _BEGUN),
    Rule("confirmation", "only a holder who confirms the down is adopted", _CROWD),
    Rule("still-valid", "a holder confirms only if valid when it is asked", _CROWD),
    Rule("adopt-names-down", "Adopt names the down that was confirmed", _CROWD),
    Rule("adopted-once", "what has moved away is not adopted again", _TWICE),
    Rule("not-reclaimed", "nothing is adopted from who is reclaimed", TWO, harmless=True),
    Rule("drop-adopted", "a server that returns drops what was adopted", _LONG),
    Rule("drop-reclaimed", "a server that returns drops all if it was reclaimed", _BEGUN),
    Rule("recovery", "a server that lost its record waits a ttl", _BEGUN),
    Rule("recovery-confirmed", "a recovering server has holders confirm, too", _BEGUN),
    Rule("record-trusted", "a record from before the recovery was over is no record", _BEGUN),
    Rule("moves-seen", "a record that misses a move is not believed", _BEGUN),
    Rule("set-aside", "a seat is set aside before its release is proposed", _BEGUN),
    Rule("release-once", "a command that is committed twice counts once", _BEGUN),
    Rule("count-from-sent", "a holder counts from when it sent the request", _BEGUN_LATE),
    Rule("expiry-after-holder", "a server keeps a seat no shorter than its holder", _BEGUN),
    Rule("leaving-counts", "what is being handed over is in use until it has moved", _BEGUN),
    Rule("leaving-not-renewed", "what is being handed over is not renewed", _BEGUN),
    Rule("leaving-stays", "what is being handed over does not expire", _BEGUN),
    Rule("record-before-seats", "a moved authorization is there before its seats", _BEGUN),
    Rule("arrival-renews", "what moves to where its id is on record counts anew", _TO_AND_FRO),
    Rule("gone-not-granted", "an id that has moved away is not granted anew", _BEGUN),
    Rule("forget-after-ttl", "where an id has gone is forgotten after a ttl", _OLD_TOKEN),
    Rule("forget-spares-down", "nothing is forgotten of a server that may return", _LONG),
)
