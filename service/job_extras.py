"""What the `rootstock` object of a new job comes to: what goes together and what this deployment can serve.

Knows no routes and no database; raises what a client may be told.
"""

from pathlib import Path
from typing import Any

from rootstock import footprint
from rootstock.errors import InvalidValue
from rootstock.grading import compile_grader
from rootstock.records import FileRecord, Start
from rootstock.settings import LORA_RANKS, Settings
from service.wire import RequestModel
from service.wire_extras import AdapterWish, Extras, Measure, Replay
from service.wire_jobs import CreateJob

GRADER = "rootstock.measure.grader"
"""Where the grader of the release gate stands in a request."""

DEFAULT_RANK = 16
"""What a trainer takes where no rank is asked for, if it may."""

_NUMBERS = ("rank", "alpha", "rslora")
_OTHERS = ("early_stopping", "budget", "sampling", "split", "measure")


def check(body: CreateJob) -> None:
    """Raise `InvalidValue` for what does not go together."""
    extras = body.rootstock or Extras()
    adapter = extras.adapter or AdapterWish()
    if adapter.type == "full":
        for name in _NUMBERS:
            if getattr(adapter, name) is not None:
                param = f"rootstock.adapter.{name}"
                raise InvalidValue(f"'{param}' does not go with the type 'full', which has no adapter.", param=param)
    if extras.split is not None and body.validation_file is not None:
        raise InvalidValue(
            "'rootstock.split' makes a validation set of the training file: leave it or 'validation_file' out.",
            param="rootstock.split",
        )
    if extras.early_stopping is not None and body.validation_file is None and extras.split is None:
        raise InvalidValue(
            "'rootstock.early_stopping' looks at the validation loss: send a 'validation_file' or 'rootstock.split' "
            "with it.",
            param="rootstock.early_stopping",
        )
    if extras.measure is not None:
        _check_measure(extras.measure, held_out=body.validation_file is not None or extras.split is not None)
    stops_by = extras.early_stopping.metric if extras.early_stopping else "loss"
    if stops_by == "task" and body.method is not None and body.method.type != "supervised":
        raise InvalidValue(
            f"'rootstock.early_stopping.metric' is 'task' only with the method 'supervised', not with "
            f"'{body.method.type}': leave it out.",
            param="rootstock.early_stopping.metric",
        )
    if extras.sampling is not None and (body.method is None or body.method.type != "reinforcement"):
        raise InvalidValue(
            "'rootstock.sampling' is about the method 'reinforcement'; no other samples answers.",
            param="rootstock.sampling",
        )
    if extras.replay is not None and body.method is not None and body.method.type != "supervised":
        raise InvalidValue(
            f"'rootstock.replay' goes with the method 'supervised', not with '{body.method.type}': its "
            "general examples say what to answer.",
            param="rootstock.replay",
        )
    if extras.budget is not None and extras.budget.max_tokens is None and extras.budget.max_minutes is None:
        raise InvalidValue(
            "'rootstock.budget' sets no limit: give 'max_tokens', 'max_minutes' or both.", param="rootstock.budget"
        )


def check_rank(body: CreateJob, trained: int, served: int | None) -> None:
    """Raise `InvalidValue`, naming the nearest accepted rank, for one that is not trained, or not served, here.

    `trained` is the largest rank of the trainers, `served` that of the running servers where it is known.
    """
    adapter = (body.rootstock or Extras()).adapter or AdapterWish()
    limit = min(trained, served or trained)
    usual = min(DEFAULT_RANK, trained)
    if adapter.type == "full" or (adapter.rank or usual) <= limit:
        return
    nearest = max(rank for rank in LORA_RANKS if rank <= limit)
    who = "of this deployment" if limit == trained else "of the running vLLM servers"
    got = f"but got {adapter.rank} instead" if adapter.rank else f"and without one it would be {usual}"
    raise InvalidValue(
        f"Invalid 'rootstock.adapter.rank': integer above maximum value. Expected a value <= {nearest}, the limit "
        f"{who}, {got}.",
        param="rootstock.adapter.rank",
        code="integer_above_max_value",
    )


def check_memory(settings: Settings, body: CreateJob, base: str) -> None:
    """Raise `InvalidValue`, naming what fits, for a job that a trainer here has no memory for."""
    adapter = (body.rootstock or Extras()).adapter or AdapterWish()
    size = footprint.size_of(Path(settings.bases[base])) if settings.trainer_memory_gib else None
    if size is None:
        return
    rank = adapter.rank or min(DEFAULT_RANK, settings.max_lora_rank)
    needed = footprint.training_gib(size, adapter.type, rank)
    if needed <= settings.trainer_memory_gib:
        return
    others = [kind for kind in footprint.fitting(size, settings.trainer_memory_gib, rank) if kind != adapter.type]
    cure = f"What fits: {', '.join(repr(kind) for kind in others)}." if others else "No type fits."
    raise InvalidValue(
        f"Invalid 'rootstock.adapter.type': a job of the type '{adapter.type}' on {base} needs at least "
        f"{needed:.1f} GiB, and a trainer here has {settings.trainer_memory_gib:g}. {cure}",
        param="rootstock.adapter.type",
        code="unsupported_value",
    )


def of_job(body: CreateJob, start: Start | None, replay: FileRecord | None = None) -> dict[str, Any]:
    """What is kept with the job: as asked, "auto" where nothing is. Raises `InvalidValue` for what `start` forbids.

    `replay` is the file of general examples; the job keeps where its content lies, as for its other files.
    """
    extras = body.rootstock or Extras()
    adapter = extras.adapter or AdapterWish()
    if start is not None:
        _go_on(adapter, start)
    shown: dict[str, Any] = {"type": adapter.type, "rank": None, "alpha": None, "rslora": None}
    if adapter.type != "full":
        rank = adapter.rank or (start.rank if start else None) or "auto"
        shown |= {"rank": rank, "alpha": adapter.alpha or "auto", "rslora": bool(adapter.rslora)}
    kept: dict[str, Any] = {"adapter": shown}
    for name in _OTHERS:
        asked = getattr(extras, name)
        if asked is not None:
            kept[name] = _asked(asked)
    if extras.replay is not None:
        kept["replay"] = extras.replay.model_dump() | {"object": replay.object_key if replay else None}
    return kept


def measure(body: CreateJob) -> dict[str, Any] | None:
    """How the release gate is asked to score, as it is kept."""
    return _asked((body.rootstock or Extras()).measure)


def same(body: CreateJob, kept: dict[str, Any]) -> bool:
    """Whether a job that keeps this may have come of the same request: "auto" is a number meanwhile."""
    extras = body.rootstock or Extras()
    adapter = extras.adapter or AdapterWish()
    trained = kept.get("adapter") or {}
    asked = {name: getattr(adapter, name) for name in _NUMBERS}
    return (
        trained.get("type", "lora") == adapter.type
        and all(value in (None, trained.get(name)) for name, value in asked.items())
        and all(_asked(getattr(extras, name)) == _plain(kept.get(name)) for name in _OTHERS)
        and _same_replay(extras.replay, kept.get("replay"))
    )


def _asked(wish: RequestModel | None) -> dict[str, Any] | None:
    # Graders are read by others in the API's own shape, which knows no null.
    return None if wish is None else wish.model_dump(by_alias=True, exclude_none=isinstance(wish, Measure))


def _check_measure(measure: Measure, *, held_out: bool) -> None:
    if not held_out:
        raise InvalidValue(
            "'rootstock.measure' is about held-out examples: send a 'validation_file' or 'rootstock.split' with it.",
            param="rootstock.measure",
        )
    if measure.grader is not None:
        spec = measure.grader.model_dump(by_alias=True, exclude_none=True)
        compile_grader(spec, at=GRADER)  # refuses what no answer can be graded with


def _plain(kept: dict[str, Any] | None) -> dict[str, Any] | None:
    """What was asked, without what a worker found."""
    return kept and {name: value for name, value in kept.items() if name != "held_out"}


def _same_replay(wish: Replay | None, kept: dict[str, Any] | None) -> bool:
    asked = wish and wish.model_dump()
    return asked == (kept and {name: kept[name] for name in Replay.model_fields})


def _go_on(adapter: AdapterWish, start: Start) -> None:
    if adapter.type == "full":
        raise InvalidValue(
            f"'{start.model}' is an adapter, and tuning it further trains that: use the type 'lora' or 'qlora'.",
            param="rootstock.adapter.type",
        )
    if adapter.rank not in (None, start.rank):
        has = f"'{start.model}' has {f'the rank {start.rank}' if start.rank else 'a rank of its own'}"
        raise InvalidValue(f"{has}, which tuning it further keeps.", param="rootstock.adapter.rank")
    for name in ("alpha", "rslora"):
        if getattr(adapter, name) is not None:
            param = f"rootstock.adapter.{name}"
            raise InvalidValue(f"'{start.model}' has its own '{name}', which tuning it further keeps.", param=param)
