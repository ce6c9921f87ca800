"""All chance of a process from one seed: names, secrets, nonces, jitter.

May import the standard library. For simulations only: what it gives out is anything but
secret.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def seeded(seed: int | str) -> Iterator[None]:
    """Let `os.urandom`, `secrets`, `uuid4` and the functions of `random` follow from a seed."""
    source = random.Random(f"chance {seed}")
    before = random.getstate()
    random.seed(f"random {seed}")
    try:
        # `SystemRandom`, which `secrets` is made of, has its own name for it.
        with (
            patch("os.urandom", source.randbytes),
            patch("random._urandom", source.randbytes),
        ):
            yield
    finally:
        random.setstate(before)


def waiting_s(source: random.Random, mean_s: float) -> float:
    """A time until something happens that happens each `mean_s`, to the microsecond.

    Logarithms may differ in their last digit from machine to machine, and with them a whole run.
    """
    return round(source.expovariate(1.0 / mean_s), 6)
