"""Why a field is not what the SDK's types say: every such field of the conformance table has its reason here."""

import re

REASONS = (
    (
        r"fine_tuning\.jobs\..*",
        r"response\.(data|error|data\[\]\.error)",
        "always an object, all null unless the job failed: scripts read `job.error.message` without looking first",
    ),
    (
        r"fine_tuning\.jobs\.pause",
        r"response\.status",
        "`paused`, as upstream answers; the SDK's type does not list it, so it is shown only after a pause",
    ),
    (r"chat\.completions\..*", r"request\.(functions|function_call)", "refused by name: `tools` does the same"),
    (
        r"chat\.completions\..*",
        r"request\.(audio|moderation|web_search_options)",
        "refused by name: text models without a search are served here",
    ),
    (r"completions\.create", r"request\.suffix", "refused by name: the models served here do not fill in"),
    (
        r"chat\.completions\..*",
        r"response\.(data\[\]\.)?(metadata|moderation|service_tier)",
        "optional upstream; there is nothing to say",
    ),
    (
        r"chat\.completions\.messages\.list",
        r"response\.data(\[\]\.role)?",
        "the messages that were sent, whose role is seldom the one that the SDK's type allows",
    ),
    (
        r"chat\.completions\.messages\.list",
        r"response\.data\[\]\.(annotations|audio|function_call)",
        "optional upstream; there is nothing to say",
    ),
    (
        r"evals\.runs\..*",
        r"response\.(data|error|sample|data\[\]\.(error|sample))",
        "`error` is null where nothing went wrong, as upstream answers; the SDK's type has it always there",
    ),
    (
        r"webhooks\.rotate_secret",
        r"request\.keep_old.*",
        "`true` is refused: a delivery has one signature, which simple checkers need",
    ),
)
"""Operation, field, and why it differs."""


def explain(operation: str, field: str, status: str, why: str) -> tuple[str, str]:
    """The status with its reason; without one when none is known, which the table counts as a fault."""
    for operations, fields, reason in REASONS:
        if status != "honoured" and re.fullmatch(operations, operation) and re.fullmatch(fields, field):
            return status, reason
    return status, why or ("" if status == "honoured" else "unexplained")
