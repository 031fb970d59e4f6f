"""Adapters on this machine's disk: fetched by id, verified, made visible by one rename, kept while vLLM may read them.

vLLM reads an adapter again after it has evicted it from memory, and its engine dies when the files are gone. So an
adapter that vLLM knows is held, and only one that it was made to forget, with no request under way, can be removed.
Knows nothing about vLLM's interfaces: `forgets` is told by whoever does.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path

from pydantic import ValidationError

from rootstock import adapters, ids, telemetry
from rootstock.adapters.manifest import MANIFEST, Kind, Manifest
from rootstock.errors import AdapterInvalid, ObjectNotFound, StoreError
from rootstock.storage import Store
from serving.base import ServedBase
from serving.shelf import Shelf, oldest, sync

log = logging.getLogger(__name__)

EPHEMERAL_SECONDS = 600.0
"""How long a version of a policy stays on disk; its training asked for it, and unloaded it, within seconds."""


class AdapterCache:
    """Adapters of one base model, by id, of one kind. Threads and processes may share a folder.

    `limit` bounds the folder in bytes (0: no bound); `known` is how many adapters vLLM keeps in memory, so that it need
    not know more. Example: `AdapterCache(open_store(settings), settings.effective_adapter_cache_dir, base).fetch(id)`.
    """

    def __init__(
        self, store: Store, folder: Path, base: ServedBase, kind: Kind = "lora", *, limit: int = 0, known: int = 32
    ) -> None:
        self._store = store
        self._base = base
        self._kind = kind
        self._known = known
        self.shelf = Shelf(folder, limit)
        self._mutex = threading.Lock()
        self._flights: dict[str, Future[Path]] = {}
        self._used: dict[str, float] = {}  # what this process holds, and when each was last used
        self._running: dict[str, int] = {}  # requests under way
        self.kept: Collection[str] = ()
        """Adapters that stay on disk and in memory although nobody asks for them."""

        self.forgets: Callable[[str], bool] | None = None
        """Makes vLLM forget an adapter with no request under way; whether it did. Without it all that is held stays."""

        self._ephemeral: dict[str, float] = {}  # when each was fetched
        for path in folder.iterdir():
            if ids.is_adapter_id(path.name) and _is_ephemeral(path):
                self._ephemeral[path.name] = time.monotonic()

    def begin(self, adapter_id: str) -> None:
        """A request for the adapter begins; what it needs stays until `end`."""
        with self._mutex:
            self._running[adapter_id] = self._running.get(adapter_id, 0) + 1
            if adapter_id in self._used:
                self._used[adapter_id] = time.monotonic()
        self.shelf.touch(adapter_id)

    def end(self, adapter_id: str) -> None:
        """A request that `begin` was told of is over."""
        with self._mutex:
            self._running[adapter_id] -= 1
            if not self._running[adapter_id]:
                del self._running[adapter_id]

    def running(self) -> dict[str, int]:
        """Requests under way, by adapter."""
        with self._mutex:
            return dict(self._running)

    def is_running(self, adapter_id: str) -> bool:
        """Whether a request for the adapter is under way."""
        return adapter_id in self._running

    def holds(self, adapter_id: str) -> bool:
        """Whether its files stay where they are, for as long as a request for it is under way at least."""
        return adapter_id in self._used

    def resident(self) -> list[str]:
        """The adapters that vLLM has in memory, the latest used first, as its own rule (the same) tells."""
        with self._mutex:
            return sorted(self._used, key=self._used.__getitem__, reverse=True)[: self._known]

    def fetch(self, adapter_id: str) -> Path:
        """The folder of a verified adapter, downloaded first if need be; concurrent calls share one download.

        It is held from now on. Raises `ObjectNotFound` for one that does not exist, `AdapterInvalid` for one that must
        not be served here, `StoreError` when the store is away.
        """
        if not ids.is_adapter_id(adapter_id):
            raise AdapterInvalid(f"{adapter_id[:80]!r} is not an adapter id.")
        with self._mutex:
            flight = self._flights.get(adapter_id)
            if flight is None:
                mine = self._flights[adapter_id] = Future()
        if flight is not None:
            return flight.result()
        try:
            mine.set_result(self._fetch(adapter_id))
        except BaseException as error:
            mine.set_exception(error)
        finally:
            with self._mutex:
                del self._flights[adapter_id]
        self._trim()
        return mine.result()

    def _fetch(self, adapter_id: str) -> Path:
        result = "error"
        held = adapter_id in self._used
        self.shelf.hold(adapter_id)
        try:
            path, result = self._verified(adapter_id)
            with self._mutex:
                self._used[adapter_id] = time.monotonic()
            held = True
            self.shelf.touch(adapter_id)
            return path
        except ObjectNotFound:
            result = "absent"
            raise
        except StoreError:
            result = "unavailable"
            raise
        except AdapterInvalid:
            result = "refused"
            raise
        finally:
            if not held:
                self.shelf.let_go(adapter_id)
            telemetry.ADAPTER_FETCHES.labels(result).inc()
            telemetry.ADAPTERS_RESIDENT.set(min(self._known, len(self._used)))

    def _verified(self, adapter_id: str) -> tuple[Path, str]:
        path = self.shelf.path(adapter_id)
        if path.exists():
            try:
                manifest = adapters.read_folder(path)
            except AdapterInvalid as damage:
                log.warning("a cached adapter is damaged and fetched again: %s", damage)
                return self._download(adapter_id, again=True), "healed"
            self._verify(path, manifest)
            return path, "cached"
        with telemetry.ADAPTER_FETCH_SECONDS.time():
            return self._download(adapter_id), "downloaded"

    def _download(self, adapter_id: str, *, again: bool = False) -> Path:
        # Asked first, so that a foreign base's gigabytes are not downloaded only to be refused.
        manifest = adapters.read_manifest(self._store, adapter_id)
        self._fits(manifest)
        size = sum(entry.bytes for entry in manifest.files.values())
        if not self.shelf.make_room(size, self._spare):
            log.warning(
                "the adapters in use do not fit into ROOTSTOCK_ADAPTER_CACHE_GIB; the disk holds more than that"
            )
        scratch = self.shelf.scratch(adapter_id)
        started = time.monotonic()
        try:
            manifest = adapters.fetch_tree(self._store, adapter_id, scratch)
            self._verify(scratch, manifest)
            sync(scratch)
            path = (self.shelf.replace if again else self.shelf.place)(scratch, adapter_id)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        telemetry.ADAPTER_BYTES.inc(size)
        if manifest.ephemeral:
            self._ephemeral[adapter_id] = time.monotonic()
            self._remove_ephemeral()
        log.info("adapter %s downloaded and verified in %.2f s", adapter_id, time.monotonic() - started)
        return path

    def _verify(self, folder: Path, manifest: Manifest) -> None:
        self._fits(manifest)
        if manifest.kind == "full":
            adapters.verify_full(folder, manifest, self._base.folder)
        else:
            adapters.verify_tree(folder, manifest, self._base.config)

    def _fits(self, manifest: Manifest) -> None:
        if manifest.kind != self._kind:
            raise AdapterInvalid(
                f"{manifest.adapter_id} is a whole model, which needs a server of its own: "
                f"`python -m serving --model {manifest.adapter_id}`."
                if manifest.kind == "full"
                else f"{manifest.adapter_id} is a LoRA adapter, which the server of its base model, "
                "`python -m serving`, loads by itself when it is asked for."
            )
        self._base.fits(manifest)

    def _trim(self) -> None:
        """Let go of what vLLM has evicted from its memory by now: another process may need the room on disk."""
        with self._mutex:
            surplus = oldest(self._used, self._known, {*self._running, *self.kept})
        for adapter_id in surplus:
            self._spare(adapter_id)

    def _spare(self, adapter_id: str) -> bool:
        """Whether this process does without the adapter, which it lets go of if it can."""
        used = self._used.get(adapter_id)
        if used is None:
            return adapter_id not in self._flights
        if self.forgets is None or adapter_id in self.kept or not self.forgets(adapter_id):
            return False
        with self._mutex:
            # A request that began since then makes vLLM ask for the adapter anew, and finds it held. It may have ended,
            # too, before this thread went on: vLLM knows the adapter again, and would die without the files.
            if adapter_id in self._running or adapter_id in self._flights or self._used.get(adapter_id) != used:
                return False
            self._used.pop(adapter_id, None)
            self.shelf.let_go(adapter_id)
        return True

    def _remove_ephemeral(self) -> None:
        for adapter_id, since in list(self._ephemeral.items()):
            if time.monotonic() - since <= EPHEMERAL_SECONDS:
                continue
            with self._mutex:
                if adapter_id in self._running:
                    continue
                self._used.pop(adapter_id, None)
                self.shelf.let_go(adapter_id)
            if self.shelf.remove(adapter_id):
                self._ephemeral.pop(adapter_id, None)


def _is_ephemeral(folder: Path) -> bool:
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes()).ephemeral
    except (OSError, ValidationError):
        return False
