"""`/v1/rootstock/jobs/{id}/release`: what was decided about a tune, and an owner's word against it.

Anyone in the project may look, owners decide. How a tune is measured is `service.releasing`'s.
"""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter
from pydantic import ConfigDict, StringConstraints

from rootstock import jobs, releases
from rootstock.records import JobRecord
from rootstock.releases import Release
from service.deps import CallerDep, PartsDep, body_schema, json_body, owner
from service.wire import ErrorBody, RequestModel, ResponseModel
from service.wire_release import ShownRelease
from service.wire_values import PRINTABLE

router = APIRouter(prefix="/v1/rootstock/jobs", tags=["release"])

_REFUSED: dict[int | str, dict[str, Any]] = {
    403: {"model": ErrorBody, "description": "The key's role may not do this."},
    409: {"model": ErrorBody, "description": "An alias points to what would be held again."},
}


class Override(RequestModel):
    """The body of `POST …/release`: let a held tune out (the default), or hold it again."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reason": "the support team compared them"}, {"released": False}]}
    )

    released: bool = True
    reason: Annotated[str, StringConstraints(min_length=1, max_length=512), *PRINTABLE] | None = None


class ShownOverride(ResponseModel):
    """What an owner said: `key_id` is the key that said it."""

    released: bool
    key_id: str
    at: int
    reason: str | None


class ReleaseObject(ResponseModel):
    """A tune on its way out: `baseline` while its base is measured, `tuned` until it is measured itself, `done`.

    `release` is what the job shows too; `overrides` are all decisions of owners, oldest first.
    """

    object: Literal["rootstock.release"]
    job_id: str
    state: Literal["baseline", "tuned", "done"]
    release: ShownRelease | None
    overrides: list[ShownOverride]

    @classmethod
    def of(cls, job: JobRecord, found: Release | None) -> Self:
        """The wire form of a row; a job without held-out data has none until its end."""
        return cls.model_validate(
            {
                "object": "rootstock.release",
                "job_id": job.id,
                "state": found.state if found else "tuned",
                "release": None if found is None or found.result is None else ShownRelease.of(found.result),
                "overrides": found.overrides if found else [],
            }
        )


@router.get("/{job_id}/release")
def retrieve_release(job_id: str, parts: PartsDep, caller: CallerDep) -> ReleaseObject:
    """What was measured and decided about the job's tune."""
    with parts.db.read() as tx:
        job = jobs.get(tx, caller.project_id, job_id)
        return ReleaseObject.of(job, releases.of_job(tx, job.id))


@router.post(
    "/{job_id}/release",
    dependencies=[owner("api.rootstock.releases.write")],
    responses=_REFUSED,
    openapi_extra=body_schema(Override),
)
def override_release(
    job_id: str, body: Annotated[Override, json_body(Override)], parts: PartsDep, caller: CallerDep
) -> ReleaseObject:
    """Let a held tune answer, or hold it again; who said so, when and why is kept. 400 where nothing is held."""
    with parts.db.transaction() as tx:
        job = jobs.get(tx, caller.project_id, job_id)
        found = releases.override(tx, caller, job.id, released=body.released, reason=body.reason)
        return ReleaseObject.of(job, found)
