"""The manifest of an adapter, and moving an adapter's folder into the store and back.

A full fine-tune, a whole model's weights, is stored in the same way, as an adapter of the kind `full`. Knows nothing
about what the tensors should look like; `verify` and `verify_full` do.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rootstock import ids
from rootstock.adapters.proof import Proof
from rootstock.errors import AdapterInvalid, ObjectNotFound
from rootstock.storage.base import Store, read_file

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"
CARD = "README.md"
FILES = (CONFIG, WEIGHTS)
"""All that a LoRA adapter consists of. Nothing else is stored, fetched or tolerated: no pickle can hide in it."""

MODEL_CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"

Kind = Literal["lora", "full"]
"""`lora`: matrices beside a base model's own. `full`: all of its weights, trained; the tokenizer stays the base's."""

_SHARD = re.compile(r"model-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.safetensors")
_LEFT_BEHIND = CARD  # PEFT writes a model card into every folder; it is of no use to anybody here
MAX_MANIFEST_BYTES = 1024 * 1024

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """One file of an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: _Sha256
    bytes: int = Field(ge=0)


class Manifest(BaseModel):
    """What an adapter is and what it was made from. Stored as the last object of its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    kind: Kind = "lora"
    adapter_id: str = Field(pattern=f"^{ids.ADAPTER_ID.pattern}$")
    base: str  # public name of the base model
    base_sha256: _Sha256
    template_sha256: _Sha256
    rank: int | None = Field(None, ge=1)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    target_modules: list[str] | None = Field(None, min_length=1)
    recipe: dict[str, Any]
    created_at: float
    files: dict[str, FileEntry]
    proof: Proof | None = None  # what it said where it was trained
    ephemeral: bool = False  # a version of a policy in training: asked for a moment, never again

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Manifest":
        shape = {"rank": self.rank, "alpha": self.alpha, "target_modules": self.target_modules}
        for name, value in shape.items():
            if (value is None) != (self.kind == "full"):
                raise ValueError(f"{name} is {'missing' if value is None else 'not of a whole model'}")
        if self.kind == "lora" and set(self.files) != set(FILES):
            raise ValueError(f"files: an adapter consists of {' and '.join(FILES)}, not of {sorted(self.files)}")
        if self.kind == "full" and set(self.files) - {GENERATION_CONFIG} != {MODEL_CONFIG, *model_files(self.files)}:
            raise ValueError(f"files: {sorted(self.files)} are not those of a whole model")
        return self

    def to_json(self) -> bytes:
        """As it is stored. What is usual is not named (a LoRA's kind), so that earlier versions can read it."""
        usually = {"kind": "lora", "ephemeral": False, "proof": None}
        usual = {name for name, value in usually.items() if getattr(self, name) == value}
        return self.model_dump_json(indent=2, exclude=usual).encode()


def weight_files(names: Iterable[str]) -> list[str]:
    """Those of the names that hold weights of a whole model, in order."""
    return sorted(name for name in names if name == MODEL_WEIGHTS or _SHARD.fullmatch(name))


def model_files(names: Iterable[str]) -> list[str]:
    """The weight files that a whole model with these files must have: a single one, or all shards and their index."""
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    if not shards:
        return [MODEL_WEIGHTS]
    count = int(shards[0]["count"])
    return [MODEL_INDEX, *(f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count))]


def put_tree(  # noqa: PLR0913 (one argument per fact of the manifest)
    store: Store,
    adapter_id: str,
    folder: Path,
    *,
    kind: Kind = "lora",
    base: str,
    base_sha256: str,
    template_sha256: str,
    rank: int | None = None,
    alpha: float | None = None,
    target_modules: Iterable[str] | None = None,
    recipe: dict[str, Any],
    proof: Proof | None = None,
    ephemeral: bool = False,
) -> Manifest:
    """Store the folder as a new adapter: each file, then the manifest, which makes it exist.

    For the kind `lora` it is PEFT's folder, and rank, alpha and target modules are needed; for `full` a model's folder
    without tokenizer files. Call `verify_tree` or `verify_full` before or after; this only moves bytes. Raises
    `AdapterInvalid` for a folder with files that are no adapter's, for impossible facts, and for an id that exists
    already (adapters are immutable).
    """
    names = allowed_files(kind, {path.name for path in folder.iterdir()} - {_LEFT_BEHIND})
    if _exists(store, adapter_id):
        raise AdapterInvalid(f"Adapter {adapter_id} exists already; adapters never change.")
    files = {name: _put_file(store, _key(adapter_id, name), folder / name) for name in names}
    try:
        manifest = Manifest(
            kind=kind,
            adapter_id=adapter_id,
            base=base,
            base_sha256=base_sha256,
            template_sha256=template_sha256,
            rank=rank,
            alpha=alpha,
            target_modules=None if target_modules is None else sorted(target_modules),
            recipe=recipe,
            created_at=time.time(),
            files=files,
            proof=proof,
            ephemeral=ephemeral,
        )
    except ValidationError as error:
        raise AdapterInvalid(f"The adapter cannot be described: {_first(error)}.") from error
    store.put_bytes(_key(adapter_id, MANIFEST), manifest.to_json())
    return manifest


def allowed_files(kind: Kind, names: set[str]) -> list[str]:
    """The files that an adapter of this kind, in a folder with these `names`, consists of; some may be missing.

    Raises `AdapterInvalid` when the folder holds anything else.
    """
    allowed = list(FILES) if kind == "lora" else [MODEL_CONFIG, GENERATION_CONFIG, *model_files(names)]
    if strangers := sorted(names - set(allowed)):
        known = ", ".join(FILES) if kind == "lora" else f"{MODEL_CONFIG}, {GENERATION_CONFIG} and model*.safetensors"
        raise AdapterInvalid(f"The adapter's folder holds {strangers[0]!r}; only {known} are allowed.")
    return [name for name in allowed if name != GENERATION_CONFIG or name in names]


def read_manifest(store: Store, adapter_id: str) -> Manifest:
    """The manifest of a stored adapter.

    Raises `ObjectNotFound` when there is none (half an adapter is none), `AdapterInvalid` when it makes no sense.
    """
    key = _key(adapter_id, MANIFEST)
    if store.size(key) > MAX_MANIFEST_BYTES:
        raise AdapterInvalid(f"The manifest of adapter {adapter_id} is too large to be one.")
    manifest = parse_manifest(store.get_bytes(key), f"The manifest of adapter {adapter_id}")
    if manifest.adapter_id != adapter_id:
        raise AdapterInvalid(f"The manifest of adapter {adapter_id} belongs to {manifest.adapter_id}.")
    return manifest


def parse_manifest(data: bytes, what: str) -> Manifest:
    """The bytes of a manifest as one; `what` names them in messages. Raises `AdapterInvalid`."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise AdapterInvalid(f"{what} is not valid: {_first(error)}.") from error


def check_sizes(store: Store, manifest: Manifest) -> None:
    """Raise `AdapterInvalid` unless all files that the manifest names are stored in the sizes it names; reads none."""
    for name, entry in manifest.files.items():
        try:
            size = store.size(_key(manifest.adapter_id, name))
        except ObjectNotFound as error:
            raise _lacks(manifest, name) from error
        if size != entry.bytes:
            raise AdapterInvalid(
                f"{name} of adapter {manifest.adapter_id} has {size} bytes, its manifest says {entry.bytes}."
            )


def open_file(store: Store, manifest: Manifest, name: str) -> Iterator[bytes]:
    """One file of a stored adapter in chunks; the last one comes only when size and SHA-256 are the manifest's.

    Raises `AdapterInvalid`: here when the file is missing, behind the chunks before when it is another one.
    """
    try:
        chunks = store.get(_key(manifest.adapter_id, name))
    except ObjectNotFound as error:
        raise _lacks(manifest, name) from error
    return checked_chunks(chunks, manifest.files[name], f"{name} of adapter {manifest.adapter_id}")


def fetch_tree(store: Store, adapter_id: str, dest: Path) -> Manifest:
    """Download an adapter into the folder `dest`, checking size and SHA-256 of every file, and sync it to disk.

    `dest` is left incomplete on failure: fetch beside the final place and rename. Raises `ObjectNotFound` for an
    absent adapter, `AdapterInvalid` for one whose bytes are not those of its manifest.
    """
    manifest = read_manifest(store, adapter_id)
    dest.mkdir(parents=True, exist_ok=True)
    for name in manifest.files:
        write_synced(dest / name, open_file(store, manifest, name))
    write_synced(dest / MANIFEST, [manifest.to_json()])
    return manifest


def read_folder(folder: Path) -> Manifest:
    """The manifest in an adapter's folder, with which every file it names was compared. Raises `AdapterInvalid`."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = parse_manifest(file.read(MAX_MANIFEST_BYTES), str(folder / MANIFEST))
        for name, entry in manifest.files.items():
            for _ in checked_chunks(read_file(folder / name), entry, str(folder / name)):
                pass
    except OSError as error:
        raise AdapterInvalid(f"{error.filename or folder} cannot be read: {error.strerror}.") from error
    return manifest


def _key(adapter_id: str, name: str) -> str:
    if not ids.is_adapter_id(adapter_id):
        raise AdapterInvalid(f"{adapter_id[:80]!r} is not an adapter id.")
    return f"adapters/{adapter_id}/{name}"


def _lacks(manifest: Manifest, name: str) -> AdapterInvalid:
    return AdapterInvalid(f"Adapter {manifest.adapter_id} lacks {name}, which its manifest names.")


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


def checked_chunks(chunks: Iterable[bytes], entry: FileEntry, what: str) -> Iterator[bytes]:
    """The chunks of a file, each held back until the next one is there: a wrong file never passes whole.

    `what` names it in messages. Raises `AdapterInvalid` when size or SHA-256 are not those of the entry.
    """
    digest, size, held = hashlib.sha256(), 0, b""
    for chunk in chunks:
        size += len(chunk)
        if size > entry.bytes:
            break
        digest.update(chunk)
        if held:
            yield held
        held = chunk
    if size != entry.bytes:
        raise AdapterInvalid(f"{what} is {'longer' if size > entry.bytes else 'shorter'} than its manifest says.")
    if digest.hexdigest() != entry.sha256:
        raise AdapterInvalid(f"{what} has another SHA-256 than its manifest says.")
    if held:
        yield held


def write_synced(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg'].removeprefix('Value error, ')}" if where else first["msg"]
