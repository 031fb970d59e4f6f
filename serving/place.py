"""The adapters of this vLLM process: one cache, which its resolver fills and its door guards. Knows no vLLM."""

import functools
import threading
from pathlib import Path

from rootstock.settings import Settings
from rootstock.storage import open_store
from serving.base import ServedBase, locate
from serving.cache import AdapterCache

GIB = 1024**3


class Place:
    """Opened at the first question: most of vLLM's processes never ask."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._opening = threading.Lock()
        self._cache: AdapterCache | None = None

    def opened(self) -> AdapterCache | None:
        """The cache if it was opened already."""
        return self._cache

    def cache(self, base: str | None = None) -> AdapterCache:
        """The cache; `base` is where vLLM has its model from. Takes a while the first time: the base is read.

        Raises `ConfigurationError` when the base cannot be read.
        """
        settings = self.settings
        with self._opening:
            if self._cache is None:
                folder: Path = locate(base or settings.base_model)
                served = ServedBase.read(folder, name=settings.base_name, max_rank=settings.max_lora_rank)
                self._cache = AdapterCache(
                    open_store(settings),
                    settings.effective_adapter_cache_dir,
                    served,
                    limit=int(settings.adapter_cache_gib * GIB),
                    known=settings.max_cpu_loras,
                )
        return self._cache


@functools.cache
def of_this_process() -> Place:
    """The one place of this process, by its environment."""
    return Place(Settings.from_env())
