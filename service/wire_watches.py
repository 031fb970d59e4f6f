"""Bodies of watches and their alarms. Knows no HTTP and no database."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field

from rootstock.records import Page
from rootstock.watch_counts import Counts
from rootstock.watches import AlarmRecord, WatchRecord
from service.wire import RequestModel, ResponseModel, ends, whole

Kind = Literal["prompt", "length", "label", "schema", "refusal"]


class CreateWatch(RequestModel):
    """The body of `POST /v1/rootstock/watches`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "ft:gpt-4o-mini-2024-07-18:acme:support:7p4lURel"},
                {"model": "acme-support", "file": "file-abc123", "sample_rate": 0.5, "store_samples": True},
            ]
        }
    )

    model: str
    file: str | None = None
    sample_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    store_samples: bool = False


class Rearm(RequestModel):
    """The body of `POST …/rearm`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"accept": True}]})

    accept: bool = False


class Watch(ResponseModel):
    """A comparison of live traffic with a training set."""

    object: Literal["rootstock.watch"]
    id: str
    model: str
    alias: str | None
    file: str
    status: Literal["profiling", "watching", "failed"]
    reason: str | None
    sample_rate: float
    store_samples: bool
    examples: int | None
    calls: int
    dropped: int
    distances: dict[Kind, float] | None
    silent: list[Kind]
    created_at: int
    updated_at: int | None

    @classmethod
    def of(cls, record: WatchRecord, counts: Counts | None) -> Self:
        """A record on the wire, with what was counted."""
        latest: dict[str, Any] = counts.state.points[-1] if counts and counts.state.points else {}
        return cls.model_validate(
            {
                "object": "rootstock.watch",
                "id": record.id,
                "model": record.model,
                "alias": record.alias,
                "file": record.file_id,
                "status": record.status,
                "reason": record.reason,
                "sample_rate": record.sample_rate,
                "store_samples": record.store_samples,
                "examples": record.examples,
                "calls": counts.calls if counts else 0,
                "dropped": counts.dropped if counts else 0,
                "distances": {kind: latest[kind] for kind in latest if kind not in ("at", "calls")} or None,
                "silent": counts.state.silent if counts else [],
                "created_at": int(record.created_at),
                "updated_at": whole(counts.updated_at if counts else None),
            }
        )


class Interval(ResponseModel):
    """Between which rates the true one lies, 19 times of 20."""

    low: float
    high: float


class Row(ResponseModel):
    """A call behind an alarm, cut to some hundred characters."""

    at: int
    prompt: str
    answer: str


class Cluster(ResponseModel):
    """Calls behind an alarm: those that are alike first, and the words that these share."""

    terms: list[str]
    alike: int
    rows: list[Row]


class Alarm(ResponseModel):
    """Traffic was not what the model was trained on: which event became how frequent, in which calls."""

    object: Literal["rootstock.watch.alarm"]
    id: str
    watch: str
    kind: Kind
    event: str
    message: str
    reference: float
    rate: float
    interval: Interval
    calls: int
    began_at: int
    cluster: Cluster | None
    created_at: int

    @classmethod
    def of(cls, record: AlarmRecord) -> Self:
        """A record on the wire."""
        found, cluster = record.found, record.cluster
        if cluster is not None:
            cluster = cluster | {"rows": [row | {"at": int(row["at"])} for row in cluster["rows"]]}
        return cls.model_validate(
            {
                "object": "rootstock.watch.alarm",
                "id": record.id,
                "watch": record.watch_id,
                "kind": record.kind,
                "event": found["event"],
                "message": (
                    f"{found['event']}: {found['rate']:.0%} ({found['low']:.0%} to {found['high']:.0%}) of the last "
                    f"{found['calls']} calls, {found['reference']:.1%} of the training set."
                ),
                "reference": found["reference"],
                "rate": found["rate"],
                "interval": {"low": found["low"], "high": found["high"]},
                "calls": found["calls"],
                "began_at": int(found["began_at"]),
                "cluster": cluster,
                "created_at": int(record.created_at),
            }
        )


class WatchPage(ResponseModel):
    """A page of watches."""

    object: Literal["list"]
    data: list[Watch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AlarmPage(ResponseModel):
    """A page of alarms."""

    object: Literal["list"]
    data: list[Alarm]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[AlarmRecord]) -> Self:
        """A page of records on the wire."""
        first, last = ends(page.data)
        data = [Alarm.of(record) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)
