"""`/v1/rootstock/upgrades`: tuned models on their way to another base. Anyone may read and plan, owners start.

Planning and the steps are `service.upgrading`'s.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from rootstock import idempotency, upgrades
from service.deps import CallerDep, IdempotencyKeyDep, PartsDep, body_schema, json_body, owner
from service.query import Limit
from service.upgrading.planning import Planner
from service.wire import ErrorBody
from service.wire_upgrades import PlanUpgrade, ShownUpgrade, UpgradePage

router = APIRouter(prefix="/v1/rootstock/upgrades", tags=["upgrades"])

_OWNER: dict[int | str, dict[str, Any]] = {403: {"model": ErrorBody, "description": "The key's role may not do this."}}
_OWNERS = [owner("api.rootstock.upgrades.write")]


@router.post("", openapi_extra=body_schema(PlanUpgrade))
def plan_upgrade(
    body: Annotated[PlanUpgrade, json_body(PlanUpgrade)], parts: PartsDep, caller: CallerDep, key: IdempotencyKeyDep
) -> ShownUpgrade:
    """Plan: which models stand on the base, which of them can be tuned again on the other, and what that takes.

    Nothing is started and nothing is changed by it.
    """
    planner = Planner(parts.settings, caller, parts.upstream.most_rank)
    from_base, to_base = planner.bases(body.from_base, body.to_base)
    attempt = idempotency.Attempt(caller.project_id, "upgrade", key, body.model_dump(mode="json"))
    with parts.db.transaction() as tx:
        earlier = attempt.recall(tx)
        if earlier is not None:
            upgrade = upgrades.get(tx, caller.project_id, earlier)
        else:
            upgrade = upgrades.create(
                tx,
                caller.project_id,
                from_base=from_base,
                to_base=to_base,
                concurrency=body.concurrency,
                key_id=caller.key_id,
                found=planner.find(tx, from_base, to_base, body.models),
            )
            attempt.remember(tx, upgrade.id)
        return ShownUpgrade.whole(upgrade, upgrades.affected(tx, upgrade.id))


@router.get("")
def list_upgrades(
    parts: PartsDep,
    caller: CallerDep,
    limit: Annotated[Limit, Query(description="Clamped to 1..100.")] = 20,
    after: str | None = None,
) -> UpgradePage:
    """The project's upgrades, newest first, without their models."""
    with parts.db.read() as tx:
        page = upgrades.list_page(tx, caller.project_id, limit=limit, after=after)
        counts = upgrades.counts(tx, [one.id for one in page.data])
    return UpgradePage.of(page.data, counts, has_more=page.has_more)


@router.get("/{upgrade_id}")
def retrieve_upgrade(upgrade_id: str, parts: PartsDep, caller: CallerDep) -> ShownUpgrade:
    """One upgrade with all its models: plan and progress, old and new side by side, every alias that was moved."""
    with parts.db.read() as tx:
        upgrade = upgrades.get(tx, caller.project_id, upgrade_id)
        return ShownUpgrade.whole(upgrade, upgrades.affected(tx, upgrade.id))


@router.post("/{upgrade_id}/start", dependencies=_OWNERS, responses=_OWNER)
def start_upgrade(upgrade_id: str, parts: PartsDep, caller: CallerDep) -> ShownUpgrade:
    """Tune the waiting models again and move their aliases, each on the verdict `ship` alone; 400 when it has ended.

    Any body is ignored.
    """
    with parts.db.transaction() as tx:
        upgrade = upgrades.start(tx, caller.project_id, upgrade_id, caller.key_id)
        return ShownUpgrade.whole(upgrade, upgrades.affected(tx, upgrade.id))


@router.post("/{upgrade_id}/cancel", dependencies=_OWNERS, responses=_OWNER)
def cancel_upgrade(upgrade_id: str, parts: PartsDep, caller: CallerDep) -> ShownUpgrade:
    """Take no further step and cancel its jobs; moved aliases stay where they are. 400 when it has ended.

    Any body is ignored.
    """
    with parts.db.transaction() as tx:
        upgrade = upgrades.cancel(tx, caller.project_id, upgrade_id)
        return ShownUpgrade.whole(upgrade, upgrades.affected(tx, upgrade.id))
