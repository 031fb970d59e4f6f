"""A batch made as clients make it, and a worker's claim of it on the fake vLLM."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import batches, db, tables
from rootstock.records import BatchRecord
from service.batching.life import Workplace, live
from service.replicas import Upstream
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm
from tests.service.network import Network

CHAT = "/v1/chat/completions"
TERMINAL = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str, text: str = "Hi", url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": asked}


def submit(api: Api, rows: list[Any] | bytes, endpoint: Any = CHAT, **more: Any) -> Any:
    """A batch made as clients make it: bytes, named `upload`."""
    data = rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = api.client.files.create(file=data, purpose="batch")
    return api.client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


Work = Callable[..., BatchRecord | None]


@pytest.fixture
def work(api: Api, vllm: FakeVllm, network: Network) -> Work:
    """One claim of a worker, lived to where it gets; the batch as claimed."""

    def once(**more: Any) -> BatchRecord | None:
        async def run() -> BatchRecord | None:
            parts = api.app.state.parts
            upstream = Upstream(api.settings, network.to(vllm))
            with api.database.transaction() as tx:
                batch = batches.claim(tx, worker="test", lease_seconds=30)
            place = {"leaving": lambda: False, "first_wait_seconds": 0.001} | more
            settings = place.pop("settings", api.settings)
            if batch is not None:
                await live(Workplace(settings, api.database, parts.store, upstream, **place), batch)
            await upstream.aclose()
            return batch

        return asyncio.run(run())

    return once


def content(api: Api, file_id: str | None) -> dict[str, Any]:
    """The lines of a file by their custom ids."""
    if file_id is None:
        return {}
    text = api.client.files.content(file_id).text
    found = [json.loads(row) for row in text.splitlines()]
    assert text.endswith("\n") and len({row["custom_id"] for row in found}) == len(found)
    assert all(set(row) == {"id", "custom_id", "response", "error"} for row in found)
    assert all(row["id"].startswith("batch_req_") for row in found)
    return {row["custom_id"]: row for row in found}


def change(api: Api, batch_id: str, **values: Any) -> None:
    with api.database.transaction() as tx:
        tx.execute(tables.batches.update().where(tables.batches.c.id == batch_id).values(**values))


def overdue(api: Api, batch_id: str) -> None:
    change(api, batch_id, expires_at=db.now() - 1)


def rows_left(api: Api) -> int:
    with api.database.read() as tx:
        return int(tx.scalar(sa.select(sa.func.count()).select_from(tables.batch_results)) or 0)
