"""What an import tells while it works; the command line draws it. Knows no terminal."""

from contextlib import AbstractContextManager
from typing import Protocol

from rootstock.importing.remote import Moved


class Show(Protocol):
    """Where progress goes."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def transfer(self, label: str, total: int) -> AbstractContextManager[Moved]:
        """Something of `total` bytes is on its way for the length of the block."""
