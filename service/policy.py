"""`/v1/rootstock/policy`: what the project lets through. Anyone may read it, owners set it."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from rootstock import policies
from rootstock.policies import DataPolicy, Policy, ReleasePolicy
from rootstock.quality.kinds import Kind
from service.deps import CallerDep, PartsDep, body_schema, json_body, owner
from service.wire import ErrorBody, RequestModel, ResponseModel

router = APIRouter(prefix="/v1/rootstock/policy", tags=["policy"])

_OWNER: dict[int | str, dict[str, Any]] = {403: {"model": ErrorBody, "description": "The key's role may not do this."}}


class DataWish(RequestModel):
    """Kinds of findings that end a job before it is trained."""

    blocking: Annotated[list[Annotated[Kind, Field(strict=False)]], Field(max_length=len(Kind))] | None = None


class ReleaseWish(RequestModel):
    """What becomes of a tune that is held, and how much of a general suite's score may be lost."""

    mode: Literal["inform", "enforce"] | None = None
    forgetting_limit: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


class PolicyWish(RequestModel):
    """The body of `POST /v1/rootstock/policy`: what is left out stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"data": {"blocking": ["contradiction", "split_leak"]}, "release": {"mode": "enforce"}}]
        }
    )

    data: DataWish | None = None
    release: ReleaseWish | None = None


class ShownData(ResponseModel):
    """Kinds of findings that end a job before it is trained."""

    blocking: list[Kind]


class ShownRelease(ResponseModel):
    """What becomes of a tune that is held, and how much of a general suite's score may be lost."""

    mode: Literal["inform", "enforce"]
    forgetting_limit: float


class ShownPolicy(ResponseModel):
    """What the project lets through."""

    object: Literal["rootstock.policy"]
    data: ShownData
    release: ShownRelease


@router.get("")
def retrieve_policy(parts: PartsDep, caller: CallerDep) -> ShownPolicy:
    """The project's policy."""
    with parts.db.read() as tx:
        return _shown(policies.of(tx, caller.project_id))


@router.post(
    "", dependencies=[owner("api.rootstock.policy.write")], responses=_OWNER, openapi_extra=body_schema(PolicyWish)
)
def set_policy(body: Annotated[PolicyWish, json_body(PolicyWish)], parts: PartsDep, caller: CallerDep) -> ShownPolicy:
    """Change the policy for everything that is decided afterwards; what is left out stays as it is."""
    with parts.db.transaction() as tx:
        policy = policies.of(tx, caller.project_id)
        data = policy.data.model_dump() | (body.data.model_dump(exclude_none=True) if body.data else {})
        release = policy.release.model_dump() | (body.release.model_dump(exclude_none=True) if body.release else {})
        wanted = Policy(data=DataPolicy.model_validate(data), release=ReleasePolicy.model_validate(release))
        return _shown(policies.put(tx, caller, wanted))


def _shown(policy: Policy) -> ShownPolicy:
    return ShownPolicy.model_validate({"object": "rootstock.policy"} | policy.model_dump())
