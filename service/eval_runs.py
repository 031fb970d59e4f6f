"""`/v1/evals/{eval_id}/runs` and their output items: create, retrieve, list, cancel, delete.

Knows nothing about how items are sampled and graded; a worker does that.
"""

import logging
from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, Query
from starlette.requests import Request

from rootstock import files, idempotency
from rootstock.db import Tx
from rootstock.evals import definitions, items, runs
from rootstock.evals.records import EvalRecord, ItemStatus, RunRecord, RunStatus
from rootstock.records import Caller
from service import retries
from service.deps import CallerDep, IdempotencyKeyDep, Parts, PartsDep, body_schema, json_body
from service.eval_wish import Wish, checked
from service.evals import CREATED
from service.query import Limit
from service.wire_eval_runs import CreateRun, DeletedRun, EvalRun, ItemPage, OutputItem, RunPage

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/evals/{eval_id}/runs", tags=["evals"])

ITEM_STATUSES = {"pass": ItemStatus.PASS, "fail": ItemStatus.FAIL, "failed": ItemStatus.FAIL, "error": ItemStatus.ERROR}


@router.post("", status_code=CREATED, openapi_extra=body_schema(CreateRun))
def create_run(
    eval_id: str,
    body: Annotated[CreateRun, json_body(CreateRun)],
    request: Request,
    background: BackgroundTasks,
    parts: PartsDep,
    caller: CallerDep,
    key: IdempotencyKeyDep,
) -> EvalRun:
    """Measure: each item is sampled (unless answers are given) and graded by a worker after the answer.

    A repeated request gets the run that it made before: for 24 hours by its `Idempotency-Key`, for ten minutes when an
    SDK says that it is a retry.
    """
    with parts.db.read() as tx:
        of = definitions.get(tx, caller.project_id, eval_id)
    wish = checked(parts, caller, of, body)
    attempt = idempotency.Attempt(caller.project_id, "run", key, [eval_id, body.model_dump(mode="json")])
    with parts.db.transaction() as tx:
        idempotency.lock(tx, caller.project_id)
        earlier = attempt.recall(tx)
        if earlier is not None:
            run = runs.get(tx, caller.project_id, eval_id, earlier)
        else:
            run = _create(tx, caller, request, definitions.get(tx, caller.project_id, eval_id, lock=True), body, wish)
            attempt.remember(tx, run.id)
    background.add_task(_ring, parts, run)
    return EvalRun.of(run, _address(request))


@router.get("")
def list_runs(
    eval_id: str,
    request: Request,
    parts: PartsDep,
    caller: CallerDep,
    limit: Annotated[Limit, Query(description="Clamped to 1..100.")] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "asc",
    status: Annotated[
        Literal["queued", "in_progress", "completed", "canceled", "failed"] | None,
        Query(description="Only runs with this status."),
    ] = None,
) -> RunPage:
    """An eval's runs, oldest first."""
    wanted = RunStatus(status) if status else None
    with parts.db.read() as tx:
        definitions.get(tx, caller.project_id, eval_id)
        page = runs.list_page(tx, caller.project_id, eval_id, limit=limit, after=after, order=order, status=wanted)
    return RunPage.of(page, _address(request))


@router.get("/{run_id}")
def retrieve_run(eval_id: str, run_id: str, request: Request, parts: PartsDep, caller: CallerDep) -> EvalRun:
    """One run."""
    with parts.db.read() as tx:
        return EvalRun.of(runs.get(tx, caller.project_id, eval_id, run_id), _address(request))


@router.post("/{run_id}/cancel")
def cancel_run(eval_id: str, run_id: str, request: Request, parts: PartsDep, caller: CallerDep) -> EvalRun:
    """Stop a run; what was graded until then is kept. 400 when it has ended. Any body is ignored."""
    with parts.db.transaction() as tx:
        return EvalRun.of(runs.cancel(tx, caller.project_id, eval_id, run_id), _address(request))


@router.post("/{run_id}")
def cancel_run_directly(eval_id: str, run_id: str, request: Request, parts: PartsDep, caller: CallerDep) -> EvalRun:
    """As `…/cancel`: where older SDKs send it."""
    return cancel_run(eval_id, run_id, request, parts, caller)


@router.delete("/{run_id}")
def delete_run(eval_id: str, run_id: str, parts: PartsDep, caller: CallerDep) -> DeletedRun:
    """Forget a run and its items; it stops if it is at work."""
    with parts.db.transaction() as tx:
        runs.delete(tx, caller.project_id, eval_id, run_id)
    return DeletedRun(object="eval.run.deleted", deleted=True, run_id=run_id)


@router.get("/{run_id}/output_items")
def list_output_items(
    eval_id: str,
    run_id: str,
    parts: PartsDep,
    caller: CallerDep,
    limit: Annotated[Limit, Query(description="Clamped to 1..100.")] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "asc",
    status: Annotated[
        Literal["pass", "fail", "failed", "error"] | None, Query(description="`failed` means `fail`.")
    ] = None,
) -> ItemPage:
    """What became of a run's items, in the order in which they were finished."""
    wanted = ITEM_STATUSES[status] if status else None
    with parts.db.read() as tx:
        run = runs.get(tx, caller.project_id, eval_id, run_id)
        return ItemPage.of(items.list_page(tx, run.id, limit=limit, after=after, order=order, status=wanted), eval_id)


@router.get("/{run_id}/output_items/{output_item_id}")
def retrieve_output_item(
    eval_id: str, run_id: str, output_item_id: str, parts: PartsDep, caller: CallerDep
) -> OutputItem:
    """What became of one item."""
    with parts.db.read() as tx:
        run = runs.get(tx, caller.project_id, eval_id, run_id)
        return OutputItem.of(items.get(tx, run.id, output_item_id), eval_id)


def _create(tx: Tx, caller: Caller, request: Request, of: EvalRecord, body: CreateRun, wish: Wish) -> RunRecord:
    name = body.name or wish.model or of.name
    wanted = (name, wish.model, wish.data_source, body.metadata or None)
    if wish.file is not None:
        files.get(tx, caller.project_id, wish.file.id, lock=True)

    def newest() -> list[RunRecord]:
        return runs.list_page(tx, caller.project_id, of.id, limit=retries.LOOK_BACK, order="desc").data

    def same(run: RunRecord) -> bool:
        return (run.name, run.model, run.data_source, run.metadata) == wanted and run.status is not RunStatus.CANCELED

    return retries.earlier(request, newest, same) or runs.create(
        tx,
        of,
        name=name,
        model=wish.model,
        data_source=wish.data_source,
        input_object=wish.file.object_key if wish.file else None,
        copies=wish.copies,
        metadata=body.metadata,
    )


def _ring(parts: Parts, run: RunRecord) -> None:
    """After the answer: wake a worker. The sweep does the same, so a failure loses nothing."""
    try:
        parts.sweep.evals.ring(run)
    except Exception:
        log.exception("could not ring for run %s; the sweep will", run.id)


def _address(request: Request) -> str:
    return str(request.base_url).rstrip("/")
