"""What the commands of several modules share: options, examples in their help, settings. Knows no command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rootstock.settings import Settings

Url = Annotated[str | None, typer.Option(help="Base URL of the Rootstock.", show_default="the one on this machine")]
Key = Annotated[str | None, typer.Option(help="Key for it.", show_default="DATA_DIR/api-key, on this machine")]
DataDir = Annotated[Path | None, typer.Option(help="Folder for everything kept locally.", show_default=False)]


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  $ {line}" for line in lines)  # \b: click keeps the lines apart


def settings_with(**options: Any) -> "Settings":
    """The settings of the environment; options that were given win."""
    from rootstock.settings import Settings

    return Settings.from_env(**{name: value for name, value in options.items() if value is not None})
