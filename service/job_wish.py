"""What a request to create a job comes to: which base and start, which numbers, whether it was made already.

Knows no routes; raises what a client may be told.
"""

from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request

from rootstock import aliases, estimates, files, ids, jobs, models, releases
from rootstock.datasets import check_from_json, judge
from rootstock.db import Tx
from rootstock.errors import (
    FileNotFound,
    InvalidRequest,
    InvalidValue,
    MissingParameter,
    ModelNotFound,
    ModelNotTunable,
)
from rootstock.estimating import Estimate
from rootstock.grading import compile_grader
from rootstock.records import TRAINABLE_METHODS, Caller, FileRecord, JobRecord, JobStatus, Start
from rootstock.settings import Settings
from service import job_extras, retries
from service.models import is_hosted
from service.releasing.reading import has_held_out
from service.wire_jobs import CreateJob
from service.wire_methods import COMMON, HYPERPARAMETERS


class Wish:
    """A request that makes sense by itself; the rest is asked of the database in `create`.

    `served_rank` tells the largest rank that the running servers of a base take, `None` where that is not known.

    Raises `InvalidValue` or `MissingParameter` for what this deployment cannot do or what does not go together.
    """

    def __init__(
        self,
        settings: Settings,
        caller: Caller,
        body: CreateJob,
        served_rank: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._caller = caller
        self._body = body
        self._method = _method(body)
        _check_integrations(settings, body)
        job_extras.check(body)
        self._served_rank = served_rank

    def estimate(self, tx: Tx) -> tuple[str, Estimate]:
        """The base of the job that this would make, and what it would take. Raises what `create` would.

        Also `InvalidRequest` for a file that is still being read, or that no job could be trained on.
        """
        _, base, _, training, *_ = self._found(tx)
        check = None if training.check is None else check_from_json(training.check)
        if check is None:
            text = f"File {training.id} is still being read. Ask again in a moment."
            raise InvalidRequest(text, param="training_file")
        failure = judge(check, role="training", file_id=training.id, method=self._method["type"])
        if failure is not None:
            raise InvalidRequest(failure.message, param="training_file", code=failure.code)
        return base, self._estimate(tx, base, training)

    def create(self, tx: Tx, request: Request | None, *, job_id: str | None = None) -> JobRecord:
        """The new job, or the one that this request already made, when an SDK says that it asks again.

        Without `request` it is nobody's repetition: a part of ours asks, and may have chosen the id.

        Raises `ModelNotTunable`, and `InvalidRequest` for files that cannot be used.
        """
        body = self._body
        model, base, start, training, validation, replay = self._found(tx)
        if request is not None:
            earlier = retries.earlier(
                request,
                lambda: jobs.list_page(tx, self._caller.project_id, limit=retries.LOOK_BACK).data,
                lambda job: self._made(job, model, start),
            )
            if earlier is not None:
                return earlier
        job_id = job_id or ids.new("ftjob-")
        asked = self._method[self._method["type"]]["hyperparameters"]
        job = jobs.create(
            tx,
            job_id=job_id,
            project_id=self._caller.project_id,
            model=model,
            base=base,
            start=start,
            training=training,
            validation=validation,
            suffix=body.suffix,
            seed=body.seed,
            method=self._method,
            hyperparameters={name: asked[name] for name in COMMON},
            integrations=[one.of_job(job_id, model) for one in body.integrations or []],
            metadata=body.metadata,
            rootstock=job_extras.of_job(body, start, replay),
        )
        if has_held_out(job):
            releases.begin(tx, job)
        if training.check is not None:
            estimates.keep(tx, job, training.bytes, self._estimate(tx, base, training))
        return job

    def _found(self, tx: Tx) -> tuple[str, str, Start | None, FileRecord, FileRecord | None, FileRecord | None]:
        """The snapshot, the base, the model to go on from, and the files, all of which this deployment can use."""
        body = self._body
        model, base, start = self._start(tx)
        job_extras.check_rank(body, self._settings.max_lora_rank, self._served_rank(base))
        job_extras.check_memory(self._settings, body, base)
        graders = {"method.reinforcement.grader": self._method.get("reinforcement", {}).get("grader")}
        graders[job_extras.GRADER] = (job_extras.measure(body) or {}).get("grader")
        for at, grader in graders.items():
            for param, name in _judges(grader, at):
                self._check_judge(tx, param, name)
        training = self._file(tx, body.training_file, "training_file")
        validation = self._file(tx, body.validation_file, "validation_file") if body.validation_file else None
        replay_file = body.rootstock.replay.file if body.rootstock and body.rootstock.replay else None
        replay = self._file(tx, replay_file, "rootstock.replay.file") if replay_file is not None else None
        return model, base, start, training, validation, replay

    def _estimate(self, tx: Tx, base: str, training: FileRecord) -> Estimate:
        asked = self._method[self._method["type"]]["hyperparameters"]
        return estimates.of_job(
            tx,
            self._settings,
            base,
            training,
            method=self._method["type"],
            hyperparameters=asked,
            rootstock=job_extras.of_job(self._body, None),
        )

    def _start(self, tx: Tx) -> tuple[str, str, Start | None]:
        """The snapshot to show as `model`, the base to train on, and the tuned model to go on from, if it is one."""
        name = self._body.model
        if (alias := aliases.find(tx, self._caller.project_id, name)) is not None:
            name = alias.target.model
        try:
            return *models.resolve_base(self._settings, name), None
        except ModelNotTunable:
            start = models.start(tx, self._settings, self._caller.project_id, name)
            return start.snapshot, start.base, start

    def _check_judge(self, tx: Tx, param: str, name: str) -> None:
        if is_hosted(self._settings, name):
            return
        try:
            models.get(tx, self._caller.project_id, name)
        except ModelNotFound:
            raise InvalidValue(
                f"The grader's model '{name[:256]}' is not served here. Name the base model or a tuned model.",
                param=param,
                code="model_not_found",
            ) from None

    def _file(self, tx: Tx, file_id: str, param: str) -> FileRecord:
        try:
            record = files.get(tx, self._caller.project_id, file_id, lock=True)
        except FileNotFound:
            raise InvalidRequest(f"invalid {param}: {file_id[:512]}", param=param) from None
        if record.purpose != "fine-tune":
            raise InvalidRequest(
                f"File {record.id} has the purpose '{record.purpose}'; a {param} needs the purpose 'fine-tune'.",
                param=param,
            )
        return record

    def _made(self, job: JobRecord, model: str, start: Start | None) -> bool:
        body = self._body
        return (
            job.status is not JobStatus.CANCELLED
            and job.model == model
            and job.start_model == (None if start is None else start.model)
            and job.training_file == body.training_file
            and job.validation_file == body.validation_file
            and job.suffix == body.suffix
            and body.seed in (None, job.seed)
            and job.metadata == body.metadata
            and job.integrations == [one.of_job(job.id, job.model) for one in body.integrations or []]
            and job_extras.same(body, job.rootstock or {})
            and _covers(self._method, job.method)
        )


def _method(body: CreateJob) -> dict[str, Any]:
    """The method as the job shows it: what is asked for, from whichever of the two places, "auto" where nothing is."""
    kind = body.method.type if body.method else "supervised"
    branch = getattr(body.method, kind) if body.method else None
    for other in HYPERPARAMETERS:
        if other != kind and getattr(body.method, other, None) is not None:
            raise InvalidValue(f"'method.{other}' does not go with the type '{kind}'.", param=f"method.{other}")
    if kind == "reinforcement" and branch is None:
        name = "method.reinforcement.grader"
        raise MissingParameter(f"Missing required parameter: '{name}'.", param=name)
    if kind not in TRAINABLE_METHODS:
        known = ", ".join(f"'{method}'" for method in TRAINABLE_METHODS)
        raise InvalidValue(
            f"The method '{kind}' is not supported by this deployment; there is {known}.",
            param="method.type",
            code="unsupported_value",
        )
    new, old = branch.hyperparameters if branch else None, body.hyperparameters
    if old is not None and new is not None and any(getattr(old, name) != getattr(new, name) for name in COMMON):
        raise InvalidValue(
            f"'hyperparameters' differs from 'method.{kind}.hyperparameters'; send only the latter.",
            param="hyperparameters",
        )
    asked = new or HYPERPARAMETERS[kind].model_validate(old.model_dump() if old else {})
    rest = branch.model_dump(by_alias=True, exclude_none=True, exclude={"hyperparameters"}) if branch else {}
    if kind == "reinforcement":
        rest.setdefault("response_format", None)
        compile_grader(rest["grader"])  # refuses what no sample can be graded with
    return {"type": kind, kind: {**rest, "hyperparameters": asked.model_dump()}}


def _judges(grader: Any, at: str) -> Iterator[tuple[str, str]]:
    """Where a grader names a model that judges, and which."""
    if not isinstance(grader, dict):
        return
    if "model" in grader:
        yield f"{at}.model", grader["model"]
    parts = grader.get("graders") or {}
    named = parts.items() if isinstance(parts, dict) else enumerate(parts)
    for key, part in named:
        yield from _judges(part, f"{at}.graders.{key}" if isinstance(key, str) else f"{at}.graders[{key}]")


def _check_integrations(settings: Settings, body: CreateJob) -> None:
    if body.integrations and not settings.reports_to_wandb:
        raise InvalidValue(
            "This deployment has no Weights & Biases key (ROOTSTOCK_WANDB_API_KEY); leave 'integrations' out.",
            param="integrations",
            code="unsupported_value",
        )
    places = [(one.wandb.entity, one.wandb.project) for one in body.integrations or []]
    for number, place in enumerate(places):
        if place in places[:number]:
            name = f"integrations[{number}].wandb.project"
            raise InvalidValue(f"Invalid '{name}': the job has a run in this project already.", param=name)


def _covers(asked: Any, resolved: Any) -> bool:
    """Whether what was asked may have become this: "auto" is resolved to a number meanwhile."""
    if isinstance(asked, dict) and isinstance(resolved, dict):
        return asked.keys() == resolved.keys() and all(_covers(asked[key], resolved[key]) for key in asked)
    return bool(asked in ("auto", resolved))
