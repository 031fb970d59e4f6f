"""The items of a run where a worker can read them again and again: on its disk. Knows no model and no grader.

Those of stored completions are first copied to an object of the run, so that a worker which goes on after another one
finds the same items under the same numbers, whatever was stored or deleted meanwhile.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rootstock import completions
from rootstock.db import Database
from rootstock.errors import InvalidRequest, ObjectNotFound
from rootstock.evals import definitions, sources
from rootstock.evals.records import EvalRecord, RunRecord, RunStatus
from rootstock.evals.sources import Item, ItemSchema
from rootstock.storage import Store
from rootstock.storage.base import read_file
from service.eval_wish import lines_of


class Reader:
    """The items of one run. Its methods block."""

    def __init__(self, db: Database, store: Store, folder: Path, max_line_bytes: int) -> None:
        self._db = db
        self._store = store
        self._path = folder / "items.jsonl"
        self._max_line_bytes = max_line_bytes

    def fetch(self, run: RunRecord) -> int:
        """Bring the items here; how many they are.

        Raises `NotFound` when the eval is deleted, and `InvalidRequest` or one of its classes for items that do not
        fit it or are not there.
        """
        with self._db.read() as tx:
            of = definitions.get(tx, run.project_id, run.eval_id)
        source = run.data_source["source"]
        if source["type"] == "stored_completions" and run.status is RunStatus.QUEUED:
            self._copy(run, of, source)
        if run.input_object is not None and not self._path.exists():
            self._download(run.input_object)
        count = 0
        for count, _ in enumerate(self._items(run, ItemSchema.of(of.data_source_config)), 1):
            if count > sources.MAX_ITEMS:
                raise InvalidRequest(f"There are more than {sources.MAX_ITEMS} items; a run may have as many.")
        if not count:
            raise InvalidRequest("There are no items to grade. Name a source that has some.")
        return count

    def items(self, run: RunRecord) -> Iterator[Item]:
        """The items that `fetch` has brought, which were checked then."""
        return self._items(run, ItemSchema({}))

    def _items(self, run: RunRecord, schema: ItemSchema) -> Iterator[Item]:
        source = run.data_source["source"]
        if source["type"] == "file_content":
            return sources.of_content(source["content"])
        return sources.of_lines(lines_of(read_file(self._path), self._max_line_bytes), schema)

    def _copy(self, run: RunRecord, of: EvalRecord, source: dict[str, Any]) -> None:
        assert run.input_object is not None
        with self._store.writer(run.input_object) as sink:
            for item in self._stored(run.project_id, of, source):
                sink.write(item.line())

    def _stored(self, project_id: str, of: EvalRecord, source: dict[str, Any]) -> Iterator[Item]:
        wanted = (of.data_source_config.get("metadata") or {}) | (source.get("metadata") or {})
        first, last = source.get("created_after"), source.get("created_before")
        most = source.get("limit") or sources.MAX_ITEMS
        number, after = 0, None
        while True:
            with self._db.read() as tx:
                page = completions.list_page(
                    tx,
                    project_id,
                    limit=completions.MAX_LIMIT,
                    after=after,
                    model=source.get("model"),
                    metadata=wanted or None,
                )
            for record in page.data:
                made = int(record.created_at)
                if (first is None or made >= first) and (last is None or made <= last):
                    number += 1
                    yield sources.of_completion(number, record)
                    if number == most:
                        return
            if not page.has_more:
                return
            after = page.data[-1].id

    def _download(self, key: str) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                file.writelines(self._store.get(key))
        except ObjectNotFound:
            raise InvalidRequest("The items are no longer stored. Create the run again.") from None
        partial.rename(self._path)
