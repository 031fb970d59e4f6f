"""`/v1/rootstock/suites`: a project's own questions to its tunes. Anyone may read, owners make and delete.

When they are asked is `service.releasing`'s, what an answer is worth `rootstock.release`'s.
"""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field

from rootstock import policies, project_suites
from rootstock.project_suites import SuiteRecord
from service.deps import CallerDep, PartsDep, body_schema, json_body, owner
from service.query import Limit
from service.wire import Deleted, ErrorBody, RequestModel, ResponseModel, ends

router = APIRouter(prefix="/v1/rootstock/suites", tags=["suites"])

_OWNER: dict[int | str, dict[str, Any]] = {403: {"model": ErrorBody, "description": "The key's role may not do this."}}
_MAKING: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "No such file."},
    409: {"model": ErrorBody, "description": "The project has a suite of this name."},
}
_OWNERS = [owner("api.rootstock.suites.write")]

SuiteId = Annotated[str, Path(description="The id of a suite.")]


class CreateSuite(RequestModel):
    """The body of `POST /v1/rootstock/suites`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "support-tone", "file_id": "file-abc123"}]})

    name: Annotated[str, Field(json_schema_extra={"pattern": f"^{project_suites.NAME.pattern}$"})]
    file_id: Annotated[str, Field(description="JSON lines with the purpose `evals`; it may be deleted afterwards.")]


class ShownProjectSuite(ResponseModel):
    """Questions that every tune of the project is asked; `limit` is what the policy lets a tune lose of them, of 1."""

    object: Literal["rootstock.suite"]
    id: str
    name: str
    questions: int
    limit: float
    created_at: int

    @classmethod
    def of(cls, record: SuiteRecord, policy: policies.Policy) -> Self:
        """A record on the wire."""
        return cls(
            object="rootstock.suite",
            id=record.id,
            name=record.name,
            questions=record.questions,
            limit=policy.release.limit_of(record.name),
            created_at=int(record.created_at),
        )


class SuitePage(ResponseModel):
    """A page of suites."""

    object: Literal["list"]
    data: list[ShownProjectSuite]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", dependencies=_OWNERS, responses=_OWNER | _MAKING, openapi_extra=body_schema(CreateSuite))
def create_suite(
    body: Annotated[CreateSuite, json_body(CreateSuite)], parts: PartsDep, caller: CallerDep
) -> ShownProjectSuite:
    """Have every tune of the project, and its base before, asked the questions of a file. They are kept."""
    folder = parts.settings.suites_dir
    project_suites.check_name(body.name, folder)
    with parts.db.read() as tx:
        file = project_suites.file(tx, caller.project_id, body.file_id)
    suite = project_suites.parse(body.name, file.id, parts.store.get(file.object_key))
    with parts.db.transaction() as tx:
        made = project_suites.create(tx, caller, suite, folder=folder)
        return ShownProjectSuite.of(made, policies.of(tx, caller.project_id))


@router.get("")
def list_suites(
    parts: PartsDep,
    caller: CallerDep,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> SuitePage:
    """The project's own suites, newest first."""
    with parts.db.read() as tx:
        page = project_suites.list_page(tx, caller.project_id, limit=limit, after=after, order=order)
        policy = policies.of(tx, caller.project_id)
    data = [ShownProjectSuite.of(record, policy) for record in page.data]
    first, last = ends(page.data)
    return SuitePage(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


@router.get("/{suite_id}")
def retrieve_suite(suite_id: SuiteId, parts: PartsDep, caller: CallerDep) -> ShownProjectSuite:
    """One suite of the project."""
    with parts.db.read() as tx:
        record = project_suites.get(tx, caller.project_id, suite_id)
        return ShownProjectSuite.of(record, policies.of(tx, caller.project_id))


@router.delete("/{suite_id}", dependencies=_OWNERS, responses=_OWNER)
def delete_suite(suite_id: SuiteId, parts: PartsDep, caller: CallerDep) -> Deleted:
    """Remove a suite with its questions; releases that are under way may still be judged by it."""
    with parts.db.transaction() as tx:
        project_suites.delete(tx, caller.project_id, suite_id)
    return Deleted(id=suite_id, object="rootstock.suite", deleted=True)
