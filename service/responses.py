"""`/v1/responses` without memory: the question as a chat completion, its answer as a response; nothing is kept.

And `/v1/embeddings`, which no base here can answer. Knows neither vLLM nor how a response is put together.
"""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rootstock.errors import InvalidRequest, InvalidValue, NotFound, RootstockError
from service import responding, shapes
from service.deps import CallerDep, Direct, PartsDep, body_schema, fit, json_body
from service.gateway import CHAT, Gateway
from service.inference import answered, asked, frame
from service.responding import Event, Responding
from service.wire import ErrorBody, RequestModel
from service.wire_answers import ModelResponse
from service.wire_inference import ChatRequest, Ignored
from service.wire_responses import ResponsesRequest

router = APIRouter(prefix="/v1", tags=["inference"], route_class=Direct)
refused = APIRouter(prefix="/v1", tags=["refused"])
"""Operations that there are, and that never succeed here."""

ResponseId = Annotated[str, Path(description="The id of a response.")]


NOT_STORED = "Response with id '{}' not found: responses are not stored in this deployment."


class EmbeddingsRequest(RequestModel):
    """The body of `POST /v1/embeddings`, which is refused whatever it holds."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "gpt-4o-mini", "input": "Hello"}]})

    model: str
    input: Ignored = None
    dimensions: Ignored = None
    encoding_format: Ignored = None
    user: Ignored = None


@router.post(
    "/responses",
    response_class=Response,
    responses={
        200: {
            "description": "The response, or with `stream` its events as server-sent events.",
            "model": ModelResponse,
            "content": {"text/event-stream": {}},
        }
    },
    openapi_extra=body_schema(ResponsesRequest),
)
async def create_response(request: Request) -> Response:
    """Answer with the base model or a tuned one. Nothing is stored, so nothing can be gone on from."""
    body, question = await asked(request, ResponsesRequest, _as_chat)
    created = time.time()
    answer = await answered(CHAT, question, request, lambda model: Events(Responding(body, model, created)))
    if isinstance(answer, Response):
        return answer
    return JSONResponse(responding.whole(answer, body, created))


@refused.get("/responses/{response_id}", response_class=Response)
def retrieve_response(response_id: ResponseId, caller: CallerDep) -> Response:
    """Never finds one: responses are not stored in this deployment."""
    raise NotFound(NOT_STORED.format(response_id[:64]))


@refused.delete("/responses/{response_id}", response_class=Response)
def delete_response(response_id: ResponseId, caller: CallerDep) -> Response:
    """Never finds one: responses are not stored in this deployment."""
    raise NotFound(NOT_STORED.format(response_id[:64]))


@refused.post(
    "/embeddings",
    response_class=Response,
    responses={404: {"model": ErrorBody, "description": "The project may not call such a model."}},
    openapi_extra=body_schema(EmbeddingsRequest),
)
async def create_embeddings(
    body: Annotated[EmbeddingsRequest, json_body(EmbeddingsRequest)], parts: PartsDep, caller: CallerDep
) -> Response:
    """Refused: the base models here make no embeddings."""
    gateway = Gateway(parts.settings, parts.db, parts.upstream)
    await run_in_threadpool(gateway.addressee, caller, body.model)
    raise InvalidValue(
        f"The model '{body.model[:256]}' makes no embeddings: this deployment serves models that write text.",
        param="model",
        code="unsupported_model",
    )


class Events:
    """The script of a streamed response: named events with growing numbers, and no `[DONE]`."""

    def __init__(self, answer: Responding) -> None:
        self._answer = answer
        self._usage: dict[str, Any] | None = None

    def begin(self) -> list[bytes]:
        """It is created and in progress."""
        return _frames(self._answer.begin())

    def event(self, event: dict[str, Any]) -> list[bytes]:
        """What a chunk adds."""
        if not event["choices"]:
            self._usage = shapes.usage(event.get("usage"))
        return _frames(self._answer.chunk(event))

    def error(self, error: RootstockError) -> list[bytes]:
        """It failed."""
        return _frames(self._answer.failed(error.code or "server_error", error.message))

    async def end(self) -> None:
        """Nothing is kept."""

    def last(self) -> list[bytes]:
        """It is complete, or as long as it may be."""
        return _frames(self._answer.end(self._usage))


def _as_chat(body: ResponsesRequest) -> ChatRequest:
    try:
        return fit(ChatRequest, body.as_chat())
    except InvalidRequest as error:  # a rule of chat completions that the response's fields are under, too
        error.param = "input" if (error.param or "").startswith("messages") else error.param
        raise


def _frames(events: list[Event]) -> list[bytes]:
    return [f"event: {event['type']}\n".encode() + frame(event) for event in events]
