"""What moving a project's tuned models to another base comes to: which can be tuned again, and at what cost.

Whether a job could be made is found out by making it, through the same rules as a client's, and taking it back.
"""

from typing import Any, get_args

from pydantic import ValidationError

from rootstock import aliases, checkpoints, estimates, files, jobs, models, upgrades
from rootstock.db import Tx
from rootstock.errors import FileNotFound, InvalidValue, ModelNotTunable, RootstockError
from rootstock.records import Caller, JobRecord
from rootstock.settings import Settings
from rootstock.upgrades import Finding
from service.deps import fit
from service.job_wish import Wish
from service.wire import RequestModel
from service.wire_extras import Extras
from service.wire_jobs import CreateJob

_RESULTS = ("release",)
"""Keys of a job's `rootstock` object that hold what was found, even where a wish has the same name."""


class Planner:
    """Plans for one project. `most_rank` is as for `Wish`."""

    def __init__(self, settings: Settings, caller: Caller, most_rank: Any = lambda _: None) -> None:
        self._settings = settings
        self._caller = caller
        self._most_rank = most_rank

    def bases(self, asked_from: str, asked_to: str) -> tuple[str, str]:
        """The hosted bases that two names mean. Raises `InvalidValue`."""
        found = []
        for param, name in (("from", asked_from), ("to", asked_to)):
            try:
                found.append(models.resolve_base(self._settings, name)[1])
            except ModelNotTunable:
                known = ", ".join(f"'{base}'" for base in self._settings.bases)
                raise InvalidValue(
                    f"Invalid '{param}': '{name}' is no base model of this deployment; there is {known}. "
                    "Further ones are hosted with ROOTSTOCK_MORE_BASES.",
                    param=param,
                ) from None
        if found[0] == found[1]:
            raise InvalidValue(f"Invalid 'to': it is the base '{found[0]}' that the models stand on.", param="to")
        return found[0], found[1]

    def find(self, tx: Tx, from_base: str, to_base: str, only: list[str] | None) -> list[Finding]:
        """What is to be said of each model. Raises `InvalidValue` for a name in `only` that is none of them."""
        standing = upgrades.standing_on(tx, self._caller.project_id, from_base, only)
        known = {name for name, _ in standing}
        for number, name in enumerate(only or []):
            if name not in known:
                param = f"models[{number}]"
                raise InvalidValue(
                    f"Invalid '{param}': '{name[:256]}' is no tuned model of this project on '{from_base}'.",
                    param=param,
                )
        return [self._finding(tx, name, job_id, to_base) for name, job_id in standing]

    def again(self, tx: Tx, job: JobRecord, to_base: str, job_id: str | None = None) -> JobRecord:
        """The job once more, with its own data, recipe and seed, on another base.

        Raises what a client that asked for it would be told.
        """
        if job.start_model is not None:
            raise InvalidValue(
                f"It was tuned further from '{job.start_model}', an adapter of the old base. Tune that one again, then "
                "this one from it."
            )
        for what, file_id in (("training", job.training_file), ("validation", job.validation_file)):
            if file_id is not None:
                _there(tx, self._caller.project_id, what, file_id)
        body = fit(CreateJob, asked(job, to_base, wandb=self._settings.reports_to_wandb))
        wish = Wish(self._settings, self._caller, body, self._most_rank)
        return wish.create(tx, None, job_id=job_id)

    def _finding(self, tx: Tx, name: str, job_id: str, to_base: str) -> Finding:
        job = jobs.get(tx, self._caller.project_id, job_id)
        reason = None
        estimate = first_time(job)
        rehearsal = tx.begin_nested()
        try:
            made = self.again(tx, job, to_base)
            found = estimates.find(tx, made.id)
            estimate = _told((found or {}).get("estimate")) or estimate
        except RootstockError as error:
            reason = error.message
        finally:
            rehearsal.rollback()
        named = aliases.pointing_to(tx, self._caller.project_id, name)
        return Finding(
            name, job_id, reason, named, estimate, {"old": side(tx, job), "new": None, "change": None, "gain": None}
        )


def asked(job: JobRecord, base: str, *, wandb: bool) -> dict[str, Any]:
    """The request that would make this job on another base: with the numbers that it was trained with."""
    kept: dict[str, Any] = {}
    for name, value in (job.rootstock or {}).items():
        wish = {name: _plain(_wished(name, value))}
        if name in Extras.model_fields and name not in _RESULTS and _fits(wish):
            kept |= wish
    body: dict[str, Any] = {
        "model": base,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "suffix": job.suffix,
        "seed": job.seed,
        "method": _plain(job.method),
        "metadata": job.metadata,
        "rootstock": kept or None,
    }
    if wandb and job.integrations:
        runs = [one["wandb"] for one in job.integrations]
        own = [{name: run.get(name) for name in ("project", "entity", "name")} for run in runs]
        tags = [[tag for tag in run["tags"] if not tag.startswith("openai/")] for run in runs]
        body["integrations"] = [
            {"type": "wandb", "wandb": one | {"tags": named or None}} for one, named in zip(own, tags, strict=True)
        ]
    return body


def first_time(job: JobRecord) -> dict[str, Any]:
    """What the job itself took."""
    seconds = None
    if job.started_at is not None and job.finished_at is not None:
        seconds = round(job.finished_at - job.started_at, 1)
    took = {"trained_tokens": job.trained_tokens or 0, "steps": job.total_steps or job.progress_step}
    return took | {"seconds": seconds, "cost": None, "basis": "the first time, on the old base"}


def _told(estimate: dict[str, Any] | None) -> dict[str, Any] | None:
    """An estimate of the deployment's as a plan shows it; `None` where it has no time."""
    if estimate is None or estimate["seconds"] is None:
        return None
    basis = "jobs that ended on the new base" if estimate["based_on"] == "history" else estimate["based_on"]
    return {
        "trained_tokens": round(estimate["trained_tokens"]["mean"]),
        "steps": estimate["steps"],
        "seconds": round(estimate["seconds"]["mean"], 1),
        "cost": None if estimate["cost"] is None else estimate["cost"]["mean"],
        "basis": basis,
    }


def side(tx: Tx, job: JobRecord) -> dict[str, Any]:
    """What was measured of the job's own model."""
    release = (job.rootstock or {}).get("release") or {}
    final = checkpoints.of_adapter(tx, job.id, job.adapter_id) if job.adapter_id else None
    metrics = final.metrics if final else {}
    score = (release.get("scores") or {}).get("tuned")
    loss = metrics.get("full_valid_loss", metrics.get("valid_loss"))
    return {
        "model": job.fine_tuned_model,
        "job": job.id,
        "base": job.base,
        "verdict": release.get("verdict"),
        "metric": release.get("metric"),
        "score": {name: float(score[name]) for name in ("mean", "low", "high")} if score else None,
        "valid_loss": loss if isinstance(loss, float) else None,
    }


def _plain(value: Any) -> Any:
    """Without what was not asked for or never resolved."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if inner is not None}
    return value


def _wished(name: str, value: Any) -> Any:
    """Without what workers found and kept beside the wish."""
    field = Extras.model_fields.get(name)
    shapes = [one for one in get_args(field.annotation) if isinstance(one, type)] if field else []
    shape = next((one for one in shapes if issubclass(one, RequestModel)), None)
    if shape is None or not isinstance(value, dict):
        return value
    return {key: inner for key, inner in value.items() if key in shape.model_fields}


def _fits(wish: dict[str, Any]) -> bool:
    try:
        Extras.model_validate(wish)
    except ValidationError:
        return False
    return True


def _there(tx: Tx, project_id: str, what: str, file_id: str) -> None:
    try:
        files.get(tx, project_id, file_id, lock=True)
    except FileNotFound:
        raise InvalidValue(f"Its {what} file {file_id} was deleted, so it cannot be tuned again.") from None
