"""Looks at every simulated engine for what Raft promises never happens.

May import `errors` and the roll. It sees what each server appends, says and applies, and what its
proposers are told, at the moment at which it happens. The properties are those of figure 3
of the Raft paper (election safety, leader append-only, log matching, leader completeness,
state machine safety), that majorities always meet while members change, and the promises
of the engine's `propose`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from licraft.errors import NotExecuted
from licraft.testing.engine_roll import NOBODY, Roll

Entry: TypeAlias = tuple[bytes, int, int]
"""Type byte and command, index, term; as the journal holds it."""

NO_COMMAND = b"\x01"


class SafetyBroken(AssertionError):
    """Something happened that must never happen; the message says what."""


class Applied(NamedTuple):
    """What is committed at one log index, and the digest of all commands up to it.

    `known_in` is the term of the server that applied it first: it was committed in that
    term or an earlier one, which need not be the entry's own (Raft, figure 8).
    """

    content: bytes
    term: int
    digest: bytes
    known_in: int


class Leadership(NamedTuple):
    """A server that believes that it leads, and by whom it counts."""

    server: str
    term: int
    voters: frozenset[str]


def chain(digest: bytes, index: int, command: bytes) -> bytes:
    """The digest of a history that goes on with a command."""
    return hashlib.sha256(b"%b%d:%b" % (digest, index, command)).digest()


class Checker:
    """What has been seen so far; every method raises SafetyBroken if it contradicts that."""

    def __init__(self) -> None:
        self.history: list[Applied] = [Applied(b"", -1, b"", -1), Applied(NO_COMMAND, 0, b"", -1)]
        self.index_of: dict[bytes, int] = {}
        self.succeeded: dict[bytes, int] = {}
        self.never: set[bytes] = set()
        self.unknown = 0
        self.leaders: dict[int, str] = {}
        self.fault: SafetyBroken | None = None
        self.rolls: list[Roll] = [NOBODY]
        self._entries: dict[tuple[int, int], tuple[bytes, int | None]] = {}
        self._votes: dict[tuple[str, int], str] = {}
        self._terms: dict[str, int] = {}

    def broken(self, what: str) -> SafetyBroken:
        """The fault to raise; the first is kept, for PySyncObj may swallow what is raised."""
        fault = SafetyBroken(what)
        self.fault = self.fault or fault
        return fault

    # The log.

    def appended(self, server: str, entry: Entry, previous: Entry | None) -> None:
        """Log matching: an index and a term name one entry, and one entry before it."""
        content, index, term = entry
        before = None if previous is None else previous[2]
        known = self._entries.setdefault((index, term), (content, before))
        if known[0] != content:
            raise self.broken(f"{server}: two entries {index} of term {term}")
        if before is not None and known[1] != before:
            if known[1] is not None:
                raise self.broken(
                    f"{server}: entry {index} of term {term} follows terms {known[1]} and {before}"
                )
            self._entries[index, term] = (content, before)

    def truncated(self, server: str, entries: Iterable[Entry], log: Sequence[Entry]) -> None:
        """Nobody gives up what is committed: `entries` were cut from what is `log` now."""
        first = log[0][1]
        for _, index, term in entries:
            if index >= len(self.history) or self.history[index].term != term or index < first:
                continue
            if index > log[-1][1] or log[index - first][2] != term:
                raise self.broken(f"{server} cuts the committed entry {index} of term {term}")

    def applied(self, server: str, entry: Entry, current_term: int) -> None:
        """State machine safety: all apply the same at each index."""
        content, index, term = entry
        history = self.history
        if index > len(history):
            raise self.broken(f"{server} applies {index} after {len(history) - 1}")
        if index < len(history):
            known = history[index]
            if (known.content, known.term) != (content, term):
                raise self.broken(
                    f"{server} applies {content!r} of term {term} at {index}, "
                    f"where {known.content!r} of term {known.term} is"
                )
            return
        digest = history[-1].digest
        if content != NO_COMMAND:
            command = content[1:]
            digest = chain(digest, index, command)
            self._once(server, command, index)
        history.append(Applied(content, term, digest, current_term))

    def _once(self, server: str, command: bytes, index: int) -> None:
        """No command is there twice, nor one that was reported as never executed."""
        if command in self.never:
            raise self.broken(f"{server} applies {command!r}, reported as never executed")
        if command in self.index_of:
            raise self.broken(
                f"{server} applies {command!r} at {index} and {self.index_of[command]}"
            )
        self.index_of[command] = index

    def restored(self, server: str, index: int, digest: bytes) -> None:
        """A snapshot holds what all applied up to its index."""
        if index >= len(self.history) or self.history[index].digest != digest:
            raise self.broken(f"{server} restores another state than that of {index}")

    # Members.

    @property
    def roll(self) -> Roll:
        """Who takes part, by the newest change that any server has applied."""
        return self.rolls[-1]

    def follows(self, server: str, roll: Roll) -> None:
        """All have the same members since the same index."""
        if roll.index > self.roll.index:
            self.rolls.append(roll)
        elif roll not in self.rolls:
            raise self.broken(f"{server} has other members since {roll.index}: {roll}")

    def counts(self, server: str, term: int, voters: frozenset[str]) -> None:
        """Nobody is elected by a set of members that is two changes old.

        Then the majorities of all sets that are in use meet (Ongaro's thesis, 4.1).
        """
        earlier = (r for r in reversed(self.rolls) if self.history[r.index].known_in < term)
        newest = next(earlier, NOBODY)
        if newest.index and len(voters ^ frozenset(newest.voters)) > 1:
            raise self.broken(
                f"{server} leads term {term} by {sorted(voters)}, "
                f"where {sorted(newest.voters)} count since {newest.index}"
            )

    def majorities(self, leaders: Iterable[Leadership], terms: Mapping[str, int]) -> None:
        """Of two leaders the one of the earlier term has no majority left to commit with.

        `terms` are those of all servers, running or not.
        """
        *earlier, newest = sorted(leaders, key=lambda leader: leader.term)
        for leader in earlier:
            own = [v for v in leader.voters if terms.get(v, 0) <= leader.term]
            if leader.term < newest.term and 2 * len(own) > len(leader.voters):
                raise self.broken(f"two majorities: that of {leader} is {own}, beside {newest}")

    def replaced(self, server: str) -> None:
        """Another server of this name begins with an empty disk: it has promised nothing."""
        self._terms.pop(server, None)
        for key in [key for key in self._votes if key[0] == server]:
            del self._votes[key]

    # Elections.

    def leads(self, server: str, term: int, log: Sequence[Entry]) -> None:
        """Election safety and leader completeness: one leader a term, which has what counts."""
        known = self.leaders.get(term)
        if known == server:
            return
        if known is not None:
            raise self.broken(f"{server} and {known} lead term {term}")
        self.leaders[term] = server
        first, last = log[0][1], log[-1][1]
        # Only what was committed in an earlier term: one that was paused may be seen to lead
        # when later leaders have committed more.
        committed = len(self.history)
        while self.history[committed - 1].known_in >= term:
            committed -= 1
        if last < committed - 1:
            raise self.broken(
                f"{server} leads term {term} with {last} of {committed - 1} committed entries"
            )
        for _, index, entry_term in log[: max(0, committed - first)]:
            if self.history[index].term != entry_term:
                raise self.broken(f"{server} leads term {term} with another entry {index}")

    def said(self, server: str, peer: str, message: Mapping[str, Any]) -> None:
        """A message has left: its term and vote bind the server for ever."""
        kind = message["type"]
        if kind == "response_vote":
            self._vote(server, message["term"], peer)
        elif kind == "request_vote":
            self._vote(server, message["term"], server)
        term = message.get("term", 0)
        if term > self._terms.get(server, 0):
            self._terms[server] = term

    def _vote(self, server: str, term: int, candidate: str) -> None:
        """One vote a term, whatever happens in between."""
        known = self._votes.setdefault((server, term), candidate)
        if known != candidate:
            raise self.broken(f"{server} votes for {known} and {candidate} in term {term}")

    def started(self, server: str, term: int, vote: str | None) -> None:
        """A server that starts knows what it said before it ended."""
        said = self._terms.get(server, 0)
        if term < said:
            raise self.broken(f"{server} starts in term {term} and was in {said}")
        cast = self._votes.get((server, term))
        if cast is not None and vote != cast:
            raise self.broken(f"{server} starts with a vote for {vote}, and voted for {cast}")

    # Proposers.

    def success(self, server: str, command: bytes, index: object) -> None:
        """A proposer is told that its command took effect: it is there, at this index."""
        if self.index_of.get(command) != index:
            raise self.broken(
                f"{server} reports {command!r} at {index}; it is at {self.index_of.get(command)}"
            )
        self.succeeded[command] = self.index_of[command]

    def failure(self, server: str, command: bytes, fault: BaseException) -> None:
        """A proposer is told that its command had no effect, or that nobody knows."""
        if not isinstance(fault, NotExecuted):
            self.unknown += 1
            return
        if command in self.index_of:
            raise self.broken(f"{server} reports {command!r} as never executed: {fault}")
        self.never.add(command)

    def settled(self, states: Mapping[str, tuple[int, bytes]]) -> None:
        """In the end all have the same state, and it holds whatever was reported done."""
        end = len(self.history) - 1
        for server, (index, digest) in states.items():
            if (index, digest) != (end, self.history[end].digest):
                raise self.broken(f"{server} ends at {index} with another state than {end}")
        for command, index in self.succeeded.items():
            if self.history[index].content[1:] != command:
                raise self.broken(f"{command!r} was reported done and is not there")
