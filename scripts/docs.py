"""Writes what follows from code: settings, errors, the schema of evidence packs. A test holds them fresh.

python -m scripts.docs            write them
python -m scripts.docs --check    exit 1 if one is stale
"""

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from rootstock import errors
from rootstock.settings import BUILT_IN_BASE, PREFIX, Settings
from service.wire_evidence import Evidence

DOCS = Path(__file__).resolve().parent.parent / "docs"


def settings_page() -> str:
    """Every setting with its default and meaning."""
    lines = [
        "# Settings",
        "",
        "Environment variables, read once when a process starts. `rootstock config` shows the effective values. An",
        f"unknown `{PREFIX}*` variable or an impossible value refuses to start. Written by `scripts/docs.py` from",
        "`rootstock/settings.py`.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "" if default in (None, "") else f"`{default}`"
        if isinstance(default, dict):
            shown = "the OpenAI names below"
        if default == str(BUILT_IN_BASE) or name == "vllm_python":
            shown = "in the project folder"
        if isinstance(default, SecretStr):
            shown = "a secret"
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {(field.description or '').replace('|', '&#124;')} |")
    lines += ["", "Default model aliases (requested name, name that jobs show):", ""]
    lines += [f"- `{name}` → `{target}`" for name, target in Settings.model_fields["model_aliases"].default.items()]
    return "\n".join(lines) + "\n"


def tree(kind: type[errors.RootstockError]) -> Iterator[type[errors.RootstockError]]:
    """A class and everything below it, in the order of definition."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


JOB_CODES = {
    "invalid_n_examples": "fewer examples than the minimum of 10",
    "invalid_training_file": "a line of the training file cannot be used; the message names the example",
    "invalid_file_format": "a line has the wrong keys; the message names the example",
    "invalid_validation_file": "the same faults in the validation file",
    "invalid_replay_file": "the same faults in the file of general examples that is mixed in",
    "data_blocked": "the data report found what the project's policy does not let through; the message names it",
    "invalid_grader": "a grader of a reinforcement job cannot work",
    "model_not_available": "the tuned model to go on from cannot be used any more",
    "insufficient_memory": "the job does not fit into the trainer's memory, not even example by example",
    "served_differs": "the served model is not the trained one; the message says in what",
    "training_diverged": "the loss became NaN or infinite; nothing was published",
    "invalid_hyperparameters": "the job cannot be trained as asked; the message names what would be accepted",
    "server_error": "an internal failure, or a worker that died too often; nothing was wrong with the data",
}


def errors_page() -> str:
    """Every error class with what a client sees."""
    lines = [
        "# Errors",
        "",
        'Every refusal is `{"error": {"message", "type", "param", "code"}}`. Written by `scripts/docs.py` from',
        "`rootstock/errors.py`.",
        "",
        "| class | status | type | code | when |",
        "|---|---|---|---|---|",
    ]
    for kind in tree(errors.RootstockError):
        if kind in (errors.JobFailure, errors.LeaseLost, errors.ConfigurationError):
            continue
        meaning = (inspect.getdoc(kind) or "").split("\n")[0].replace("|", "&#124;")
        lines.append(f"| {kind.__name__} | {kind.status} | `{kind.type}` | `{kind.code or 'null'}` | {meaning} |")
    lines += ["", "## Codes of failed jobs (`job.error.code`)", "", "| code | meaning |", "|---|---|"]
    lines += [f"| `{code}` | {meaning} |" for code, meaning in JOB_CODES.items()]
    return "\n".join(lines) + "\n"


def evidence_schema() -> str:
    """The JSON schema of evidence packs."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Evidence.model_json_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


PAGES = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "../openapi/evidence.schema.json": evidence_schema,
}


def main() -> int:
    """Write the pages, or say which are stale."""
    stale = [name for name, page in PAGES.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != page()]
    if "--check" in sys.argv[1:]:
        if stale:
            names = ", ".join("docs/" + name for name in stale)
            print(f"stale: {names}; run `python -m scripts.docs`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
