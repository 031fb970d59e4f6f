"""`/v1/rootstock/models/{model}/evidence`: the evidence pack of a tuned model, as JSON or as a page of Markdown.

Puts together what is stored with the job, its files and its adapter; measures nothing.
"""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, PlainTextResponse, Response

from rootstock import adapters, files, footprint, jobs, releases
from rootstock.adapters import Manifest
from rootstock.errors import InvalidRequest, ModelDamaged, ObjectNotFound, ServerError
from rootstock.estimating.estimate import FORWARD_AND_BACKWARD
from rootstock.records import FileRecord, JobRecord, ModelRecord
from rootstock.releases import Release
from rootstock.settings import Settings
from service.deps import CallerDep, Parts, PartsDep
from service.evidence_page import markdown
from service.models import is_hosted, ready
from service.wire_evidence import THRESHOLD, Compute, Evidence, EvidenceFile, Lineage, Source
from service.wire_release import ShownRelease

router = APIRouter(prefix="/v1/rootstock/models", tags=["models"])

SOURCES = (
    (
        "lineage.files, hashes, recipe",
        "manifest.json of the adapter",
        "rootstock models export MODEL",
    ),
    ("lineage.training_file.sha256, examples", "the file as it was uploaded", "sha256sum of /v1/files/{id}/content"),
    ("compute.trained_tokens", "the job's trained_tokens", "/v1/fine_tuning/jobs/{job_id}"),
    ("compute.operations", "base_weights x operations_per_weight_and_token x trained_tokens", "multiply"),
    ("data", "the data report of the job's files", "rootstock data check FILE"),
    (
        "release",
        "scores of the answers to the held-out examples, kept with the job",
        "/v1/rootstock/jobs/{job_id}/report",
    ),
)


# Greedy, because SDKs encode `/` inside a name as %2F and servers decode it before routing.
@router.get(
    "/{model:path}/evidence",
    response_model=Evidence,
    responses={200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}},
)
def retrieve_evidence(
    model: str,
    parts: PartsDep,
    caller: CallerDep,
    format: Annotated[
        Literal["json", "markdown"], Query(description="`json`, or `markdown` for people: card, dataset sheet, limits.")
    ] = "json",
) -> Response:
    """What a tuned model is made of, what it was measured to do, and where each number comes from."""
    if is_hosted(parts.settings, model):
        raise InvalidRequest(f"The model '{model}' is a base model; evidence is of tuned models.", param="model")
    with parts.db.read() as tx:
        record = ready(tx, caller, model)
        job = jobs.find(tx, record.job_id)
        if job is None:
            raise ServerError
        training = files.find(tx, job.training_file)
        validation = files.find(tx, job.validation_file) if job.validation_file else None
        release = releases.of_job(tx, job.id)
    pack = _pack(parts, record, job, (training, validation), release)
    if format == "markdown":
        return PlainTextResponse(markdown(pack), media_type="text/markdown")
    return JSONResponse(pack.model_dump(mode="json"))


def _pack(
    parts: Parts,
    record: ModelRecord,
    job: JobRecord,
    named: tuple[FileRecord, FileRecord | None],
    release: Release | None,
) -> Evidence:
    manifest = _manifest(parts, record)
    compute = _compute(parts.settings, job, manifest)
    result = release.result if release else None
    data = getattr(job, "data_report", None)
    lineage = Lineage(
        job_id=job.id,
        adapter_id=record.adapter_id,
        kind=manifest.kind,
        files={name: entry.sha256 for name, entry in sorted(manifest.files.items())},
        base=manifest.base,
        base_sha256=manifest.base_sha256,
        template_sha256=manifest.template_sha256,
        start_model=job.start_model,
        training_file=_file(named[0]),
        validation_file=_file(named[1]) if named[1] else None,
    )
    return Evidence(
        object="rootstock.evidence",
        schema_version=1,
        model=record.id,
        made_at=int(time.time()),
        job_created_at=int(job.created_at),
        job_finished_at=None if job.finished_at is None else int(job.finished_at),
        method=job.method["type"],
        recipe=manifest.recipe,
        seed=job.seed,
        compute=compute,
        data=data,
        release=ShownRelease.of(result) if result else None,
        lineage=lineage,
        limits=_limits(record, compute, result, data),
        sources=[Source(numbers=numbers, source=source, again=again) for numbers, source, again in SOURCES],
    )


def _manifest(parts: Parts, record: ModelRecord) -> Manifest:
    try:
        return adapters.read_manifest(parts.store, record.adapter_id)
    except ObjectNotFound:
        raise ModelDamaged(f"The files of '{record.id}' are not in the store any more.") from None


def _compute(settings: Settings, job: JobRecord, manifest: Manifest) -> Compute:
    size = footprint.size_of(Path(settings.bases[job.base])) if job.base in settings.bases else None
    factor = FORWARD_AND_BACKWARD[job.adapter_type]
    weights = None if size is None else size.weights
    known = weights is not None and job.trained_tokens is not None
    operations = float(factor * (weights or 0) * (job.trained_tokens or 0)) if known else None
    whole = settings.base_training_flops if job.base == settings.base_name else 0.0
    ratio = operations / whole if operations is not None and whole else None
    return Compute(
        trained_tokens=job.trained_tokens,
        base_weights=weights,
        operations_per_weight_and_token=factor,
        operations=operations,
        base_training_operations=whole or None,
        ratio=ratio,
        threshold=THRESHOLD,
        over_threshold=None if ratio is None else ratio > THRESHOLD,
    )


def _file(record: FileRecord) -> EvidenceFile:
    check = record.check or {}
    return EvidenceFile(
        id=record.id,
        filename=record.filename,
        bytes=record.bytes,
        sha256=record.sha256,
        examples=check.get("examples"),
        format=check.get("format"),
        deleted=record.deleted_at is not None,
    )


def _limits(record: ModelRecord, compute: Compute, result: dict[str, Any] | None, data: Any) -> list[str]:
    """What the pack cannot vouch for, in sentences."""
    told = []
    if result is None or result.get("verdict") == "unmeasured":
        why = " ".join((result or {}).get("reasons") or ["The job had no held-out examples or no serving."])
        told.append(f"The model was not measured against its base. {why}")
    else:
        told.append(
            f"It was measured on {result.get('examples')} held-out examples of its own task; on others only as far as "
            "the general suites reach."
        )
        if result.get("verdict") == "hold":
            told.append("The verdict was hold: " + " ".join(result.get("reasons") or []))
    if data is None:
        told.append("There is no data report of its files.")
    if compute.ratio is None:
        told.append(f"The share of the base's training is not known: {_unknown(compute)}.")
    if ":ckpt-step-" in record.id:
        told.append("It is a checkpoint: tokens and verdict are those of the whole job.")
    told.append("Names and addresses in the data are not searched for; personal data are found by their form only.")
    return told


def _unknown(compute: Compute) -> str:
    if compute.base_weights is None:
        return "the base is not on this deployment, so its weights cannot be counted"
    if compute.trained_tokens is None:
        return "the job has no count of trained tokens"
    return "ROOTSTOCK_BASE_TRAINING_FLOPS is not set, or is that of another base"
