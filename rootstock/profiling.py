"""Reading the training sets that watches compare with, one at a time, in any API process. Knows no HTTP and no calls.

A file is streamed once; of its examples a uniform sample of at most `MOST_EXAMPLES` is looked at, so a profile takes
the same memory for any file. A process that dies meanwhile loses nothing but the work.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator

from rootstock import files, watches
from rootstock.datasets import Example, read_examples
from rootstock.datasets.lines import LineSplitter, NotUtf8
from rootstock.db import Database
from rootstock.drift.detect import State
from rootstock.drift.profile import Profile
from rootstock.drift.sample import Sample, taught
from rootstock.errors import JobFailure, ObjectNotFound
from rootstock.settings import Settings
from rootstock.storage import Store
from rootstock.watches import WatchRecord

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
RENEW_SECONDS = 10.0

MOST_EXAMPLES = 2000
"""Looked at of one set: as many as tell rates to about a percent, in some seconds of a CPU that also answers."""


class Handed(Exception):
    """The work was handed back, or is nobody's any more."""


class Profiler:
    """Example: `while profiler.run_once(): pass`."""

    def __init__(self, database: Database, store: Store, settings: Settings) -> None:
        self._db = database
        self._store = store
        self._max_line_bytes = settings.max_line_bytes
        self._stopping = threading.Event()

    def run_once(self) -> bool:
        """Read the next reference; false when none waits. Raises `StoreError` when the store is away."""
        with self._db.transaction() as tx:
            watches.follow(tx)
            watch = watches.claim_profiling(tx, LEASE_SECONDS)
        if watch is None:
            return False
        try:
            profile = Profile.of(self._calls(watch))
        except Handed:
            return False
        except (JobFailure, ObjectNotFound, NotUtf8, ValueError) as error:
            reason = error.message if isinstance(error, JobFailure) else str(error) or "the file is not UTF-8"
            log.warning("%s cannot be watched: %s", watch.model, reason)
            with self._db.transaction() as tx:
                watches.failed(tx, watch, f"The training set cannot be compared with: {reason}")
            return True
        state, examples = State.new(profile.events).pack(), profile.words.texts
        with self._db.transaction() as tx:
            watches.profiled(tx, watch, profile=profile.pack(), state=state, examples=examples)
        return True

    def stop(self) -> None:
        """Hand back what is being read, at the next line."""
        self._stopping.set()

    def _calls(self, watch: WatchRecord) -> list[list[Sample]]:
        draw = random.Random(watch.file_id)  # the same sample for the same file
        kept: list[list[Sample]] = []
        renewed = time.monotonic()
        for number, example in enumerate(self._examples(watch), 1):
            if self._stopping.is_set():
                self._renew(watch, 0.0)
                raise Handed
            if time.monotonic() - renewed > RENEW_SECONDS:
                if not self._renew(watch, LEASE_SECONDS):
                    raise Handed
                renewed = time.monotonic()
            place = len(kept) if number <= MOST_EXAMPLES else draw.randrange(number)
            if place < MOST_EXAMPLES:
                kept[place : place + 1] = [taught(example)]
        return kept

    def _examples(self, watch: WatchRecord) -> Iterator[Example]:
        with self._db.read() as tx:
            key = files.find(tx, watch.file_id).object_key
        return read_examples(_lines(self._store.get(key), self._max_line_bytes))

    def _renew(self, watch: WatchRecord, seconds: float) -> bool:
        with self._db.transaction() as tx:
            return watches.renew_profiling(tx, watch, seconds)


def _lines(chunks: Iterator[bytes], longest: int) -> Iterator[bytes]:
    splitter = LineSplitter(longest)
    for chunk in chunks:
        yield from (line or b"" for _, line in splitter.feed(chunk))
    yield from (line or b"" for _, line in splitter.finish())
