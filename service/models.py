"""`/v1/models`: what the caller may call. Built from our own tables, never from what vLLM lists."""

from fastapi import APIRouter

from rootstock import aliases, models
from rootstock.db import Tx
from rootstock.errors import ModelInUse, ModelNotFound, ModelNotTunable, PermissionDenied
from rootstock.records import Caller, ModelRecord, ModelState
from rootstock.settings import Settings
from service.deps import CallerDep, PartsDep, owner
from service.wire import Deleted, ErrorBody, Model, ModelList

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(parts: PartsDep, caller: CallerDep) -> ModelList:
    """The base model under each of its names, the tuned models that the project may use, then its aliases."""
    with parts.db.read() as tx:
        tuned = models.list_ready(tx, caller.project_id)
        named = aliases.list_all(tx, caller.project_id)
    data = [Model.hosted(name) for name in hosted_names(parts.settings)]
    data += [Model.tuned(record, caller.organization_id) for record in tuned]
    data += [Model.alias(record, caller.organization_id) for record in named]
    return ModelList(object="list", data=data)


# Greedy, because SDKs encode `/` inside a name as %2F and servers decode it before routing.
@router.get("/{model:path}")
def retrieve_model(model: str, parts: PartsDep, caller: CallerDep) -> Model:
    """One model; checkpoints and aliases too."""
    if is_hosted(parts.settings, model):
        return Model.hosted(model)
    with parts.db.read() as tx:
        if alias := aliases.find(tx, caller.project_id, model):
            return Model.alias(alias, caller.organization_id)
        return Model.tuned(ready(tx, caller, model), caller.organization_id)


@router.delete(
    "/{model:path}",
    dependencies=[owner("api.model.delete")],
    responses={
        403: {"model": ErrorBody, "description": "The key's role may not do this, or it is a base model."},
        409: {"model": ErrorBody, "description": "An alias points to the model."},
    },
)
def delete_model(model: str, parts: PartsDep, caller: CallerDep) -> Deleted:
    """Delete a tuned model; requests for it are refused from now on. The job that made it keeps naming it."""
    if is_hosted(parts.settings, model):
        raise PermissionDenied(f"The model '{model}' is a base model and cannot be deleted.", param="model")
    with parts.db.transaction() as tx:
        ready(tx, caller, model)
        if names := aliases.pointing_to(tx, caller.project_id, model):
            raise ModelInUse(
                f"The model '{model}' answers for the alias '{names[0]}'. Move or delete the alias first "
                "(/v1/rootstock/aliases)."
            )
        models.delete(tx, caller.project_id, model)
    return Deleted(id=model, object="model", deleted=True)


def hosted_names(settings: Settings) -> list[str]:
    """The base model's public name and its aliases, each once."""
    return list(dict.fromkeys([*settings.bases, *settings.model_aliases, *settings.model_aliases.values()]))


def is_hosted(settings: Settings, name: str) -> bool:
    """Whether `name` means the base model."""
    try:
        models.resolve_base(settings, name)
    except ModelNotTunable:
        return False
    return True


def ready(tx: Tx, caller: Caller, name: str) -> ModelRecord:
    """The tuned model of this name, if the caller may use it.

    Raises `ModelNotFound`, also while it is still being verified.
    """
    record = models.get(tx, caller.project_id, name)
    if record.state is not ModelState.READY:
        raise ModelNotFound(name)
    return record
