"""The texts that help pages share. Knows no command."""


def examples(*lines: str) -> str:
    """The end of a help page: the command, as it may be typed."""
    return "\b\nExamples:\n" + "\n".join(f"  $ {line}" for line in lines)  # \b: click keeps the lines apart
