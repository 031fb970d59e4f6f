"""`/v1/rootstock/models/{name}/export`: a tuned model to take away, as a tar that streams out of the store.

Knows who may export and what is checked before the first byte; not how a tar is framed.
"""

import logging
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from rootstock import adapters
from rootstock.adapters import Export
from rootstock.errors import AdapterInvalid, InvalidRequest, InvalidValue, ModelDamaged, ObjectNotFound, RootstockError
from service.deps import CallerDep, Parts, PartsDep
from service.models import is_hosted, ready

MEDIA_TYPE = "application/x-tar"

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/rootstock/models", tags=["models"])


# Greedy, because SDKs encode `/` inside a name as %2F and servers decode it before routing.
@router.get(
    "/{model:path}/export",
    response_class=Response,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}},
)
def export_model(
    model: str,
    parts: PartsDep,
    caller: CallerDep,
    format: Annotated[
        str,
        Query(
            description="`peft`: the files as they are stored. Merged models are made by `rootstock models export`.",
            json_schema_extra={"enum": ["peft"]},
        ),
    ] = "peft",
) -> Response:
    """A tuned model or checkpoint as a tar: its files, `manifest.json` with their hashes, and a README.

    Each file is checked against the manifest on its way; one that is another breaks the answer off before its end.
    """
    _check_format(format)
    if is_hosted(parts.settings, model):
        raise InvalidRequest(
            f"The model '{model}' is a base model; only tuned models and checkpoints can be exported.", param="model"
        )
    with parts.db.read() as tx:
        record = ready(tx, caller, model)
    export = _checked(parts, record.adapter_id, model)
    headers = {
        "content-disposition": f'attachment; filename="{adapters.safe_name(model)}.tar"',
        "content-length": str(export.length),
    }
    return StreamingResponse(_told(export.stream(), model), headers=headers, media_type=MEDIA_TYPE)


def _check_format(asked: str) -> None:
    if asked == "merged":
        raise InvalidValue(
            "Models are merged where the base model is: run `rootstock models export MODEL --format merged`.",
            param="format",
            code="unsupported_value",
        )
    if asked != "peft":
        raise InvalidValue(f"Invalid value: {asked[:64]!r}. Supported values are: 'peft'.", param="format")


def _checked(parts: Parts, adapter_id: str, model: str) -> Export:
    """The export, of which everything but the content of its files is known to be right."""
    try:
        manifest = adapters.read_manifest(parts.store, adapter_id)
        adapters.check_sizes(parts.store, manifest)
    except (AdapterInvalid, ObjectNotFound) as error:
        log.error("the model %s cannot be exported: %s", model, error.message)
        raise ModelDamaged(model) from error
    return Export(parts.store, manifest, model)


def _told(pieces: Iterator[bytes], model: str) -> Iterator[bytes]:
    """The pieces. What goes wrong now can only be told by the end of the connection, so the log says why."""
    try:
        yield from pieces
    except RootstockError as error:
        log.error("the export of %s was broken off: %s", model, error.message)
        raise
