"""The base model and the engine for one type of job at a time: adapters, adapters on four bits, all weights.

A process holds one copy of the base. Between jobs of different types it changes engine, and the copy where the type
needs another one. Knows nothing about jobs.
"""

import contextlib
import gc
import logging
from collections.abc import Callable
from typing import Any

import torch

from trainer.admission import engine_for
from trainer.base import Base
from trainer.full import FullEngine

log = logging.getLogger(__name__)


class Engines:
    """Use as a context manager; `load` loads the base, in four bits when told so."""

    def __init__(self, load: Callable[[bool], Base]) -> None:
        self._load = load
        self._open = contextlib.ExitStack()
        self.kind = ""
        self.base: Base = load(False)
        self.engine: Any = None
        self._quantised = False

    def __enter__(self) -> "Engines":
        self.use("lora")
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def use(self, kind: str) -> None:
        """Make `base` and `engine` those for jobs of this type. Raises `ConfigurationError` when there can be none."""
        if kind == self.kind:
            return
        self._open.close()
        self.kind, self.engine = "", None
        if self._quantised is not (kind == "qlora"):
            self._reload(kind == "qlora")
        maker = FullEngine(self.base) if kind == "full" else engine_for(self.base)
        self.engine = self._open.enter_context(maker)
        self.kind = kind
        log.info("trains %s on %s, type %s, engine %s", self.base.name, self.base.device, kind, self.engine.name)

    def _reload(self, quantised: bool) -> None:
        name, self._quantised = self.base.name, not quantised
        del self.base  # both at once would need the memory of both
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            self.base = self._load(quantised)
            self._quantised = quantised
        except Exception:
            log.warning("%s could not be loaded %s", name, "in four bits" if quantised else "again")
            self.base = self._load(not quantised)
            raise
