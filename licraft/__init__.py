"""licraft: a floating-license server pool that never issues a seat too many.

Import `licraft.client` to use licenses from a program; `licraft.testing` to run
pools inside your own tests. This package module imports nothing.
"""

__version__ = "0.1.0"
