"""`/v1/fine_tuning/checkpoints/{name}/permissions`: letting other projects use a tuned model. For owners only."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from rootstock import permissions
from rootstock.paging import Order
from rootstock.records import Page, PermissionRecord
from service.deps import CallerDep, PartsDep, body_schema, json_body, owner
from service.query import Limit
from service.wire import Deleted, ErrorBody, RequestModel, ResponseModel, ends

MAX_PROJECTS = 100

router = APIRouter(
    prefix="/v1/fine_tuning/checkpoints",
    tags=["fine-tuning"],
    dependencies=[owner("api.fine_tuning.checkpoints.write")],
    responses={403: {"model": ErrorBody, "description": "The key's role may not do this."}},
)


class CreatePermissions(RequestModel):
    """The body of `POST …/permissions`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"project_ids": ["proj_abc123"]}]})

    project_ids: Annotated[list[str], Field(min_length=1, max_length=MAX_PROJECTS)]


class Permission(ResponseModel):
    """A project that may use the model."""

    id: str
    object: Literal["checkpoint.permission"]
    created_at: int
    project_id: str


class PermissionPage(ResponseModel):
    """A page of permissions. The SDKs go on from `last_id`."""

    object: Literal["list"]
    data: list[Permission]
    first_id: str | None
    last_id: str | None
    has_more: bool


# Greedy, because SDKs encode `/` inside a name as %2F and servers decode it before routing.
@router.post("/{model:path}/permissions", openapi_extra=body_schema(CreatePermissions))
def create_permissions(
    model: str, body: Annotated[CreatePermissions, json_body(CreatePermissions)], parts: PartsDep, caller: CallerDep
) -> PermissionPage:
    """Let projects list, call and tune further a model or checkpoint; deleting it stays yours."""
    with parts.db.transaction() as tx:
        granted = permissions.grant(tx, caller.project_id, model, body.project_ids)
    return _page(Page(granted))


@router.get("/{model:path}/permissions")
def list_permissions(
    model: str,
    parts: PartsDep,
    caller: CallerDep,
    project_id: Annotated[str | None, Query(description="Only this project's permission.")] = None,
    after: str | None = None,
    limit: Limit = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> PermissionPage:
    """Who may use the model, the latest permission first."""
    direction: Order = "asc" if order == "ascending" else "desc"
    with parts.db.read() as tx:
        page = permissions.list_page(
            tx, caller.project_id, model, guest=project_id, limit=limit, after=after, order=direction
        )
    return _page(page)


@router.delete("/{model:path}/permissions/{permission_id}")
def delete_permission(model: str, permission_id: str, parts: PartsDep, caller: CallerDep) -> Deleted:
    """Refuse that project from now on."""
    with parts.db.transaction() as tx:
        permissions.revoke(tx, caller.project_id, model, permission_id)
    return Deleted(id=permission_id, object="checkpoint.permission", deleted=True)


def _page(page: Page[PermissionRecord]) -> PermissionPage:
    first, last = ends(page.data)
    data = [
        Permission(
            id=record.id,
            object="checkpoint.permission",
            created_at=int(record.created_at),
            project_id=record.project_id,
        )
        for record in page.data
    ]
    return PermissionPage(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)
