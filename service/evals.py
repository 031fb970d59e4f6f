"""`/v1/evals`: create, retrieve, list, rename, delete. Knows nothing about how a run is done; `eval_runs` has those."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from rootstock import idempotency
from rootstock.evals import definitions
from service.deps import CallerDep, IdempotencyKeyDep, PartsDep, body_schema, json_body
from service.query import Limit
from service.wire_evals import CreateEval, DeletedEval, Eval, EvalPage, UpdateEval

router = APIRouter(prefix="/v1/evals", tags=["evals"])

CREATED = 201
"""What the SDK's server answers here; elsewhere creating is 200."""


@router.post("", status_code=CREATED, openapi_extra=body_schema(CreateEval))
def create_eval(
    body: Annotated[CreateEval, json_body(CreateEval)], parts: PartsDep, caller: CallerDep, key: IdempotencyKeyDep
) -> Eval:
    """Say what is measured and by which criteria. A repeated `Idempotency-Key` gets the same eval."""
    config, testing_criteria = body.checked()
    attempt = idempotency.Attempt(caller.project_id, "eval", key, body.model_dump(mode="json"))
    with parts.db.transaction() as tx:
        earlier = attempt.recall(tx)
        if earlier is not None:
            return Eval.of(definitions.get(tx, caller.project_id, earlier))
        made = definitions.create(
            tx,
            caller.project_id,
            name=body.name or "",
            data_source_config=config,
            testing_criteria=testing_criteria,
            metadata=body.metadata,
        )
        attempt.remember(tx, made.id)
    return Eval.of(made)


@router.get("")
def list_evals(
    parts: PartsDep,
    caller: CallerDep,
    limit: Annotated[Limit, Query(description="Clamped to 1..100.")] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "asc",
    order_by: Annotated[
        Literal["created_at", "updated_at"], Query(description="By when it was made, or last changed.")
    ] = "created_at",
) -> EvalPage:
    """The project's evals, oldest first."""
    with parts.db.read() as tx:
        page = definitions.list_page(tx, caller.project_id, limit=limit, after=after, order=order, order_by=order_by)
    return EvalPage.of(page)


@router.get("/{eval_id}")
def retrieve_eval(eval_id: str, parts: PartsDep, caller: CallerDep) -> Eval:
    """One eval."""
    with parts.db.read() as tx:
        return Eval.of(definitions.get(tx, caller.project_id, eval_id))


@router.post("/{eval_id}", openapi_extra=body_schema(UpdateEval))
def update_eval(
    eval_id: str, body: Annotated[UpdateEval, json_body(UpdateEval)], parts: PartsDep, caller: CallerDep
) -> Eval:
    """Rename an eval or replace its metadata; what it measures never changes."""
    values: dict[str, Any] = {}
    if "metadata" in body.model_fields_set:
        values["metadata"] = body.metadata or None
    if body.name is not None:
        values["name"] = body.name
    with parts.db.transaction() as tx:
        return Eval.of(definitions.change(tx, caller.project_id, eval_id, **values))


@router.delete("/{eval_id}")
def delete_eval(eval_id: str, parts: PartsDep, caller: CallerDep) -> DeletedEval:
    """Forget an eval with all its runs and their items; runs at work stop."""
    with parts.db.transaction() as tx:
        definitions.delete(tx, caller.project_id, eval_id)
    return DeletedEval(object="eval.deleted", deleted=True, eval_id=eval_id)
