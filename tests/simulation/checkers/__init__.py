"""What must never happen in a simulated pool: one promise in each file.

A checker is shown every entry that any server applies, at that moment, and says in words what
is broken, if something is. What has to happen in the end is for `settling`.
"""

from __future__ import annotations

from simulation.checkers.all import Checker

__all__ = ["Checker"]
