"""How one simulated client behaves.

May import the testing room's clock.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from licraft.testing.chance import waiting_s
from licraft.testing.clock import ManualClock


@dataclass(slots=True)
class Habits:
    """How one client behaves.

    It holds up to `seats` authorizations at once. One that is `patient` waits as long as ever
    when nobody renewed them; one that `renames` asks each server under another id. The other
    fields are explained in `plan`.
    """

    clock: ManualClock
    heartbeat_part: float
    stay_s: float
    pause_s: float
    greed: int
    revives: bool
    loyal: bool
    wanders: float = 0.0
    hedges: float = 0.0
    naps: float = 0.0
    timeout_s: float = 1.0
    seats: int = 1
    patient: bool = True
    renames: bool = False
    tallies: Counter[str] = field(default_factory=Counter)
    tell: Callable[[str, str], None] = lambda who, what: None
    forges: float = 0.0
    reuses: float = 0.0
    burst_s: float = 0.0
    begin_s: float = 0.0
    _begun: bool = False

    def behave(self) -> None:
        """Be as the client module is from now on: awake, early, and asking again soon."""
        self.heartbeat_part = min(self.heartbeat_part, 1 / 3)
        self.naps = 0.0
        self.patient = False

    def until_next_s(self, rng: random.Random) -> float:
        """How long until its user wants seats: by chance, or with all others at once."""
        first, self._begun = not self._begun, True
        if first:
            return rng.uniform(0.0, self.begin_s or self.pause_s)
        if self.burst_s:
            return self.burst_s - self.clock.true_s() % self.burst_s + rng.uniform(0.0, 1.0)
        return waiting_s(rng, self.pause_s)
