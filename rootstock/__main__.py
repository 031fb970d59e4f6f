"""`python -m rootstock`, the same as the `rootstock` command."""

from rootstock.cli import main

if __name__ == "__main__":
    main()
