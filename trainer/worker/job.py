"""The life of one claimed job in this process: fetch, encode, resolve, train, store, let go; and every way it can end.

A fault of the customer's ends the job with its reason. A fault of ours ends it too, with a generic text, and goes to
the log. Neither ends the process: the next job runs.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rootstock import adapters, interruptions, jobs
from rootstock.adapters.manifest import CONFIG
from rootstock.datasets import read_examples
from rootstock.db import Database
from rootstock.errors import AdapterInvalid, JobFailure, LeaseLost, ObjectNotFound
from rootstock.records import TRAINABLE_METHODS, FileRole, JobRecord
from rootstock.release.replay import count
from rootstock.settings import Settings
from rootstock.storage import Store
from rootstock.telemetry import JOBS_ENDED, log_context
from rootstock.workdir import workdir
from trainer import checkpoint, driver, loop, recipe, replay
from trainer.base import Base
from trainer.data import Dataset
from trainer.engine import Engine
from trainer.loop import Verdict
from trainer.method import Passes
from trainer.methods import METHODS
from trainer.recipe import Recipe
from trainer.worker.examining import examine
from trainer.worker.integrations import Followers
from trainer.worker.lease import Lease
from trainer.worker.lines import fetch, replay_wish
from trainer.worker.reinforcing import Surroundings, aids_for
from trainer.worker.report import JobReporter, resume_state
from trainer.worker.splitting import parts, split_wish

log = logging.getLogger(__name__)


OUT_OF_MEMORY = (
    "The job does not fit into the trainer's memory, not even example by example. Shorter examples, a smaller "
    "rootstock.adapter.rank or the type 'qlora' need less."
)


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a worker process has at hand for every job."""

    settings: Settings
    db: Database
    store: Store
    base: Base
    engine: Engine | None  # None: there is none for the type of job at hand
    leaving: Callable[[], bool]  # whether this process was asked to stop
    token_budget: int = 8192  # of one pass


def live(place: Workplace, job: JobRecord) -> Passes:
    """Bring a claimed job to its end, or hand it back, asking for its passes; raises nothing that is about the job.

    Up to its first yield, which is `None`, it leaves the model alone: another thread may prepare it.
    """
    settings = place.settings
    lease = Lease(place.db, job, lease_seconds=settings.lease_seconds, heartbeat_seconds=settings.heartbeat_seconds)
    with log_context(job_id=job.id), lease, workdir(settings.data_dir / "trainer") as folder:
        try:
            yield from _train(place, lease, folder)
        except LeaseLost as error:
            log.info("stopped: %s", error)
        except AdapterInvalid as error:
            _fail(place, lease, _unusable(job, error.message))
        except JobFailure as failure:
            log.info("failed: %s (%s)", failure.message, failure.code)
            _fail(place, lease, failure)
        except torch.OutOfMemoryError:
            log.warning("out of memory", exc_info=True)
            _fail(place, lease, JobFailure("insufficient_memory", OUT_OF_MEMORY, "rootstock.adapter"))
        except Exception:  # whatever it is, it must end this job only, and its text is no customer's business
            log.exception("the job failed for a reason of ours")
            text = "The job failed due to an internal error. It may succeed when created again."
            _fail(place, lease, JobFailure("server_error", text))


def run_job(place: Workplace, job: JobRecord) -> None:
    """Bring a claimed job to its end with no other beside it."""
    assert place.engine is not None
    driver.alone(place.engine, live(place, job), place.token_budget)


def _train(place: Workplace, lease: Lease, folder: Path) -> Passes:
    job, base = lease.job, place.base
    if place.engine is None:
        text = f"This deployment cannot train jobs of the type '{job.adapter_type}'. Leave rootstock.adapter.type out."
        raise JobFailure("server_error", text, "rootstock.adapter.type")
    examine(
        place.db,
        place.store,
        lease,
        context=place.base.context_tokens,
        max_line_bytes=place.settings.max_line_bytes,
    )
    training, validation, held_out = _datasets(place, lease, folder)
    resume = resume_state(lease, place.store, folder / "resume")
    start = _start(place, lease, folder / "start")
    chosen = _recipe(place, job, training, validation, resume, start)
    general = _replay(place, lease, folder, training, chosen.n_epochs)
    _announce(place, lease, chosen, training, general, held_out)
    mixed = replay.mix(training, general) if general is not None else training
    yield None  # what follows needs the model
    with (
        Followers(place.settings, place.db, job, chosen) as followers,
        JobReporter(job, chosen, base, place.store, lease, place.leaving, followers) as reporter,
    ):
        where = Surroundings(place.settings, place.db, place.store, base, place.engine, folder)
        with aids_for(where, job, chosen, reporter, training, validation) as aids:
            result = yield from loop.run(
                chosen,
                place.engine,
                mixed,
                validation,
                folder / "run",
                reporter,
                token_budget=place.token_budget,
                start=folder / "start" if start else None,
                resume=resume,
                aids=aids,
            )
        if result.final is not None:
            reporter.finish(result)
            followers.ends_as("trained", trained_tokens=result.trained_tokens)
            log.info("trained, %d tokens", result.trained_tokens)
        elif result.verdict is Verdict.STOP:
            raise LeaseLost(f"Job {job.id} was lost after step {len(result.history)}.")
        else:
            reporter.settle()
            lease.persist(lambda: _hand_back(lease))
            followers.ends_as("paused" if result.verdict is Verdict.PAUSE else "handed back")
            log.info("%s after step %d", result.verdict, len(result.history))


def _start(place: Workplace, lease: Lease, folder: Path) -> recipe.Start | None:
    """Fetch the adapter that the job goes on from, if it is to start from one, and tell its shape."""
    job = lease.job
    if job.start_adapter is None:
        return None
    adapter_id = job.start_adapter
    try:
        manifest = lease.persist(lambda: adapters.fetch_tree(place.store, adapter_id, folder))
    except (ObjectNotFound, AdapterInvalid) as error:
        log.error("cannot start from %s: %s", adapter_id, error)
        raise _unusable(job, "its weights are no longer stored") from error
    if manifest.base_sha256 != place.base.fingerprint:
        raise _unusable(job, f"it was made on another version of {place.base.name}")
    if manifest.rank is None or manifest.alpha is None:
        raise _unusable(job, "it is a whole model, not an adapter")
    alpha = manifest.alpha
    rslora = bool(json.loads((folder / CONFIG).read_bytes()).get("use_rslora"))
    return recipe.Start(adapter_id, manifest.rank, int(alpha) if alpha.is_integer() else alpha, rslora)


def _unusable(job: JobRecord, reason: str) -> JobFailure:
    return JobFailure("model_not_available", f"The model {job.start_model} cannot be tuned further: {reason}.", "model")


def _datasets(place: Workplace, lease: Lease, folder: Path) -> tuple[Dataset[Any], Dataset[Any] | None, int | None]:
    """What to train on, what to validate with, and how many lines the second was given of the first's file."""
    lines = fetch(place.store, lease, folder, "training")
    wish = split_wish(lease.job)
    if wish is not None:
        kept, held = parts(lines, wish)
        training, validation = (_encoded(place, lease, *part) for part in ((kept, "training"), (held, "validation")))
        lines.path.unlink()
        return training, validation, len(held.chosen)
    training = _encoded(place, lease, lines, "training")
    lines.path.unlink()
    if not lease.job.validation_object:
        return training, None, None
    lines = fetch(place.store, lease, folder, "validation")
    validation = _encoded(place, lease, lines, "validation")
    lines.path.unlink()
    return training, validation, None


def _encoded(place: Workplace, lease: Lease, lines: Iterable[bytes], role: FileRole) -> Dataset[Any]:
    encode = METHODS[_method(lease.job)].encode
    encoded = encode(read_examples(lines), place.base, max_tokens=place.base.context_tokens, role=role)
    _warn(lease, encoded, role, place.base.context_tokens)
    return encoded


def _replay(place: Workplace, lease: Lease, folder: Path, own: Dataset[Any], epochs: int) -> replay.General | None:
    """The general rows to mix in, where the job wants some. A function of its files and its seed, so that a worker that
    goes on from a state has the same."""
    wish = replay_wish(lease.job)
    if wish is None:
        return None
    lines, most = fetch(place.store, lease, folder, "replay"), place.base.context_tokens
    wanted = count(own.examples, wish["share"])
    general = replay.draw(lines, place.base, wanted=wanted, epochs=epochs, seed=lease.job.seed, max_tokens=most)
    _warn(lease, general.pool, "replay", most)
    return general


def _method(job: JobRecord) -> str:
    return str(job.method.get("type", TRAINABLE_METHODS[0]))


def _warn(lease: Lease, encoded: Dataset[Any], role: FileRole, max_tokens: int) -> None:
    warnings = []
    if encoded.truncated:
        cut = f"{encoded.truncated} of {encoded.examples} examples in the {role} file are longer than {max_tokens} "
        warnings.append(("truncated", cut + "tokens and were truncated at the end"))
    if encoded.with_control_text:
        held = f"{encoded.with_control_text} of {encoded.examples} examples in the {role} file contain control tokens "
        warnings.append(("control-text", held + "of the base model in their text; they are read as such"))
    if warnings:

        def say() -> None:
            with lease.transaction() as tx:
                for key, text in warnings:
                    jobs.say(tx, lease.job, text, level="warn", dedupe=f"{key}-{role}")

        lease.persist(say)


def _recipe(
    place: Workplace,
    job: JobRecord,
    training: Dataset[Any],
    validation: Dataset[Any] | None,
    resume: Path | None,
    start: recipe.Start | None,
) -> Recipe:
    method = _method(job)
    if resume is not None:
        asked = checkpoint.asked_before(resume)  # the row holds the resolved numbers by now
    else:
        asked = dict(job.hyperparameters) | dict(job.method.get(method, {}).get("hyperparameters") or {})
        asked |= _extras(job.rootstock or {})
    facts = recipe.Facts(
        examples=training.examples,
        hidden_size=place.base.hidden_size,
        context_tokens=place.base.context_tokens,
        dtype=place.base.dtype,
        max_rank=place.settings.max_lora_rank,
        start=start,
        validation_examples=validation.examples if validation else 0,
        usual_answer_tokens=getattr(place.base.model.generation_config, "max_new_tokens", None),
        takes_effort=place.base.template is not None and "reasoning_effort" in place.base.template.source,
    )
    chosen = recipe.resolve(asked, facts, seed=job.seed, method=method)
    for name, source in chosen.sources.items():
        log.info("%s = %s (%s)", name, getattr(chosen, name), source)
    return chosen


def _extras(kept: dict[str, Any]) -> dict[str, Any]:
    """The options of the job's `rootstock` object by the names that recipes have for them."""
    stopping, budget, sampling = (kept.get(name) or {} for name in ("early_stopping", "budget", "sampling"))
    shape = {name: value for name, value in (kept.get("adapter") or {}).items() if value is not None}
    return shape | {
        **{name: stopping[name] for name in ("patience", "min_delta") if name in stopping},
        **({"stopping_metric": stopping["metric"]} if stopping.get("metric") else {}),
        **({"max_sampled_tokens": sampling["max_tokens"]} if sampling else {}),
        **{f"budget_{name.removeprefix('max_')}": value for name, value in budget.items() if value is not None},
    }


def _announce(
    place: Workplace,
    lease: Lease,
    chosen: Recipe,
    own: Dataset[Any],
    general: replay.General | None,
    held_out: int | None,
) -> None:
    numbers = chosen.hyperparameters()
    method: dict[str, Any] = {**lease.job.method, "type": chosen.method}
    method[chosen.method] = {**(method.get(chosen.method) or {}), "hyperparameters": chosen.method_hyperparameters()}
    rows = len(own.rows) + (general.rows if general else 0)
    total_steps = math.ceil(rows / chosen.batch_size) * chosen.n_epochs

    assert place.engine is not None
    engine = place.engine.name
    how: dict[str, Any] = {"engine": engine, "sharing": place.settings.train_sharing}
    if general is not None:
        how["replay"] = (replay_wish(lease.job) or {}) | {"examples": general.examples, "tokens": general.tokens}
    if held_out is not None:
        how["split"] = (split_wish(lease.job) or {}) | {"held_out": held_out}

    def resolve() -> None:
        with lease.transaction() as tx:
            if engine == "peft":
                slower = (
                    f"{place.base.name} is not among the architectures of the fast engine; the job trains by itself"
                )
                jobs.say(tx, lease.job, slower, level="warn", dedupe="engine")
            if held_out is not None:
                text = f"Held out {held_out} of the training file's lines for validation (seed {how['split']['seed']})"
                jobs.say(tx, lease.job, text, dedupe="split")
            if general is not None:
                jobs.say(tx, lease.job, replay.told(how["replay"]["file"], general, own), dedupe="replay")
            jobs.resolve(
                tx,
                lease.job.id,
                lease.job.fence,
                hyperparameters=numbers,
                method=method,
                rootstock={**(lease.job.rootstock or {}), **how, "adapter": chosen.shape()},
                total_steps=total_steps,
            )

    lease.persist(resolve)


def _hand_back(lease: Lease) -> None:
    with lease.transaction() as tx:
        interruptions.hand_back(tx, lease.job.id, lease.job.fence)


def _fail(place: Workplace, lease: Lease, failure: JobFailure) -> None:
    def fail() -> None:
        with lease.transaction() as tx:
            jobs.fail(tx, lease.job.id, lease.job.fence, failure)

    try:
        lease.persist(fail)
    except LeaseLost as error:
        log.info("stopped: %s", error)
    else:
        JOBS_ENDED.labels(status="failed").inc()
