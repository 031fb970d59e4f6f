"""`/v1/rootstock/aliases`: names that stay while the models behind them change. Anyone may read, owners move.

Which model answers a request is decided by `service.gateway`.
"""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Path
from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from rootstock import aliases
from rootstock.aliases import AliasMove, AliasRecord, Target
from rootstock.records import Page
from service.deps import CallerDep, PartsDep, body_schema, json_body, owner
from service.query import Limit
from service.wire import Deleted, ErrorBody, RequestModel, ResponseModel, ends
from service.wire_values import integral

router = APIRouter(prefix="/v1/rootstock/aliases", tags=["aliases"])

_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorBody, "description": "The alias was moved by somebody else meanwhile."}
}
_OWNER: dict[int | str, dict[str, Any]] = {403: {"model": ErrorBody, "description": "The key's role may not do this."}}
_NO_MODEL: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "The project may not call such a model."}
}
_OWNERS = [owner("api.rootstock.aliases.write")]

Name = Annotated[str, Path(description="The name of the alias.")]
Note = Annotated[str, StringConstraints(max_length=512)]
Revision = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(integral)]


class CanaryBody(RequestModel):
    """A model that answers for a share of the users."""

    model: str
    percent: Annotated[int, Field(ge=1, le=99), BeforeValidator(integral)]


class PutAlias(RequestModel):
    """The body of `POST /v1/rootstock/aliases`: makes the alias, or moves it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "acme-support", "model": "ft:gpt-4o-mini-2024-07-18:acme:support:7p4lURel"},
                {
                    "name": "acme-support",
                    "model": "ft:gpt-4o-mini-2024-07-18:acme:support:7p4lURel",
                    "canary": {"model": "ft:gpt-4o-mini-2024-07-18:acme:support:9k2mQwXy", "percent": 10},
                    "expected_revision": 1,
                    "note": "try the March data on a tenth",
                },
            ]
        }
    )

    name: Annotated[str, Field(json_schema_extra={"pattern": f"^{aliases.NAME.pattern}$"})]
    model: str
    canary: CanaryBody | None = None
    pinned: bool | None = None
    expected_revision: Revision | None = None
    note: Note | None = None

    @property
    def target(self) -> Target:
        """Where the alias shall point."""
        return Target(self.model) if self.canary is None else Target(self.model, self.canary.model, self.canary.percent)


class RollBack(RequestModel):
    """The body of `POST …/rollback`: to before the last move, or to a revision."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"revision": 3, "note": "the new tune is rude"}]})

    revision: Annotated[Revision, Field(ge=1)] | None = None
    note: Note | None = None


class Canary(ResponseModel):
    """A model that answers for a share of the users: the same users each time."""

    model: str
    percent: int


class Where(ResponseModel):
    """Where an alias points, or pointed."""

    model: str
    canary: Canary | None

    @classmethod
    def of(cls, target: Target) -> Self:
        """A target on the wire."""
        return cls(model=target.model, canary=_canary(target))


class Alias(ResponseModel):
    """A name that may be used as `model` in every request for an answer."""

    object: Literal["rootstock.alias"]
    id: str
    name: str
    model: str
    canary: Canary | None
    pinned: bool
    revision: int
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, record: AliasRecord) -> Self:
        """A record on the wire."""
        return cls(
            object="rootstock.alias",
            id=record.id,
            name=record.name,
            model=record.target.model,
            canary=_canary(record.target),
            pinned=record.pinned,
            revision=record.revision,
            created_at=int(record.created_at),
            updated_at=int(record.updated_at),
        )


class Move(ResponseModel):
    """One move of an alias: who moved it when, from where to where. `to` is `null` where it was deleted."""

    object: Literal["rootstock.alias.move"]
    id: str
    revision: int
    from_: Annotated[Where | None, Field(alias="from")]
    to: Where | None
    moved_by: str
    note: str | None
    moved_at: int

    @classmethod
    def of(cls, record: AliasMove) -> Self:
        """A record on the wire."""
        before, after = (None if state is None else Where.of(state) for state in (record.before, record.after))
        facts = {"object": "rootstock.alias.move", "id": record.id, "revision": record.revision}
        more = {"moved_by": record.key_id, "note": record.note, "moved_at": int(record.moved_at)}
        return cls.model_validate(facts | more | {"from": before, "to": after})


class AliasPage(ResponseModel):
    """A page of aliases."""

    object: Literal["list"]
    data: list[Alias]
    first_id: str | None
    last_id: str | None
    has_more: bool


class MovePage(ResponseModel):
    """A page of an alias's history."""

    object: Literal["list"]
    data: list[Move]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", dependencies=_OWNERS, responses=_OWNER | _NO_MODEL | _CONFLICT, openapi_extra=body_schema(PutAlias))
def put_alias(body: Annotated[PutAlias, json_body(PutAlias)], parts: PartsDep, caller: CallerDep) -> Alias:
    """Make an alias, or move it: every request that begins afterwards is answered by the new model."""
    with parts.db.transaction() as tx:
        record = aliases.put(
            tx,
            parts.settings,
            caller,
            body.name,
            body.target,
            pinned=body.pinned,
            expected_revision=body.expected_revision,
            note=body.note,
        )
    return Alias.of(record)


@router.get("")
def list_aliases(
    parts: PartsDep,
    caller: CallerDep,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "asc",
) -> AliasPage:
    """The project's aliases, oldest first."""
    with parts.db.read() as tx:
        page: Page[AliasRecord] = aliases.list_page(tx, caller.project_id, limit=limit, after=after, order=order)
    first, last = ends(page.data)
    data = [Alias.of(record) for record in page.data]
    return AliasPage(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


@router.get("/{name}")
def retrieve_alias(name: Name, parts: PartsDep, caller: CallerDep) -> Alias:
    """Where an alias points now."""
    with parts.db.read() as tx:
        return Alias.of(aliases.get(tx, caller.project_id, name))


@router.delete("/{name}", dependencies=_OWNERS, responses=_OWNER | _CONFLICT)
def delete_alias(name: Name, parts: PartsDep, caller: CallerDep) -> Deleted:
    """Refuse the name from now on. Its history stays, and continues if an alias of that name is made again."""
    with parts.db.transaction() as tx:
        aliases.delete(tx, caller, name)
    return Deleted(id=name, object="rootstock.alias", deleted=True)


@router.post(
    "/{name}/rollback", dependencies=_OWNERS, responses=_OWNER | _CONFLICT, openapi_extra=body_schema(RollBack)
)
def roll_back_alias(
    name: Name, body: Annotated[RollBack, json_body(RollBack)], parts: PartsDep, caller: CallerDep
) -> Alias:
    """Point the alias where it pointed before its last move, or at a revision. That too is a move in its history."""
    with parts.db.transaction() as tx:
        record = aliases.roll_back(tx, parts.settings, caller, name, revision=body.revision, note=body.note)
    return Alias.of(record)


@router.get("/{name}/history")
def alias_history(
    name: Name,
    parts: PartsDep,
    caller: CallerDep,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> MovePage:
    """Every move of the alias, the latest first."""
    with parts.db.read() as tx:
        page: Page[AliasMove] = aliases.history(tx, caller.project_id, name, limit=limit, after=after, order=order)
    first, last = ends(page.data)
    data = [Move.of(record) for record in page.data]
    return MovePage(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


def _canary(target: Target) -> Canary | None:
    if target.canary_model is None:
        return None
    return Canary(model=target.canary_model, percent=target.canary_percent)
