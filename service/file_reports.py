"""`/v1/rootstock/files/{id}/report`: what is wrong with a training file, as JSON and as a page. Knows no detector."""

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import HTMLResponse

from rootstock import examination, files, footprint, policies
from rootstock.errors import InvalidValue
from rootstock.quality import Kind, Report, Severity
from rootstock.quality.findings import Finding
from rootstock.quality.page import page
from rootstock.quality.reporting import DEFAULT_CONTEXT_TOKENS
from rootstock.records import FileRecord
from rootstock.settings import Settings
from service.deps import CallerDep, Parts, PartsDep
from service.wire import ResponseModel

router = APIRouter(prefix="/v1/rootstock/files", tags=["files"])

Beside = Annotated[str | None, Query(description="A validation file, to look for leaks between the two.")]

NO_SCRIPTS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


class ShownFinding(ResponseModel):
    """One thing that was found, in lines that count from 1."""

    kind: Kind
    severity: Severity
    file: Literal["training", "validation"]
    lines: list[int]
    message: str
    cure: str


class FileReport(ResponseModel):
    """What is wrong with a training file, gravest first, with the severities of the project's policy."""

    object: Literal["rootstock.data_report"]
    file: str
    validation_file: str | None
    findings: list[ShownFinding]
    summary: dict[str, Any]


@router.get("/{file_id}/report")
def file_report(file_id: str, parts: PartsDep, caller: CallerDep, validation_file: Beside = None) -> FileReport:
    """The data report of a training file. It is made when first asked for: a minute for 100,000 lines.

    Tokens in it are estimated; the trainer counts them.
    """
    _, made = _made(parts, caller.project_id, file_id, validation_file)
    head = {"object": "rootstock.data_report", "file": file_id, "validation_file": validation_file}
    return FileReport.model_validate(head | made)


@router.get(
    "/{file_id}/report.html",
    response_class=HTMLResponse,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
def file_report_page(file_id: str, parts: PartsDep, caller: CallerDep, validation_file: Beside = None) -> HTMLResponse:
    """The same report as a page that needs nothing else."""
    file, made = _made(parts, caller.project_id, file_id, validation_file)
    findings = tuple(
        Finding(
            Kind(found["kind"]),
            Severity(found["severity"]),
            found["file"],
            tuple(found["lines"]),
            found["message"],
            found["cure"],
        )
        for found in made["findings"]
    )
    return HTMLResponse(page(Report(findings, made["summary"]), title=file.filename), headers=NO_SCRIPTS)


def _made(
    parts: Parts, project_id: str, file_id: str, validation_file: str | None
) -> tuple[FileRecord, dict[str, Any]]:
    with parts.db.read() as tx:
        file = files.get(tx, project_id, file_id)
        beside = files.get(tx, project_id, validation_file) if validation_file is not None else None
        blocking = policies.of(tx, project_id).data.blocking
    for record, param in ((file, "file_id"), (beside, "validation_file")):
        if record is not None and record.purpose != "fine-tune":
            raise InvalidValue(
                f"'{record.id}' has the purpose '{record.purpose}': only files of the purpose 'fine-tune' can be.",
                param=param,
            )
    made = examination.of_files(
        parts.db,
        parts.store,
        (file.id, file.object_key),
        (beside.id, beside.object_key) if beside else None,
        context=_context(parts.settings),
        max_line_bytes=parts.settings.max_line_bytes,
    )
    return file, examination.weighed(made, blocking)


def _context(settings: Settings) -> int:
    """What the base model reads at a time, where its folder is here to tell."""
    told = footprint.context_of(Path(settings.base_model))
    return settings.max_context_tokens or told or DEFAULT_CONTEXT_TOKENS
