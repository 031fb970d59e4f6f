"""What the document cannot say and every answer must keep; loaded by schemathesis next to its own checks."""

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, HookContext, Response
from schemathesis.core.failures import Failure

KEYS = {"message", "type", "param", "code"}
REQUEST_ID = re.compile(r"req_[0-9a-f]{32}")

SHAPE = re.compile(
    r"missing_required_parameter|unknown_parameter|invalid_type|invalid_value|unsupported_\w+"
    r"|(integer|decimal|string|array|object)_(above|below)_\w+"
)
"""Codes of refusals that the document can tell beforehand, so a request that follows it must not get one."""

JOBS = r".*/(jobs|estimates)"

RULES = (
    (r".*", r"after", "a cursor must name an element of the list"),
    (r".*/(chat/)?completions", r"stream_options", "only together with `stream`"),
    (r".*/chat/completions", r"messages\[\d+\]", "a message needs `content`, an assistant's may have calls instead"),
    (r".*/chat/completions", r"response_format", "`json_schema` exactly when the type is `json_schema`"),
    (r".*/chat/completions", r"(top_logprobs|tools|tool_choice)", "they depend on `logprobs` and on one another"),
    (r".*/completions", r"(best_of|logprobs)", "`best_of` must equal `n`; no `logprobs` together with `echo`"),
    (r".*/completions", r"seed", "2**63 - 1 has no exact form in JSON tools that count in floating point"),
    (r".*/embeddings", r"model", "no model here makes any"),
    (r".*/responses", r"(text\.format|input.*|tools.*|tool_choice.*)", "what goes with which type"),
    (r".*/aliases", r"name", "no name of the base model"),
    (r".*/watches", r"(model|file)", "a model that is not watched yet; a file of training data"),
    (r".*/suites", r"(name|file_id)", "no name of a built-in suite, 20 in all; a file of questions, purpose `evals`"),
    (r".*/policy", r"release\.suite_limits", "suites that are there"),
    (r".*/rollback", r"revision", "one at which the alias pointed to a model"),
    (r".*/usage", r"start", "not after `end`, and at most 366 days"),
    (r".*/webhook.*", r"url", "an address that may be called, by the settings of the deployment"),
    (r".*/uploads", r"(mime_type|bytes|filename)", "which types go with which purpose; the sizes of the deployment"),
    (r".*/complete", r"part_ids", "parts of this upload, each once"),
    (r".*/permissions", r"project_ids\[\d+\]", "a project of this deployment, not the model's own"),
    (r".*/upgrades", r"(from|to|models\[\d+\])", "two base models of this deployment; tuned models on the first"),
    (
        r".*/distillations",
        r"(teacher|source|filters|response_format)(\W.*)?",
        "a teacher for prompts; prompts, graders, URLs that work",
    ),
    (JOBS, r"rootstock\.adapter(\..*)?", "at most the rank that the deployment allows; no numbers with `full`"),
    (JOBS, r"rootstock\.(early_stopping(\.metric)?|budget|sampling)", "validation file; a limit; reinforcement"),
    (JOBS, r"rootstock\.split", "instead of a validation file; no reinforcement"),
    (JOBS, r"rootstock\.measure(\..*)?", "held-out examples; what graders need to fit together"),
    (r".*/report(\.html)?", r"(file_id|validation_file)", "files with the purpose `fine-tune`"),
    (JOBS, r"rootstock\.replay(\.file)?", "a file of the project with the purpose `fine-tune`; supervised"),
    (r".*/evals", r"(data_source_config|testing_criteria).*", "a JSON schema; what graders need to fit together"),
    (r".*/runs", r"data_source.*", "items of the eval's schema; files, models and templates that are there"),
    (
        r".*/advice",
        r"(training_file|model|examples.*)",
        "a file or examples; a base model; lines that fit",
    ),
    (r".*/graders/.*", r"grader\..*", "texts that are Python, formulas, templates; labels and names that fit together"),
    (JOBS, r"(method|hyperparameters|integrations)(\..*)?", "what goes with which method"),
)
"""Refusals that depend on more than one field, or on what exists: operation, param, and the rule in words."""


@schemathesis.check
def documented_shape_is_accepted(ctx: CheckContext, response: Response, case: Case) -> None:
    """A request that follows the document is refused for a rule between fields or for what exists, never its shape.

    In place of schemathesis' own `positive_data_acceptance`, which takes every 400 for a fault.
    """
    meta = case.meta
    if meta is None or meta.generation.mode is not GenerationMode.POSITIVE or response.status_code != 400:
        return
    error = response.json()["error"]
    if "NUL character" in error["message"]:  # no text of ours may hold one; saying so on every string helps nobody
        return
    operation, param = f"{case.method} {case.path}", error["param"] or ""
    known = any(re.fullmatch(rule[0], operation) and re.fullmatch(rule[1], param) for rule in RULES)
    assert known or not SHAPE.fullmatch(error["code"] or ""), f"refused although documented: {error['message']}"


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Pass over lists that answer a query which is outside the document, yet fine as it went over the wire.

    `limit=` is no integer, but an empty parameter counts as absent; of a repeated one the last counts; and whatever
    was meant, `metadata[k]=false` is a text.
    """
    if type(failure).__name__ != "AcceptedNegativeData" or case.method != "GET":
        return True
    sent = parse_qsl(urlsplit(response.request.url or "").query, keep_blank_values=True)
    names = [name for name, _ in sent]
    lenient = len(set(names)) < len(names) or any(not value or name.startswith("metadata[") for name, value in sent)
    return not lenient


@schemathesis.check
def error_body(ctx: CheckContext, response: Response, case: Case) -> None:
    """Every refusal has the one error body, with all four keys, and never the framework's."""
    if response.status_code < 400:
        return
    content_type = response.headers.get("content-type", [""])[0]
    assert content_type == "application/json", f"an error came as {content_type!r}"
    body: Any = response.json()
    assert set(body) == {"error"} and set(body["error"]) == KEYS, f"not the error body: {response.text[:200]}"
    error = body["error"]
    assert isinstance(error["message"], str) and error["message"], "an error without a message"
    assert isinstance(error["type"], str) and error["type"], "an error without a type"
    for key in ("param", "code"):
        assert error[key] is None or isinstance(error[key], str), f"{key} is {error[key]!r}"


@schemathesis.check
def envelope(ctx: CheckContext, response: Response, case: Case) -> None:
    """Every answer, refusals included, carries the headers that clients read."""
    request_id = response.headers.get("x-request-id", [""])[0]
    assert REQUEST_ID.fullmatch(request_id), f"x-request-id is {request_id!r}"
    for name in ("openai-processing-ms", "openai-version", "access-control-allow-origin"):
        assert name in response.headers, f"no header {name}"
