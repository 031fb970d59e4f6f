"""The manifest of an adapter, and moving an adapter's folder into the store and back.

Knows nothing about what the tensors should look like; `verify` does.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rootstock import ids
from rootstock.errors import AdapterInvalid, ObjectNotFound
from rootstock.storage.base import Store, read_file

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"
FILES = (CONFIG, WEIGHTS)
"""All that an adapter consists of. Nothing else is stored, fetched or tolerated: no pickle can hide in it."""

_LEFT_BEHIND = "README.md"  # PEFT writes a model card into every folder; it is of no use to anybody here
_MAX_MANIFEST_BYTES = 1024 * 1024

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """One file of an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: _Sha256
    bytes: int = Field(ge=0)


def _only_known_files(files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    if set(files) != set(FILES):
        raise ValueError(f"an adapter consists of {' and '.join(FILES)}, not of {sorted(files)}")
    return files


class Manifest(BaseModel):
    """What an adapter is and what it was made from. Stored as the last object of its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    adapter_id: str = Field(pattern=f"^{ids.ADAPTER_ID.pattern}$")
    base: str  # public name of the base model
    base_sha256: _Sha256
    template_sha256: _Sha256
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0, allow_inf_nan=False)
    target_modules: list[str] = Field(min_length=1)
    recipe: dict[str, Any]
    created_at: float
    files: Annotated[dict[str, FileEntry], AfterValidator(_only_known_files)]


def put_tree(
    store: Store,
    adapter_id: str,
    folder: Path,
    *,
    base: str,
    base_sha256: str,
    template_sha256: str,
    rank: int,
    alpha: float,
    target_modules: Iterable[str],
    recipe: dict[str, Any],
) -> Manifest:
    """Store the PEFT folder as a new adapter: each file, then the manifest, which makes it exist.

    Call `verify_tree` before or after; this only moves bytes. Raises `AdapterInvalid` for a folder with files that
    are no adapter's, for impossible facts, and for an id that exists already (adapters are immutable).
    """
    strangers = sorted({path.name for path in folder.iterdir()} - {*FILES, _LEFT_BEHIND})
    if strangers:
        raise AdapterInvalid(f"The adapter's folder holds {strangers[0]!r}; only {' and '.join(FILES)} are allowed.")
    if _exists(store, adapter_id):
        raise AdapterInvalid(f"Adapter {adapter_id} exists already; adapters never change.")
    files = {name: _put_file(store, _key(adapter_id, name), folder / name) for name in FILES}
    try:
        manifest = Manifest(
            adapter_id=adapter_id,
            base=base,
            base_sha256=base_sha256,
            template_sha256=template_sha256,
            rank=rank,
            alpha=alpha,
            target_modules=sorted(target_modules),
            recipe=recipe,
            created_at=time.time(),
            files=files,
        )
    except ValidationError as error:
        raise AdapterInvalid(f"The adapter cannot be described: {_first(error)}.") from error
    store.put_bytes(_key(adapter_id, MANIFEST), manifest.model_dump_json(indent=2).encode())
    return manifest


def read_manifest(store: Store, adapter_id: str) -> Manifest:
    """The manifest of a stored adapter.

    Raises `ObjectNotFound` when there is none (half an adapter is none), `AdapterInvalid` when it makes no sense.
    """
    key = _key(adapter_id, MANIFEST)
    if store.size(key) > _MAX_MANIFEST_BYTES:
        raise AdapterInvalid(f"The manifest of adapter {adapter_id} is too large to be one.")
    try:
        manifest = Manifest.model_validate_json(store.get_bytes(key))
    except ValidationError as error:
        raise AdapterInvalid(f"The manifest of adapter {adapter_id} is not valid: {_first(error)}.") from error
    if manifest.adapter_id != adapter_id:
        raise AdapterInvalid(f"The manifest of adapter {adapter_id} belongs to {manifest.adapter_id}.")
    return manifest


def fetch_tree(store: Store, adapter_id: str, dest: Path) -> Manifest:
    """Download an adapter into the folder `dest`, checking size and SHA-256 of every file, and sync it to disk.

    `dest` is left incomplete on failure: fetch beside the final place and rename. Raises `ObjectNotFound` for an
    absent adapter, `AdapterInvalid` for one whose bytes are not those of its manifest.
    """
    manifest = read_manifest(store, adapter_id)
    dest.mkdir(parents=True, exist_ok=True)
    for name, entry in manifest.files.items():
        try:
            chunks = store.get(_key(adapter_id, name))
        except ObjectNotFound as error:
            raise AdapterInvalid(f"Adapter {adapter_id} lacks {name}, which its manifest names.") from error
        _write(dest / name, _checked(chunks, entry, f"{name} of adapter {adapter_id}"))
    _write(dest / MANIFEST, [manifest.model_dump_json(indent=2).encode()])
    return manifest


def _key(adapter_id: str, name: str) -> str:
    if not ids.is_adapter_id(adapter_id):
        raise AdapterInvalid(f"{adapter_id[:80]!r} is not an adapter id.")
    return f"adapters/{adapter_id}/{name}"


def _exists(store: Store, adapter_id: str) -> bool:
    try:
        store.size(_key(adapter_id, MANIFEST))
    except ObjectNotFound:
        return False
    return True


def _put_file(store: Store, key: str, path: Path) -> FileEntry:
    if not path.is_file():
        raise AdapterInvalid(f"The adapter's folder has no {path.name}.")
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in read_file(path):
            digest.update(chunk)
            yield chunk

    size = store.put(key, hashed())
    return FileEntry(sha256=digest.hexdigest(), bytes=size)


def _checked(chunks: Iterable[bytes], entry: FileEntry, what: str) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > entry.bytes:
            break
        digest.update(chunk)
        yield chunk
    if size != entry.bytes:
        raise AdapterInvalid(f"{what} is {'longer' if size > entry.bytes else 'shorter'} than its manifest says.")
    if digest.hexdigest() != entry.sha256:
        raise AdapterInvalid(f"{what} has another SHA-256 than its manifest says.")


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg'].removeprefix('Value error, ')}" if where else first["msg"]
