"""The first phase: everything worth keeping from an OpenAI-shaped API into a folder. Sends nothing but GETs."""

from rootstock.errors import ImportStopped
from rootstock.importing.folder import EVALS, FILES, GRADERS, JOBS, PATHS, Folder, State
from rootstock.importing.plan import reads_content
from rootstock.importing.recipes import grader_of
from rootstock.importing.remote import Refused, Remote
from rootstock.importing.show import Show

PAGE_SIZES = {FILES: 1000, JOBS: 100, EVALS: 100}
GONE = (404, 410)


def export(source: Remote, folder: Folder, state: State, show: Show) -> None:
    """Bring the folder up to date: lists first, then the contents that it lacks. May be repeated at any time.

    What the source has deleted since an earlier export stays in the folder. Raises `ImportStopped`,
    `ConfigurationError` (the key; a folder of another source).
    """
    state.begin_export(source.url)
    read_lists(source, folder, state, show)
    _read_contents(source, folder, state, show)
    state.end_export()


def read_lists(source: Remote, folder: Folder, state: State, show: Show) -> None:
    """Every file, job and eval object, without the files' contents. Raises like `export`."""
    for kind, path in PATHS.items():
        try:
            count = 0
            for thing in source.pages(path, limit=PAGE_SIZES[kind]):
                folder.save(kind, thing)
                if kind == JOBS and (grader := grader_of(thing)) is not None:
                    folder.save_as(GRADERS, thing["id"], grader)
                count += 1
            state.set_unavailable(kind, None)
            show.say(f"{kind}: {count} listed")
        except Refused as refusal:
            # The evals API closes before the others do, and keys may be restricted to some of them.
            if kind != EVALS or refusal.http_status not in (403, *GONE):
                raise ImportStopped(f"{source.name} does not list {path}: {refusal.message}") from None
            state.set_unavailable(kind, f"{source.name} does not list them: {refusal.message}")
            show.say(f"{kind}: not listed by {source.name} ({refusal.message})")


def _read_contents(source: Remote, folder: Folder, state: State, show: Show) -> None:
    for file in folder.each(FILES):
        file_id, to = file["id"], folder.content(file["id"])
        if not reads_content(file) or to.exists():
            continue
        size = file.get("bytes") if isinstance(file.get("bytes"), int) else None
        # Result files are handed out base64-encoded: longer than the listing says.
        exact = None if file.get("purpose") == "fine-tune-results" else size
        try:
            with show.transfer(f"read {file_id} {file.get('filename')}", size or 0) as moved:
                source.download(f"/files/{file_id}/content", to, moved, size=exact)
            state.set_unavailable(file_id, None)
        except Refused as refusal:
            reason = f"{source.name} does not hand out its content: {refusal.message}"
            if refusal.http_status in GONE:
                reason = f"its content is gone: deleted or expired at {source.name}"
            state.set_unavailable(file_id, reason)
            show.say(f"{file_id}: {reason}")
