"""What one license server is told.

May import the core and the vendor room's key type. Made from the settings by
`lifecycle`, or by hand in tests and embedding programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from licraft.core.commands import Member
from licraft.vendor.keys import VendorPublicKey


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What one license server is told; times in seconds, `members` in priority order.

    The pool's timings are those of the server that formed it; `tick_s` is how often
    this server looks at its clock.
    """

    pool: str
    server: str
    members: tuple[Member, ...]
    data_dir: Path
    lease_s: float = 3.0
    ttl_s: float = 60.0
    drift: float = 0.01
    threshold: float = 0.8
    vendor_keys: tuple[VendorPublicKey, ...] = ()
    license_file: Path | None = None
    leader_handback: bool = True
    expiry_grace_s: float = 0.0
    tick_s: float = 0.05
