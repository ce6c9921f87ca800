"""Times as text, for people and JSON. May import the standard library."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(wall_s: float) -> str:
    """Wall-clock seconds as `2026-11-21T12:00:00Z`."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
