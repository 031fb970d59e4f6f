"""Files as one tar, framed while they stream: what the header says and how long the whole will be is known beforehand.

Knows nothing about what the files are or where they come from.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

_ENDING_BYTES = 2 * tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive. `opened` gives its chunks, `size` bytes in all, when its turn has come."""

    name: str
    size: int
    opened: Callable[[], Iterable[bytes]]


def length(members: Sequence[Member], mtime: int) -> int:
    """Bytes of the archive that `stream` makes of these members."""
    return _with_end(sum(len(_header(member, mtime)) + member.size + _padding(member.size) for member in members))


def stream(members: Sequence[Member], mtime: int) -> Iterator[bytes]:
    """The archive in pieces, each member read when it is its turn; the same members give the same bytes.

    What a member raises breaks it off. A member whose chunks are not of its size is a mistake of the caller's.
    """
    sent = 0
    for member in members:
        header = _header(member, mtime)
        yield header
        size = 0
        for chunk in member.opened():
            size += len(chunk)
            yield chunk
        assert size == member.size, f"{member.name} was announced with {member.size} bytes and has {size}"
        if padding := bytes(_padding(size)):
            yield padding
        sent += len(header) + size + _padding(size)
    yield bytes(_with_end(sent) - sent)


def _header(member: Member, mtime: int) -> bytes:
    info = tarfile.TarInfo(member.name)
    info.size, info.mtime = member.size, mtime
    return info.tobuf(tarfile.PAX_FORMAT)  # plain ustar, with an extension for files of 8 GiB and more only


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE


def _with_end(size: int) -> int:
    return size + _ENDING_BYTES + -(size + _ENDING_BYTES) % tarfile.RECORDSIZE
