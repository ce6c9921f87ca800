"""How often a client asks, and how long it waits for an answer: what bounds its load.

May import the standard library only. Reads no clock and rolls no dice: times and chances
are arguments. What it keeps a pool from:

*Stampedes.* Heartbeats are a little early, the first after a checkout or a move up to
half an interval, and every retry is a third earlier or later. So clients that began
together, or were left alone together, do not stay together.

*Refused requests that come again at once.* A try that finds nobody asks three servers that
take the request, each further try one; tries are 0.5 to 1 s apart at first, then longer and
longer, up to ttl/10 and 6 s. So a client that gets 429 or 503 from everyone sends, for the
seats that it holds at one server (500 in a request), three requests at once, then one at
a time, never less than 0.5 s (or ttl/15 if that is less) apart, and in the long run at
most 15 in each ttl. A server that is not there gets no request, and is not counted.

*Work that is done in vain.* A server that stands still cannot be told from one that is
slow. While answers come quickly (within a third of a second) the next one is asked
after 1 s, early enough for its clients to be served elsewhere within `lease` + 2 s. But
if that one is silent too, both are more likely slow than dead, and what is asked of a third
makes them slower: it is asked after another ttl/4, and so on. Whoever was asked is
listened to all the while. And the time to wait follows how long answers take lately and
doubles with each that does not come, as TCP's does (RFC 6298): the clients of a slow pool
come to wait for it. So where nobody answers, a client sends at most twice what it usually
does; without all this a pool that stands still for ttl/4 at two thirds of its capacity is
buried under the questions whether it is still there, and loses every seat.
"""

from __future__ import annotations

HEARTBEAT_EARLY = 0.1
FIRST_HEARTBEAT_EARLY = 0.5
FIRST_RETRY_S = 0.75
RETRY_GROWTH = 1.5
MAX_RETRY_S = 6.0
FIRST_TRY_SERVERS = 3
MIN_PENDING_S = 0.25

QUICK_S, MIN_WAIT_S = 1.0, 0.25
TIMES_SLOWEST = 3.0


def heartbeat_delay(heartbeat_s: float, chance: float, early: float = HEARTBEAT_EARLY) -> float:
    """Seconds to the next heartbeat: up to `early` of the interval before it is over."""
    return heartbeat_s * (1.0 - early * chance)


def retry_delay(failures: int, ttl_s: float, chance: float) -> float:
    """Seconds to the next try after `failures` (from 1) tries: 0.5 to 1 at first, to ttl/10."""
    growing = FIRST_RETRY_S * RETRY_GROWTH ** min(failures - 1, 20)
    return min(growing, ttl_s / 10, MAX_RETRY_S) * (0.67 + 0.66 * chance)


def overload_delay(retry_s: float, told_s: float, ttl_s: float, chance: float) -> float:
    """Seconds to the next try after servers that are overloaded said to come in `told_s`."""
    return max(retry_s, min(told_s, ttl_s / 6) * (1.0 + 0.25 * chance))


def pending_delay(told_s: float, ttl_s: float, chance: float) -> float:
    """Seconds until who was told `pending` asks again: half of what was told to all of it."""
    return min(max(told_s * (0.5 + 0.5 * chance), MIN_PENDING_S), ttl_s / 4)


def servers_of_try(failures: int) -> int:
    """How many servers may get the request in a try that comes after `failures` others."""
    return 1 if failures else FIRST_TRY_SERVERS


class Patience:
    """How long to wait for an answer until another server is asked too.

    Learnt from the answers that came, and from those that did not.
    """

    def __init__(self) -> None:
        self._slowest_s = 0.0

    def at_home(self, ttl_s: float, remaining_s: float) -> float:
        """Seconds to wait for the server that has the seat.

        A quarter of the remaining validity is left for another server.
        """
        least_s = min(max(ttl_s / 12, MIN_WAIT_S), QUICK_S)
        return max(least_s, min(TIMES_SLOWEST * self._slowest_s, remaining_s * 3 / 4))

    def elsewhere(self, ttl_s: float, remaining_s: float) -> float:
        """Seconds to wait for another server before a third one is asked.

        It may first ask the one that has the seat, for half a lease, of at most ttl/4. And if
        two servers are silent, both are more likely slow than dead: no more work is made then.
        """
        patient_s = max(2 * self.at_home(ttl_s, remaining_s), ttl_s / 4)
        return min(patient_s, max(ttl_s / 8 + 0.5, remaining_s * 3 / 4))

    def answered(self, after_s: float) -> None:
        """The seat's own server has answered; what was slow before is forgotten by half."""
        self._slowest_s = max(after_s, self._slowest_s / 2)

    def unanswered(self, after_s: float) -> None:
        """No answer came within `after_s`: the next wait is twice as long."""
        self._slowest_s = max(self._slowest_s, 2 * after_s / TIMES_SLOWEST)
