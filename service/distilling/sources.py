"""Where prompts come from: a file's lines or stored completions, as often as they are asked for. Knows no teacher."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rootstock import completions
from rootstock.datasets.parse import Fault
from rootstock.db import Database
from rootstock.distil import Prompt
from rootstock.distil.records import Distillation
from service.batching import reading

Source = Callable[[], Iterator[Prompt | None]]
"""Reads the prompts from the beginning; `None` stands for what is none."""


def of_file(path: Path, run: Distillation, max_line_bytes: int) -> Source:
    """The prompts of a JSONL file on this disk."""

    def read() -> Iterator[Prompt | None]:
        for _, line in reading.lines(path, max_line_bytes):
            yield None if line is None else _tried(lambda data=line: Prompt.read(data), run)  # type: ignore[misc]

    return read


def of_completions(database: Database, run: Distillation) -> Source:
    """The project's stored completions that the distillation names, none that came after it."""
    asked: dict[str, Any] = run.spec["source"]
    before = min(asked.get("created_before", run.created_at), run.created_at)

    def read() -> Iterator[Prompt | None]:
        after = None
        while True:
            with database.read() as tx:
                page = completions.list_page(
                    tx,
                    run.project_id,
                    limit=completions.MAX_LIMIT,
                    after=after,
                    model=asked.get("model"),
                    metadata=asked.get("metadata"),
                    created_after=asked.get("created_after"),
                    created_before=before,
                )
            for one in page.data:
                yield _tried(lambda completion=one: Prompt.stored(completion), run)  # type: ignore[misc]
            if not page.has_more:
                return
            after = page.data[-1].id

    return read


def _tried(make: Callable[[], Prompt], run: Distillation) -> Prompt | None:
    try:
        return make().keeping_to(run.spec["response_format"])
    except (Fault, LookupError, TypeError, ValueError):
        return None
