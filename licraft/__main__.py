"""`python -m licraft` is the `licraft` command."""

from licraft.cli.main import main

if __name__ == "__main__":
    main()
