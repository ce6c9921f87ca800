"""`python -m tests.model`: see `suite`."""

from __future__ import annotations

import sys
from pathlib import Path

# As pytest has it: `model` is a package of its own.
sys.path.insert(0, str(Path(__file__).parents[1]))

from model.suite import main

if __name__ == "__main__":
    main()
