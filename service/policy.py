"""`/v1/rootstock/policy`: what the project lets through. Anyone may read it, owners set it."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from rootstock import policies, project_suites
from rootstock.db import Tx
from rootstock.errors import InvalidValue
from rootstock.policies import DataPolicy, Policy, ReleasePolicy
from rootstock.quality.kinds import Kind
from rootstock.records import Caller
from service.deps import CallerDep, Parts, PartsDep, body_schema, json_body, owner
from service.wire import ErrorBody, RequestModel, ResponseModel

router = APIRouter(prefix="/v1/rootstock/policy", tags=["policy"])

_OWNER: dict[int | str, dict[str, Any]] = {403: {"model": ErrorBody, "description": "The key's role may not do this."}}


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class DataWish(RequestModel):
    """Kinds of findings that end a job before it is trained."""

    blocking: Annotated[list[Annotated[Kind, Field(strict=False)]], Field(max_length=len(Kind))] | None = None


class ReleaseWish(RequestModel):
    """What becomes of a tune that is held, and how much of a general suite's score may be lost.

    `suite_limits` are by the names of suites; `null` takes one back to the `forgetting_limit`.
    """

    mode: Literal["inform", "enforce"] | None = None
    forgetting_limit: Share | None = None
    suite_limits: Annotated[dict[str, Share | None], Field(max_length=policies.MOST_LIMITS)] | None = None


class PolicyWish(RequestModel):
    """The body of `POST /v1/rootstock/policy`: what is left out stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"data": {"blocking": ["contradiction", "split_leak"]}, "release": {"mode": "enforce"}},
                {"release": {"forgetting_limit": 0.05, "suite_limits": {"formats": 0.2}}},
            ]
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
    suite_limits: dict[str, float]


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
        release["suite_limits"] = _limits(tx, parts, caller, policy, body)
        wanted = Policy(data=DataPolicy.model_validate(data), release=ReleasePolicy.model_validate(release))
        return _shown(policies.put(tx, caller, wanted))


def _limits(tx: Tx, parts: Parts, caller: Caller, policy: Policy, body: PolicyWish) -> dict[str, float]:
    """Those that were there with those asked for. Raises `InvalidValue` for names of no suite, and for too many."""
    asked = (body.release and body.release.suite_limits) or {}
    known = project_suites.names(tx, caller.project_id, parts.settings.suites_dir)
    if unknown := sorted(name for name, limit in asked.items() if limit is not None and name not in known):
        raise InvalidValue(
            f"There is no suite named '{unknown[0][:64]}'. There are: {', '.join(sorted(known))}.",
            param="release.suite_limits",
        )
    limits = {name: limit for name, limit in {**policy.release.suite_limits, **asked}.items() if limit is not None}
    if len(limits) > policies.MOST_LIMITS:
        raise InvalidValue(
            f"A policy has at most {policies.MOST_LIMITS} limits of suites; take back those that are not needed.",
            param="release.suite_limits",
        )
    return limits


def _shown(policy: Policy) -> ShownPolicy:
    return ShownPolicy.model_validate({"object": "rootstock.policy"} | policy.model_dump())
