"""`/healthz`, `/readyz`, `/metrics`: for probes and monitoring, without a key. Say nothing about customers' data."""

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from rootstock import telemetry
from rootstock.db import head_revision
from service.deps import Parts, PartsDep
from service.wire import ResponseModel

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])

CHECK_SECONDS = 4.0
NEEDED = ("database", "store")
"""Without these no request can be served. Jobs are accepted without Redis, and everything but inference without vLLM:
taking the whole API out of rotation while an engine starts would turn a small outage into a large one."""


class Alive(ResponseModel):
    """The process runs."""

    status: Literal["ok"]


class Readiness(ResponseModel):
    """Whether each part can be used; `off` for one that is not configured. `degraded`: some requests will get 503."""

    status: Literal["ready", "degraded", "not_ready"]
    parts: dict[str, Literal["ok", "away", "off"]]


@router.get("/healthz")
async def healthz() -> Alive:
    """Whether the process is alive; looks at nothing else, so that an outage elsewhere never restarts it."""
    return Alive(status="ok")


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(parts: PartsDep) -> Response:
    """Whether requests can be served now: 200, or 503 when the database or the store is away. Names every part."""
    checks = {"database": _database, "redis": _redis, "store": _store}
    found = dict(
        zip(checks, await asyncio.gather(*(_state(name, checks[name], parts) for name in checks)), strict=True)
    )
    found["vllm"] = "off" if not parts.upstream.configured else "ok" if await parts.upstream.alive() else "away"
    able = all(found[name] == "ok" for name in NEEDED)
    status = "not_ready" if not able else "degraded" if "away" in found.values() else "ready"
    return JSONResponse({"status": status, "parts": found}, status_code=200 if able else 503)


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
def metrics() -> Response:
    """Prometheus metrics of this process."""
    content, media_type = telemetry.render()
    return Response(content, media_type=media_type)


async def _state(name: str, check: Callable[[Parts], bool], parts: Parts) -> str:
    try:
        return "ok" if await asyncio.wait_for(run_in_threadpool(check, parts), CHECK_SECONDS) else "away"
    except Exception as error:
        log.warning("not ready: %s: %s", name, str(error) or type(error).__name__)
        return "away"


def _database(parts: Parts) -> bool:
    return parts.db.revision() == head_revision()


def _redis(parts: Parts) -> bool:
    return parts.bell.ping()


def _store(parts: Parts) -> bool:
    parts.store.check()
    return True
