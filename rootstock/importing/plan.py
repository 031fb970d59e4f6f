"""What becomes of each thing in a folder: copied, kept as a local copy, or not carried, and why. No network."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from rootstock.files import UPLOAD_PURPOSES
from rootstock.importing.folder import EVALS, FILES, JOBS, Folder, State

RESULTS = "fine-tune-results"
NEVER = {
    "moderation results": "no API hands them out",
    "stored completions": "not read; export them as JSONL with your own script while OpenAI keeps them (30 days)",
    "eval runs and their items": "not read; only definitions are carried",
    "job events and checkpoints": "they describe a training run that took place elsewhere",
}
"""What an import never looks at, and why."""

_PURPOSES = {
    "assistants": "files of assistants have no use here",
    "assistants_output": "files of assistants have no use here",
    "vision": "images cannot be trained on here",
    "batch_output": "output of a finished batch; download what you still need",
}
_WEIGHTS = "weights stay with their maker: no API exports them"


class Fate(StrEnum):
    """What becomes of a thing."""

    COPIED = "copied"
    KEPT = "local copy"
    LEFT = "not carried"


@dataclass(slots=True)
class Item:
    """One thing and its fate. `bytes` is None for what has no size; `new_id` is its id at the target."""

    kind: str
    id: str
    name: str
    bytes: int | None
    fate: Fate
    reason: str | None = None
    new_id: str | None = None
    remarks: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The entry of `report.json`."""
        return asdict(self)


def reads_content(file: dict[str, Any]) -> bool:
    """Whether an export takes a file's bytes."""
    return file.get("purpose") in (*UPLOAD_PURPOSES, RESULTS)


def plan(folder: Folder, state: State, *, listed_only: bool = False) -> Iterator[Item]:
    """Everything in the folder, files first. With `listed_only` contents are taken to be there for the asking."""
    for file in folder.each(FILES):
        yield _file_item(folder, state, file, listed_only)
    for job in folder.each(JOBS):
        item = _job_item(folder, state, job, listed_only)
        yield item
        if job.get("fine_tuned_model"):
            again = f"; recipes/{item.id}.json trains it again" if item.fate is Fate.COPIED else ""
            yield Item("model", str(job["fine_tuned_model"]), "", None, Fate.LEFT, _WEIGHTS + again)
    for evaluation in folder.each(EVALS):
        name, where = str(evaluation.get("name") or ""), "if the server has an evals API; else kept in evals/"
        yield Item("eval", evaluation["id"], name, None, Fate.COPIED, where)
    if (reason := state.unavailable(EVALS)) is not None:
        yield Item("eval", "all others", "", None, Fate.LEFT, reason)
    for name, reason in NEVER.items():
        yield Item("other", name, "", None, Fate.LEFT, reason)


def carried_file(folder: Folder, state: State, file_id: Any, *, listed_only: bool = False) -> bool:
    """Whether a job's file is among those that are copied."""
    file = folder.load(FILES, file_id) if isinstance(file_id, str) else None
    return file is not None and _file_item(folder, state, file, listed_only).fate is Fate.COPIED


def _file_item(folder: Folder, state: State, file: dict[str, Any], listed_only: bool) -> Item:
    purpose = str(file.get("purpose"))
    size = file["bytes"] if isinstance(file.get("bytes"), int) else None
    item = Item("file", file["id"], f"{file.get('filename')} ({purpose})", size, Fate.COPIED)
    if not reads_content(file):
        item.fate, item.reason = Fate.LEFT, _PURPOSES.get(purpose, f"the purpose {purpose} is not known here")
    elif not listed_only and not folder.content(file["id"]).exists():
        item.fate = Fate.LEFT
        item.reason = state.unavailable(file["id"]) or "its content is not in the folder; run the export again"
    elif purpose == RESULTS:
        item.fate, item.reason = Fate.KEPT, "result files are made by training; yours stays in files/"
    return item


def _job_item(folder: Folder, state: State, job: dict[str, Any], listed_only: bool) -> Item:
    name, where = f"{job.get('model')}, {job.get('status')}", f"as recipes/{job['id']}.json"
    item = Item("job", job["id"], name, None, Fate.COPIED, where)
    training = job.get("training_file")
    if not carried_file(folder, state, training, listed_only=listed_only):
        item.fate = Fate.LEFT
        item.reason = f"its training file {training} cannot be carried; its settings stay in jobs/{job['id']}.json"
    return item
