"""What programs embed: check out seats of a license server pool, and keep them.

May import msgspec, httpx, `licraft.errors` and `licraft.wire`; nothing of the
server, so that a program that embeds it loads no Raft, and cryptography only
if it gives a `vendor_key` to have its servers prove that their pool is licensed.

    with Client(["http://alpha:7700", "http://beta:7700"], token=...) as client:
        with client.checkout("cad", wait=10, on_lost=save_and_quit) as seat:
            ...  # seat.valid, seat.remaining, seat.server
"""

import logging

from licraft.client.aio import AsyncClient, AsyncSeat
from licraft.client.clock import Clock, boottime
from licraft.client.routes import server_urls
from licraft.client.tenure import SeatState
from licraft.client.threads import Client, Seat
from licraft.errors import (
    ClientError,
    Denied,
    InvalidRequest,
    LicenseError,
    LicraftError,
    LimitReached,
    NoSeatsAvailable,
    NotAuthorized,
    NotLicensed,
    NotProved,
    PoolUnavailable,
    SeatLost,
    UnknownFeature,
)

# What a library logs is for the program to show or not.
logging.getLogger("licraft").addHandler(logging.NullHandler())

__all__ = [
    "AsyncClient",
    "AsyncSeat",
    "Client",
    "ClientError",
    "Clock",
    "Denied",
    "InvalidRequest",
    "LicenseError",
    "LicraftError",
    "LimitReached",
    "NoSeatsAvailable",
    "NotAuthorized",
    "NotLicensed",
    "NotProved",
    "PoolUnavailable",
    "Seat",
    "SeatLost",
    "SeatState",
    "UnknownFeature",
    "boottime",
    "server_urls",
]
