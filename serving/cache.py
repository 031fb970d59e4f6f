"""Adapters on this machine's disk: fetched by id, verified, and made visible by one rename.

A folder in the cache is complete and never changes. None that may be asked for again is removed here: vLLM reads an
adapter again after it has evicted it from memory, and its engine dies when the files are gone. Versions of policies in
training are asked for once and unloaded, so they go after a while. Knows nothing about vLLM's interfaces.
"""

import logging
import os
import secrets
import shutil
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from pydantic import ValidationError

from rootstock import adapters, ids, telemetry
from rootstock.adapters.manifest import MANIFEST, Kind, Manifest
from rootstock.errors import AdapterInvalid, ObjectNotFound, StoreError
from rootstock.storage import Store
from serving.base import ServedBase

log = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"  # no adapter id begins with a dot
_STALE_SECONDS = 3600.0
EPHEMERAL_SECONDS = 600.0
"""How long a version of a policy stays on disk; its training asked for it, and unloaded it, within seconds."""


class AdapterCache:
    """Adapters of one base model, by id, of one kind. Threads and processes may share a folder.

    Example: `AdapterCache(open_store(settings), settings.effective_adapter_cache_dir, base).fetch(adapter_id)`.
    """

    def __init__(self, store: Store, folder: Path, base: ServedBase, kind: Kind = "lora") -> None:
        self._store = store
        self._folder = folder
        self._base = base
        self._kind = kind
        self._mutex = threading.Lock()
        self._flights: dict[str, Future[Path]] = {}
        (folder / _UNFINISHED).mkdir(parents=True, exist_ok=True)
        self._remove_stale()
        self._ephemeral: dict[str, float] = {}  # when each was fetched
        for path in folder.iterdir():
            if ids.is_adapter_id(path.name) and _is_ephemeral(path):
                self._ephemeral[path.name] = time.monotonic()

    def fetch(self, adapter_id: str) -> Path:
        """The folder of a verified adapter, downloaded first if need be; concurrent calls share one download.

        Raises `ObjectNotFound` for one that does not exist, `AdapterInvalid` for one that must not be served here,
        `StoreError` when the store is away.
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
        return mine.result()

    def _fetch(self, adapter_id: str) -> Path:
        result = "error"
        try:
            path = self._folder / adapter_id
            if path.exists():
                self._verify(path, _manifest_in(path))
                result = "cached"
            else:
                with telemetry.ADAPTER_FETCH_SECONDS.time():
                    self._download(adapter_id, path)
                result = "downloaded"
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
            telemetry.ADAPTER_FETCHES.labels(result).inc()

    def _download(self, adapter_id: str, path: Path) -> None:
        # Asked first, so that a foreign base's gigabytes are not downloaded only to be refused.
        self._fits(adapters.read_manifest(self._store, adapter_id))
        scratch = self._folder / _UNFINISHED / f"{adapter_id}-{secrets.token_hex(8)}"
        started = time.monotonic()
        try:
            manifest = adapters.fetch_tree(self._store, adapter_id, scratch)
            self._verify(scratch, manifest)
            _sync(scratch)
            try:
                scratch.rename(path)
            except OSError:
                # Another process was first; its copy passed the same checks.
                if not path.exists():
                    raise
            _sync(self._folder)
            if manifest.ephemeral:
                self._ephemeral[adapter_id] = time.monotonic()
                self._remove_ephemeral()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        log.info("adapter %s downloaded and verified in %.2f s", adapter_id, time.monotonic() - started)

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

    def _remove_ephemeral(self) -> None:
        for adapter_id, since in list(self._ephemeral.items()):
            if time.monotonic() - since > EPHEMERAL_SECONDS:
                self._ephemeral.pop(adapter_id, None)
                shutil.rmtree(self._folder / adapter_id, ignore_errors=True)

    def _remove_stale(self) -> None:
        for scratch in (self._folder / _UNFINISHED).iterdir():
            if time.time() - scratch.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)


def _manifest_in(folder: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise AdapterInvalid(f"The cached adapter in {folder} is damaged; stop serving and remove it.") from error


def _is_ephemeral(folder: Path) -> bool:
    try:
        return _manifest_in(folder).ephemeral
    except AdapterInvalid:
        return False


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
