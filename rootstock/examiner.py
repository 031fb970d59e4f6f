"""The process in which `rootstock.examination` has large files examined: their report as JSON on standard output.

`python -m rootstock.examiner CONTEXT MAX_LINE_BYTES CONTENTS`, with so many contents on standard input, that of the
training file first. It gives way to every other process, and its memory is gone with it. Knows no settings, no store
and no database.
"""

import json
import os
import sys
from collections.abc import Iterator

from rootstock.examination import examined, receive

NICE = 10


def main(context: str, max_line_bytes: str, contents: str) -> None:
    """Examine what comes in. The report reads one content after the other."""
    os.nice(NICE)
    given: list[Iterator[bytes]] = []
    for _ in range(int(contents)):
        given.append(_behind(given[-1] if given else iter(()), receive(sys.stdin.buffer)))
    json.dump(examined(given, context=int(context), max_line_bytes=int(max_line_bytes)), sys.stdout)


def _behind(before: Iterator[bytes], content: Iterator[bytes]) -> Iterator[bytes]:
    """A content, once the one before it is read to its end, of which perhaps not all was wanted."""
    for _ in before:
        pass
    yield from content


if __name__ == "__main__":
    main(*sys.argv[1:])
