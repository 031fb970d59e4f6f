"""`/v1/chat/completions` for what was stored: list, retrieve, relabel, delete, messages. Asking is `inference`'s."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request

from rootstock import completions
from rootstock.errors import InvalidValue
from service.deps import CallerDep, PartsDep, body_schema, json_body
from service.query import METADATA_FILTER, Limit, metadata_filter
from service.wire import Deleted, ends
from service.wire_completions import (
    CompletionPage,
    MessagePage,
    StoredCompletion,
    StoredMessage,
    UpdateCompletion,
)

router = APIRouter(prefix="/v1/chat/completions", tags=["stored completions"])


@router.get("", openapi_extra={"parameters": [METADATA_FILTER]})
def list_completions(
    request: Request,
    parts: PartsDep,
    caller: CallerDep,
    model: Annotated[str | None, Query(description="Only answers under this name of a model.")] = None,
    after: str | None = None,
    limit: Annotated[Limit, Query(description="Clamped to 1..100.")] = 20,
    order: Literal["asc", "desc"] = "asc",
) -> CompletionPage:
    """The project's stored completions, oldest first; `metadata[k]=v` filters (all must match)."""
    wanted, without = metadata_filter(request)
    with parts.db.read() as tx:
        page = completions.list_page(
            tx,
            caller.project_id,
            limit=limit,
            after=after,
            order=order,
            model=model,
            metadata=wanted,
            without_metadata=without,
        )
    return CompletionPage.of(page)


@router.get("/{completion_id}")
def retrieve_completion(completion_id: str, parts: PartsDep, caller: CallerDep) -> StoredCompletion:
    """One stored completion."""
    with parts.db.read() as tx:
        return StoredCompletion.of(completions.get(tx, caller.project_id, completion_id))


@router.post("/{completion_id}", openapi_extra=body_schema(UpdateCompletion))
def update_completion(
    completion_id: str,
    body: Annotated[UpdateCompletion, json_body(UpdateCompletion)],
    parts: PartsDep,
    caller: CallerDep,
) -> StoredCompletion:
    """Replace the metadata of a stored completion."""
    with parts.db.transaction() as tx:
        return StoredCompletion.of(completions.relabel(tx, caller.project_id, completion_id, body.metadata))


@router.delete("/{completion_id}")
def delete_completion(completion_id: str, parts: PartsDep, caller: CallerDep) -> Deleted:
    """Forget a stored completion."""
    with parts.db.transaction() as tx:
        completions.delete(tx, caller.project_id, completion_id)
    return Deleted(id=completion_id, object="chat.completion.deleted", deleted=True)


@router.get("/{completion_id}/messages")
def list_messages(
    completion_id: str,
    parts: PartsDep,
    caller: CallerDep,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "asc",
) -> MessagePage:
    """What was sent to the model, in the order of the conversation."""
    with parts.db.read() as tx:
        messages = StoredMessage.all_of(completions.get(tx, caller.project_id, completion_id))
    if order == "desc":
        messages.reverse()
    if after is not None:
        seen = [message.id for message in messages]
        if after not in seen:
            raise InvalidValue(f"No element with id '{after[:64]}' to continue after.", param="after")
        messages = messages[seen.index(after) + 1 :]
    page = messages[: max(1, limit)]
    first, last = ends(page)
    return MessagePage(object="list", data=page, first_id=first, last_id=last, has_more=len(messages) > len(page))
