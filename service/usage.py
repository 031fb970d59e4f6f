"""`/v1/rootstock/usage`: how much inference the caller's project had. Reads the sums; nothing is counted here."""

from datetime import UTC, date, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from rootstock import usage
from rootstock.errors import InvalidValue
from rootstock.usage import Column, UsageRow
from service.deps import CallerDep, PartsDep
from service.query import Day
from service.wire import ResponseModel

DEFAULT_DAYS = 30
MAX_DAYS = 366

_GROUPS: dict[str | None, tuple[Column, ...]] = {
    None: ("day", "model"),
    "day": ("day",),
    "model": ("model",),
    "none": (),
}

router = APIRouter(prefix="/v1/rootstock/usage", tags=["usage"])


class Row(ResponseModel):
    """One sum; `day` or `model` is null where it was summed over. Failed requests are among the requests."""

    object: Literal["rootstock.usage.row"]
    day: date | None
    model: str | None
    requests: int
    failed_requests: int
    prompt_tokens: int
    completion_tokens: int


class Usage(ResponseModel):
    """The project's sums from `start` to `end`, both included; days begin at midnight UTC."""

    object: Literal["rootstock.usage"]
    start: date
    end: date
    data: list[Row]


@router.get("")
def retrieve_usage(
    parts: PartsDep,
    caller: CallerDep,
    start: Annotated[
        Day | None,
        Query(description="First day, UTC. Without it `end` is the last of 30 days.", examples=["2026-01-01"]),
    ] = None,
    end: Annotated[
        Day | None, Query(description="Last day, UTC, at most 366 days in all; today where it is left out.")
    ] = None,
    group_by: Annotated[
        Literal["model", "day", "none"] | None,
        Query(description="One row for each model, for each day, or in all. Without it one for each day and model."),
    ] = None,
    model: Annotated[str | None, Query(description="Only this name, as it was asked for.")] = None,
) -> Usage:
    """Requests and tokens of chat completions, completions and batches. What happens now shows a few seconds later."""
    first, last = _span(start, end)
    with parts.db.read() as tx:
        rows = usage.read(tx, caller.project_id, first.isoformat(), last.isoformat(), by=_GROUPS[group_by], model=model)
    return Usage(object="rootstock.usage", start=first, end=last, data=[_row(row) for row in rows])


def _span(start: date | None, end: date | None) -> tuple[date, date]:
    last = end or datetime.now(UTC).date()
    first = start or date.fromordinal(max(1, last.toordinal() - DEFAULT_DAYS + 1))
    if first > last:
        raise InvalidValue(f"Invalid 'start': it must not lie after 'end' ({last}).", param="start")
    if (last - first).days >= MAX_DAYS:
        raise InvalidValue(f"Invalid 'start': at most {MAX_DAYS} days may be asked for at a time.", param="start")
    return first, last


def _row(row: UsageRow) -> Row:
    return Row(
        object="rootstock.usage.row",
        day=None if row.day is None else date.fromisoformat(row.day),
        model=row.model,
        requests=row.amounts.requests,
        failed_requests=row.amounts.failed_requests,
        prompt_tokens=row.amounts.prompt_tokens,
        completion_tokens=row.amounts.completion_tokens,
    )
