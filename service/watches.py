"""`/v1/rootstock/watches`: live traffic compared with training sets. Anyone may read, owners decide what is watched.

Which calls are looked at is `service.sampling`'s, how they are compared `rootstock.drift`'s.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from starlette.responses import HTMLResponse

from rootstock import watch_counts, watches
from service import watch_page
from service.deps import CallerDep, PartsDep, body_schema, json_body, owner
from service.pages import POLICY
from service.query import Limit
from service.wire import Deleted, ErrorBody, ends
from service.wire_watches import Alarm, AlarmPage, CreateWatch, Rearm, Watch, WatchPage

router = APIRouter(prefix="/v1/rootstock", tags=["watches"])

_OWNER: dict[int | str, dict[str, Any]] = {403: {"model": ErrorBody, "description": "The key's role may not do this."}}
_NO_MODEL: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such model or file."}}
_OWNERS = [owner("api.rootstock.watches.write")]

WatchId = Annotated[str, Path(description="The id of a watch.")]


@router.post("/watches", dependencies=_OWNERS, responses=_OWNER | _NO_MODEL, openapi_extra=body_schema(CreateWatch))
def create_watch(body: Annotated[CreateWatch, json_body(CreateWatch)], parts: PartsDep, caller: CallerDep) -> Watch:
    """Compare what a tuned model or an alias is asked from now on with what it was trained on."""
    with parts.db.transaction() as tx:
        made = watches.create(
            tx,
            caller,
            body.model,
            file_id=body.file,
            sample_rate=body.sample_rate,
            store_samples=body.store_samples,
        )
    return Watch.of(made, None)


@router.get("/watches")
def list_watches(
    parts: PartsDep,
    caller: CallerDep,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> WatchPage:
    """The project's watches, newest first."""
    with parts.db.read() as tx:
        page = watches.list_page(tx, caller.project_id, limit=min(limit, watches.MOST), after=after, order=order)
        data = [Watch.of(record, watch_counts.read(tx, record)) for record in page.data]
    first, last = ends(page.data)
    return WatchPage(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


@router.get(
    "/watches/{watch_id}.html",
    response_class=HTMLResponse,
    responses={200: {"description": "The page.", "content": {"text/html": {"schema": {"type": "string"}}}}},
)
def watch_as_page(watch_id: WatchId, parts: PartsDep, caller: CallerDep) -> HTMLResponse:
    """A watch to look at: its distances over time, its alarms and the calls behind them."""
    with parts.db.read() as tx:
        record = watches.get(tx, caller.project_id, watch_id)
        counts = watch_counts.read(tx, record)
        alarms = watches.alarms_page(tx, caller.project_id, record.id, limit=watch_page.MOST_ALARMS, after=None)
    points = counts.state.points if counts else []
    text = watch_page.page(Watch.of(record, counts), points, [Alarm.of(alarm) for alarm in alarms.data])
    return HTMLResponse(text, headers={"content-security-policy": POLICY})


@router.get("/watches/{watch_id}")
def retrieve_watch(watch_id: WatchId, parts: PartsDep, caller: CallerDep) -> Watch:
    """What a watch compares, and how far apart the two are now."""
    with parts.db.read() as tx:
        record = watches.get(tx, caller.project_id, watch_id)
        return Watch.of(record, watch_counts.read(tx, record))


@router.delete("/watches/{watch_id}", dependencies=_OWNERS, responses=_OWNER)
def delete_watch(watch_id: WatchId, parts: PartsDep, caller: CallerDep) -> Deleted:
    """End a watch, with its counts, its alarms and the calls that these hold."""
    with parts.db.transaction() as tx:
        watches.delete(tx, caller.project_id, watch_id)
    return Deleted(id=watch_id, object="rootstock.watch", deleted=True)


@router.post("/watches/{watch_id}/rearm", dependencies=_OWNERS, responses=_OWNER, openapi_extra=body_schema(Rearm))
def rearm_watch(
    watch_id: WatchId, body: Annotated[Rearm, json_body(Rearm)], parts: PartsDep, caller: CallerDep
) -> Watch:
    """Let kinds that are silent after an alarm give the next one; with `accept`, not for what is usual by now."""
    with parts.db.transaction() as tx:
        record = watches.get(tx, caller.project_id, watch_id)
        watch_counts.rearm(tx, record, accept=body.accept)
        return Watch.of(record, watch_counts.read(tx, record))


@router.get("/watches/{watch_id}/alarms")
def list_alarms(
    watch_id: WatchId,
    parts: PartsDep,
    caller: CallerDep,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> AlarmPage:
    """The alarms of a watch, newest first."""
    with parts.db.read() as tx:
        return AlarmPage.of(watches.alarms_page(tx, caller.project_id, watch_id, limit=limit, after=after, order=order))


@router.get("/alarms/{alarm_id}")
def retrieve_alarm(
    alarm_id: Annotated[str, Path(description="The id of an alarm, as webhooks tell it.")],
    parts: PartsDep,
    caller: CallerDep,
) -> Alarm:
    """One alarm."""
    with parts.db.read() as tx:
        return Alarm.of(watches.alarm(tx, caller.project_id, alarm_id))
