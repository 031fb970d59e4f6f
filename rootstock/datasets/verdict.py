"""What a recorded check means for a job, in the API's own codes and texts (contract 3.6); and its stored form.

Reads no data: a file is checked once, at upload, and judged as often as jobs name it.
"""

from typing import Any

from rootstock.errors import JobFailure
from rootstock.records import DataCheck, DataFault, DataFormat, FileRole

MIN_TRAINING_EXAMPLES = 10
MIN_VALIDATION_EXAMPLES = 1

PARAMS: dict[FileRole, str] = {
    "training": "training_file",
    "validation": "validation_file",
    "replay": "rootstock.replay.file",
}
"""Role -> where a job names the file."""

_METHODS = {
    DataFormat.CHAT: ("supervised", "reinforcement"),
    DataFormat.COMPLETIONS: ("supervised",),
    DataFormat.PREFERENCE: ("dpo",),
    DataFormat.PROMPTS: ("reinforcement",),
}
_LINES_NAMED = 10


def judge(check: DataCheck, *, role: FileRole, file_id: str, method: str) -> JobFailure | None:
    """Why a job that uses the file in this role must fail; `None` if it need not."""
    reason, code = _mismatch(check, file_id, method), "invalid_training_file"
    if reason is None and check.faults:
        reason, code = check.faults[0].message + _others(check), check.faults[0].code
    if reason is not None:
        what = "a file format error in the" if code == "invalid_file_format" else "an invalid"
        code = code if role == "training" else f"invalid_{role}_file"
        return JobFailure(code, f"The job failed due to {what} {role} file. {reason}", PARAMS[role])
    least = MIN_TRAINING_EXAMPLES if role == "training" else MIN_VALIDATION_EXAMPLES
    if check.examples < least:
        has = f"{role.capitalize()} file has {check.examples} example(s)"
        needs = f"must have at least {least} example{'s' if least > 1 else ''}"
        return JobFailure("invalid_n_examples", f"{has}, but {needs}", PARAMS[role])
    return None


def check_to_json(check: DataCheck) -> dict[str, Any]:
    """The form in which a check is stored with its file."""
    return {
        "format": str(check.format) if check.format else None,
        "examples": check.examples,
        "faults": [{"line": f.line, "code": f.code, "message": f.message} for f in check.faults],
        "faults_total": check.faults_total,
    }


def check_from_json(stored: dict[str, Any]) -> DataCheck:
    """The check that `check_to_json` stored."""
    return DataCheck(
        format=DataFormat(stored["format"]) if stored["format"] else None,
        examples=stored["examples"],
        faults=tuple(DataFault(**fault) for fault in stored["faults"]),
        faults_total=stored["faults_total"],
    )


def _mismatch(check: DataCheck, file_id: str, method: str) -> str | None:
    if check.format is None or method in _METHODS[check.format]:
        return None
    return (
        f"Invalid file format. Input file {file_id} is in the {check.format} format, but the specified fine-tuning job "
        f"is not using '{_METHODS[check.format][0]}' as the training method (provided method={method})."
    )


def _others(check: DataCheck) -> str:
    more = check.faults_total - 1
    if not more:
        return ""
    named = [str(fault.line) for fault in check.faults[1 : _LINES_NAMED + 1]]
    lines = ", ".join(named) + (", …" if more > len(named) else "")
    return f" ({more} more faulty example{'s' if more > 1 else ''}: line{'s' if more > 1 else ''} {lines})"
