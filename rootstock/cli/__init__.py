"""The command line: `rootstock up`, `config`, `keys`, `version`. Starts processes by name, imports none."""


def main() -> None:
    """Entry point of the `rootstock` command."""
    from rootstock.cli.app import run

    run()
