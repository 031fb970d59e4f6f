"""`/v1/rootstock/jobs/{id}/report`: one job's curves, verdict, worst examples and costs, as JSON or as a page.

Puts together what others wrote down; measures nothing.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.responses import HTMLResponse

from rootstock import estimates, files, jobs, releases, tables
from rootstock.db import Tx
from rootstock.errors import ObjectNotFound
from rootstock.records import JobRecord
from rootstock.release import metrics
from rootstock.release.held_out import Question
from rootstock.release.verdict import FEW_SHOT, ZERO_SHOT
from rootstock.releases import Answer
from service.deps import CallerDep, Parts, PartsDep
from service.job_report_page import page
from service.pages import POLICY
from service.releasing.reading import has_held_out, held_out
from service.releasing.telling import TUNED
from service.wire_release import ShownRelease
from service.wire_reports import AgainstEstimate, Confusion, Curves, JobReport, Side

router = APIRouter(prefix="/v1/rootstock/jobs", tags=["release"])

MOST_POINTS = 500
MOST_EVENTS = 20_000
MOST_SHOWN = 10
MOST_CHARS = 2000

_CURVES = {
    "train_loss": ("train_loss",),
    "valid_loss": ("valid_loss",),
    "full_valid_loss": ("full_valid_loss",),
    "reward": ("train_mean_reward",),
}
"""Curve -> the names that methods have for it in their events."""


@router.get("/{job_id}/report")
def retrieve_report(job_id: str, parts: PartsDep, caller: CallerDep) -> JobReport:
    """Everything about one job in one place: curves, before and after, worst examples, estimate against truth."""
    with parts.db.read() as tx:
        job = jobs.get(tx, caller.project_id, job_id)
        release = releases.of_job(tx, job.id)
        answers = releases.answers(tx, job.id) if release else {}
        curves, estimate = _curves(tx, job.id), estimates.find(tx, job.id)
        deleted = job.validation_file is not None and files.find(tx, job.validation_file).deleted_at is not None
    asked = _asked(parts, job) if answers and not deleted else []
    result = release.result if release else None
    kept = job.rootstock or {}
    return JobReport.model_validate(
        {
            "object": "rootstock.job_report",
            "job_id": job.id,
            "status": job.shown_status,
            "base": job.base,
            "fine_tuned_model": job.fine_tuned_model,
            "method": job.method["type"],
            "trained_tokens": job.trained_tokens,
            "curves": curves,
            "release": ShownRelease.of(result) if result else None,
            "confusion": _confusion(asked, answers.get(TUNED, {}), result),
            "scores": {role: [found[n].score for n in sorted(found)] for role, found in answers.items()},
            "worst": _worst(asked, answers),
            "estimate": None if estimate is None else _against(estimate),
            "data": getattr(job, "data_report", None) or kept.get("data_report"),
        }
    )


@router.get(
    "/{job_id}/report.html",
    response_class=HTMLResponse,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
def retrieve_report_page(job_id: str, parts: PartsDep, caller: CallerDep) -> HTMLResponse:
    """The same as a page with plots, which needs nothing else and loads nothing."""
    report = retrieve_report(job_id, parts, caller)
    return HTMLResponse(page(report), headers={"content-security-policy": POLICY})


def _curves(tx: Tx, job_id: str) -> Curves:
    table = tables.job_events
    query = sa.select(table.c.data).where(table.c.job_id == job_id, table.c.type == "metrics").order_by(table.c.seq)
    told = [data for data in tx.scalars(query.limit(MOST_EVENTS)) if data]
    found: dict[str, list[dict[str, Any]]] = {}
    for name, spellings in _CURVES.items():
        pairs = ((data["step"], next((data[s] for s in spellings if data.get(s) is not None), None)) for data in told)
        points = [{"step": step, "value": value} for step, value in pairs if value is not None]
        found[name] = _thinned(points)
    return Curves.model_validate(found)


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `MOST_POINTS`, evenly; the first and the last stay, for a curve is read by its end."""
    if len(points) <= MOST_POINTS:
        return points
    last = len(points) - 1
    return [points[round(n * last / (MOST_POINTS - 1))] for n in range(MOST_POINTS)]


def _asked(parts: Parts, job: JobRecord) -> Sequence[Question]:
    if not has_held_out(job):
        return []
    try:
        return held_out(parts.settings, parts.store, job)
    except ObjectNotFound:  # its content is purged
        return []


def _confusion(asked: Sequence[Question], tuned: dict[int, Answer], result: dict[str, Any] | None) -> Confusion | None:
    if not asked or not tuned or (result or {}).get("metric") != "label_accuracy":
        return None
    labels = sorted({metrics.normal(one.reference) for one in asked})
    place = {label: number for number, label in enumerate(labels)}
    table = [[0] * (len(labels) + 1) for _ in labels]
    for number, answer in tuned.items():
        if number < len(asked) and answer.text is not None:
            right = place[metrics.normal(asked[number].reference)]
            table[right][place.get(metrics.normal(answer.text), len(labels))] += 1
    return Confusion(labels=labels, counts=table)


def _worst(asked: Sequence[Question], answers: dict[str, dict[int, Answer]]) -> list[Side]:
    """The examples that the tune got least of, those first that the base had got."""
    before, after = answers.get(FEW_SHOT) or answers.get(ZERO_SHOT) or {}, answers.get(TUNED, {})
    scored = {number: one.score for number, one in after.items() if one.score is not None and number < len(asked)}

    # A grader has a unit of its own: what got as much as any answer of it is none of the worst.
    most = max((1.0, *scored.values()))

    def rank(number: int) -> tuple[float, float, int]:
        base = before.get(number)
        return scored[number], -(base.score or 0.0) if base else 0.0, number

    return [_side(asked[n], before.get(n), after[n]) for n in sorted(scored, key=rank)[:MOST_SHOWN] if scored[n] < most]


def _side(question: Question, before: Answer | None, after: Answer) -> Side:
    return Side(
        line=question.line,
        question=question.shown[:MOST_CHARS],
        right=question.reference[:MOST_CHARS],
        before=None if before is None or before.text is None else before.text[:MOST_CHARS],
        after=None if after.text is None else after.text[:MOST_CHARS],
        score_before=None if before is None else before.score,
        score_after=after.score,
    )


def _against(found: dict[str, Any]) -> AgainstEstimate:
    made, actual = found["estimate"], found["actual"] or {}
    steps = {"low": made["steps"], "mean": made["steps"], "high": made["steps"]}
    told = {"steps": steps} | {name: made[name] for name in ("trained_tokens", "seconds", "peak_memory_gib")}
    return AgainstEstimate.model_validate(
        {name: {"estimated": bars, "actual": actual.get(name)} for name, bars in told.items()}
    )
