"""`python -m tests.simulation`: see `suite`."""

from __future__ import annotations

import sys
from pathlib import Path

# As pytest has it: `support` and `simulation` are packages of their own.
sys.path.insert(0, str(Path(__file__).parents[1]))

from simulation.suite import main

if __name__ == "__main__":
    main()
