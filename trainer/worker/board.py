"""A job's numbers as TensorBoard event files, where the operator asked for them. Never waits for a disk, never raises.

Knows nothing about jobs' lives.
"""

import importlib.util
import logging
import queue
import threading
from pathlib import Path
from typing import Any

from rootstock.errors import ConfigurationError

log = logging.getLogger(__name__)


def check_available(folder: Path | None) -> None:
    """Raise `ConfigurationError` when event files are asked for and cannot be written here."""
    if folder is not None and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigurationError(
            "ROOTSTOCK_TENSORBOARD_DIR is set, but tensorboardX is not installed here. Install it or unset it."
        )


class Board:
    """Writes one folder of event files in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._steps: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, args=(folder,), name=f"board-{folder.name}", daemon=True)
        self._thread.start()

    def step(self, step: int, values: dict[str, float]) -> None:
        """Note the values of a step."""
        self._steps.put((step, values))

    def close(self) -> None:
        """No more will come. Waits a moment for what did."""
        self._steps.put(None)
        self._thread.join(10)

    def _write(self, folder: Path) -> None:
        writer: Any = None
        try:
            from tensorboardX import SummaryWriter

            writer = SummaryWriter(str(folder))
            while (noted := self._steps.get()) is not None:
                step, values = noted
                for name, value in values.items():
                    # `train_loss` and its like get a group of their own: `train/loss`.
                    split, _, rest = name.partition("_")
                    tag = f"{split}/{rest}" if rest and split in ("train", "valid") else name
                    writer.add_scalar(tag.replace("full_valid_", "full_valid/"), value, step)
        except Exception as error:  # a full disk must not reach the training
            log.warning("no more TensorBoard events in %s: %s", folder, error)
        finally:
            if writer is not None:
                try:
                    writer.close()
                except Exception as error:
                    log.warning("TensorBoard events in %s may lack their end: %s", folder, error)
