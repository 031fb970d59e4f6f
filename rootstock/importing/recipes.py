"""From what the source answers to what a create call takes: jobs to recipes, evals to requests. Pure functions."""

from typing import Any

ORIGIN = "imported_from"
MAX_METADATA_PAIRS = 16
METHODS = ("supervised", "dpo", "reinforcement")


def recipe(job: dict[str, Any], training_file: str, validation_file: str | None) -> tuple[dict[str, Any], list[str]]:
    """A body for `POST /v1/fine_tuning/jobs` that repeats a job on the copied files, and remarks for its reader.

    Hyperparameters are the numbers that the source had resolved; what the job did not say is left out.
    """
    remarks: list[str] = []
    body: dict[str, Any] = {"model": _base_of(job, remarks), "training_file": training_file}
    if validation_file is not None:
        body["validation_file"] = validation_file
    elif job.get("validation_file"):
        remarks.append(f"its validation file {job['validation_file']} cannot be carried; the recipe has none")
    if isinstance(job.get("user_provided_suffix"), str) and job["user_provided_suffix"]:
        body["suffix"] = job["user_provided_suffix"]
    if isinstance(job.get("seed"), int):
        body["seed"] = job["seed"]
    body["method"] = _method(job)
    body["metadata"] = _metadata(job, remarks)
    for integration in job.get("integrations") or []:
        kind = integration.get("type") if isinstance(integration, dict) else integration
        remarks.append(f"its integration {kind} is left out: it needs a key at the new server")
    return body, remarks


def eval_request(evaluation: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A body for `POST /v1/evals` that makes the eval again, and remarks for its reader."""
    remarks: list[str] = []
    criteria = [
        {key: value for key, value in criterion.items() if key != "id" and value is not None}
        for criterion in evaluation.get("testing_criteria") or []
        if isinstance(criterion, dict)
    ]
    body: dict[str, Any] = {
        "data_source_config": _data_source(evaluation.get("data_source_config") or {}),
        "testing_criteria": criteria,
        "metadata": _metadata(evaluation, remarks),
    }
    if evaluation.get("name"):
        body["name"] = evaluation["name"]
    return body, remarks


def grader_of(job: dict[str, Any]) -> dict[str, Any] | None:
    """The grader of a reinforcement job."""
    method = _dict(job.get("method"))
    grader = _dict(method.get("reinforcement")).get("grader")
    return grader if isinstance(grader, dict) else None


def _method(job: dict[str, Any]) -> dict[str, Any]:
    given = _dict(job.get("method"))
    kind = str(given["type"]) if given.get("type") in METHODS else "supervised"
    branch = _present(_dict(given.get(kind)))
    hyperparameters = branch.pop("hyperparameters", None) or job.get("hyperparameters")
    branch["hyperparameters"] = _present(_dict(hyperparameters))
    return {"type": kind, kind: branch}


def _base_of(job: dict[str, Any], remarks: list[str]) -> str:
    """The model to start from: a tuned one stays behind, so its base stands in for it."""
    model = str(job.get("model") or "")
    if not model.startswith("ft:"):
        return model
    base = model.split(":")[1]
    remarks.append(f"it continued {model}, which cannot be carried; the recipe starts from {base}")
    return base


def _metadata(thing: dict[str, Any], remarks: list[str]) -> dict[str, Any]:
    """Its own, and where it came from."""
    metadata = _dict(thing.get("metadata"))
    if ORIGIN in metadata or len(metadata) < MAX_METADATA_PAIRS:
        return metadata | {ORIGIN: thing["id"]}
    remarks.append(f"its metadata is full, so {ORIGIN} is left out")
    return metadata


def _data_source(config: dict[str, Any]) -> dict[str, Any]:
    """The request's form; answers wrap the item's schema in the schema of the whole line."""
    if config.get("type") != "custom":
        return _present({"type": config.get("type"), "metadata": config.get("metadata")})
    properties = _dict(_dict(config.get("schema")).get("properties"))
    return {
        "type": "custom",
        "item_schema": properties.get("item") or {"type": "object"},
        "include_sample_schema": "sample" in properties,
    }


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _dict(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}
