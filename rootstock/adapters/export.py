"""A stored adapter as an archive for others, and back into a folder; both times every file is checked by its hash.

The archive holds a README, the manifest, then the files that it names; so whoever unpacks knows beforehand what may
come. Knows nothing about who may export, HTTP or training.
"""

import contextlib
import functools
import io
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rootstock.adapters.manifest import (
    CARD,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    checked_chunks,
    open_file,
    parse_manifest,
    write_synced,
)
from rootstock.adapters.tar import Member, length, stream
from rootstock.errors import AdapterInvalid, ConfigurationError
from rootstock.storage.base import CHUNK_BYTES, Store

_BLOCKS = 1024  # of a tar, that are asked for at a time: half a megabyte

_CARD = """\
# {model}

{what} It was made by Rootstock.

- base model: `{base}`
- SHA-256 that identifies the base: `{base_sha256}`
- SHA-256 that identifies its chat template: `{template_sha256}`
{facts}
`manifest.json` holds the SHA-256 of each file and how the model was trained.

## Use it

The base model is not part of this folder: put its folder or hub id in place of `{base}`.

```python
{code}
```
{more}"""

_LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
tokenizer = AutoTokenizer.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")"""

_LOAD_MODEL = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")"""

_MERGE = """
Adapter and base as one model: `python -m trainer merge --adapter path/to/this/folder --out merged`.
"""


class Export:
    """The archive of one stored adapter. `model` is the public name that it is known by.

    Example: `export = Export(store, read_manifest(store, adapter_id), "ft:…"); sink.writelines(export.stream())`.
    """

    def __init__(self, store: Store, manifest: Manifest, model: str) -> None:
        manifest = manifest.model_copy(update={"proof": None})  # it holds pieces of the training data
        texts = {CARD: card(manifest, model).encode(), MANIFEST: manifest.to_json()}
        self._mtime = int(manifest.created_at)
        self._members = [
            *(Member(name, len(text), functools.partial(iter, [text])) for name, text in texts.items()),
            *(
                Member(name, entry.bytes, functools.partial(open_file, store, manifest, name))
                for name, entry in manifest.files.items()
            ),
        ]

    @property
    def length(self) -> int:
        """Bytes of the archive."""
        return length(self._members, self._mtime)

    def stream(self) -> Iterator[bytes]:
        """The archive in pieces, straight from the store; the same bytes each time.

        Raises `AdapterInvalid` where a file is not what the manifest says, before all of it is out, and `StoreError`.
        """
        return stream(self._members, self._mtime)


def card(manifest: Manifest, model: str) -> str:
    """The README of an exported model: what it is, of which base, how to load it."""
    facts, full = "", manifest.kind == "full"
    if not full:
        layers = ", ".join(f"`{name}`" for name in manifest.target_modules or ())
        facts = f"- adapter: rank {manifest.rank}, alpha {manifest.alpha:g}, on {layers}\n"
    if in_four_bits(manifest):
        facts += "- trained with the base's linear layers in four bits (QLoRA)\n"
    return _CARD.format(
        model=model,
        what="A whole language model, fully fine-tuned; the tokenizer is its base model's."
        if full
        else "A LoRA adapter in PEFT's format: it changes the base model and does not work without it.",
        base=manifest.base,
        base_sha256=manifest.base_sha256,
        template_sha256=manifest.template_sha256,
        facts=facts,
        code=(_LOAD_MODEL if full else _LOAD_ADAPTER).format(base=manifest.base),
        more="" if full else _MERGE,
    )


def in_four_bits(manifest: Manifest) -> bool:
    """Whether the base's layers were quantised while the adapter was trained."""
    return manifest.recipe.get("type") == "qlora"


def safe_name(model: str) -> str:
    """A model's public name as the name of a file or folder, without colons, slashes or anything to be quoted.

    Example: `safe_name("ft:tiny:acme::7p4lURel")` is `"ft-tiny-acme-7p4lURel"`.
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", model).strip("-.")[:200] or "model"


def unpack(chunks: Iterator[bytes], folder: Path) -> Manifest:
    """Write the files of an exported archive into `folder` as they arrive, and sync them to disk.

    Only plain files come out: the README, the manifest, and those that the manifest names, with its sizes and hashes.
    Raises `AdapterInvalid` for any other archive and for one that is cut short; `folder` is left incomplete then.
    """
    manifest, got = None, set[str]()
    try:
        with tarfile.open(fileobj=_Reader(chunks), mode="r|", bufsize=_BLOCKS * tarfile.BLOCKSIZE) as archive:
            for member in archive:
                if not member.isreg() or member.name in got:
                    raise AdapterInvalid(f"The archive holds {member.name[:80]!r} in a way that no export does.")
                got.add(member.name)
                content = _content(archive, member)
                if member.name in (CARD, MANIFEST):
                    text = _small(content, member)
                    write_synced(folder / member.name, [text])
                    manifest = parse_manifest(text, "The archive's manifest") if member.name == MANIFEST else manifest
                elif manifest is not None and member.name in manifest.files:
                    entry: FileEntry = manifest.files[member.name]
                    write_synced(folder / member.name, checked_chunks(content, entry, member.name))
                else:
                    raise AdapterInvalid(f"The archive holds {member.name[:80]!r}, which its manifest does not name.")
        for _ in chunks:  # the archive's end says nothing, but a connection should be read to its own
            pass
    except tarfile.TarError as error:
        raise AdapterInvalid(f"The archive is cut short or damaged: {error}.") from error
    if manifest is None:
        raise AdapterInvalid("The archive holds no manifest.")
    if missing := sorted(set(manifest.files) - got):
        raise AdapterInvalid(f"The archive is cut short: {missing[0]} is missing.")
    return manifest


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when the block ends well, and is removed when it does not.

    Raises `ConfigurationError` when `out` is there and is not an empty folder, or cannot be made.
    """
    try:
        there = out.exists()
        if there and (not out.is_dir() or any(out.iterdir())):
            raise ConfigurationError(f"{out} is there already and is not an empty folder; choose another one.")
        name = f".{secrets.token_hex(8)}.part"
        scratch = out / name if there else out.absolute().parent / name
        scratch.mkdir(parents=True)
    except OSError as error:
        raise ConfigurationError(f"The folder {out} cannot be made: {error.strerror}.") from error
    try:
        yield scratch
        if not there:
            scratch.rename(out)
            return
        for path in scratch.iterdir():  # it may be somebody's working directory or a mount, so it stays
            path.rename(out / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = archive.extractfile(member)
    assert file is not None
    read: Callable[[], bytes] = functools.partial(file.read, CHUNK_BYTES)
    return iter(read, b"")


def _small(content: Iterator[bytes], member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_MANIFEST_BYTES:
        raise AdapterInvalid(f"{member.name} in the archive is too large to be one.")
    return b"".join(content)


class _Reader(io.RawIOBase):
    """Chunks as the file that `tarfile` reads from: exactly as many bytes as asked for, while there are any."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = bytearray()

    def read(self, size: int = -1, /) -> bytes:
        while len(self._left) < size and (chunk := next(self._chunks, b"")):
            self._left += chunk
        data = bytes(self._left[:size])
        del self._left[:size]
        return data
