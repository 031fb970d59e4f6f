"""What routes are given: the parts of the process, who is asking, a checked JSON body.

Knows HTTP and the API key rules; nothing about files, jobs or models.
"""

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter
from fastapi import Depends, Header
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rootstock import addressing, keys
from rootstock.addressing import Meaning
from rootstock.bell import Bell
from rootstock.db import Database
from rootstock.errors import (
    HeaderMismatch,
    InvalidRequest,
    InvalidType,
    InvalidValue,
    PayloadTooLarge,
    PermissionDenied,
    RootstockError,
    Unauthenticated,
)
from rootstock.grading import PythonRunner, open_runner
from rootstock.records import Caller
from rootstock.settings import Settings
from rootstock.storage import Store
from rootstock.sweep import Sweep
from service import errors
from service.errors import from_validation, json_type
from service.limits import Limits
from service.meter import Meter
from service.outbound import Outbound
from service.replicas import Upstream
from service.sampling import Sampler
from service.wire import Asking
from service.workers import Workers

M = TypeVar("M", bound=BaseModel)
A = TypeVar("A", bound=Asking)
T = TypeVar("T")

MAX_IDEMPOTENCY_KEY = 255

SMALL_BYTES = 16_384
"""Below this a body is looked through faster than a thread is asked to do it."""

READERS = 2
"""Uploads of one project whose content is read at a time while their owner waits; each may take minutes."""

ADMITTING = 8
"""Questions to models that are looked up at a time, each for about a millisecond."""

PYTHON_PROCESSES = 4
"""Sources of Python graders that run at a time, of all projects."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the routes work with, built once in `app.create_app`."""

    settings: Settings
    db: Database
    store: Store
    bell: Bell
    sweep: Sweep
    upstream: Upstream
    outbound: Outbound
    limits: Limits
    meter: Meter
    sampler: Sampler
    readers: Mapping[str, CapacityLimiter] = field(
        default_factory=lambda: defaultdict(lambda: CapacityLimiter(READERS))
    )
    """Project id -> threads beside those that all requests share, for requests that take long."""

    workers: Workers = field(default_factory=lambda: Workers(ADMITTING, "admitting"))
    """Where it is looked up who asks a model. Close it."""

    python: PythonRunner = field(init=False)
    """Where the sources of Python graders run. Close it."""

    def __post_init__(self) -> None:
        chosen = self.settings
        runner = open_runner(chosen.data_dir / "wasm", chosen.python_graders, children=PYTHON_PROCESSES)
        object.__setattr__(self, "python", runner)


async def parts(request: Request) -> Parts:  # async, or every request would wait for a thread that looks them up
    """The parts of this process."""
    found: Parts = request.app.state.parts
    return found


PartsDep = Annotated[Parts, Depends(parts)]


def caller(request: Request, parts: PartsDep) -> Caller:
    """Whose API key came with the request.

    Raises `Unauthenticated`, `InvalidApiKey` or `HeaderMismatch`.
    """
    key = _key(request)
    with parts.db.read() as tx:
        found = keys.authenticate(tx, key)
    return _recognised(request, found)


def _key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated
    return key.strip()


def _recognised(request: Request, found: Caller) -> Caller:
    for header, owner, code in (
        ("OpenAI-Organization", found.organization_id, "mismatched_organization"),
        ("OpenAI-Project", found.project_id, "mismatched_project"),
    ):
        if request.headers.get(header, owner) != owner:
            raise HeaderMismatch(header, code)
    request.state.organization = found.organization_id
    return found


CallerDep = Annotated[Caller, Depends(caller)]


def idempotency_key(
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="1 to 255 printable ASCII characters; kept for 24 hours.",
            json_schema_extra={"pattern": "^[ -~]{0,255}$"},
        ),
    ] = None,
) -> str | None:
    """The `Idempotency-Key` of a request that creates; an empty one counts as none.

    Raises `InvalidValue` for one that cannot be kept.
    """
    if not key:
        return None
    if len(key) > MAX_IDEMPOTENCY_KEY or not key.isascii() or not key.isprintable():
        raise InvalidValue(
            f"Invalid 'Idempotency-Key': expected 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters.",
            param="Idempotency-Key",
        )
    return key


IdempotencyKeyDep = Annotated[str | None, Depends(idempotency_key)]


def owner(scope: str) -> Any:
    """A dependency that lets only keys of the role `owner` pass; `scope` names what the others lack.

    Raises `PermissionDenied`.
    """

    def check(caller: CallerDep) -> None:
        if caller.role != keys.OWNER:
            raise PermissionDenied(
                f"You have insufficient permissions for this operation. Missing scopes: {scope}. "
                f"This API key has the role '{caller.role}', the operation needs the role '{keys.OWNER}'."
            )

    return Depends(check)


def json_body(model: type[M]) -> Any:
    """A dependency that reads the request body as `model`, after the caller was recognised.

    Example: `body: Annotated[CreateJob, json_body(CreateJob)]`. The content type is not looked at: SDKs differ.
    """

    async def read(request: Request, parts: PartsDep, _: CallerDep) -> M:
        data = await _read(request, parts.settings.max_body_bytes)
        return parse(model, data) if len(data) < SMALL_BYTES else await run_in_threadpool(parse, model, data)

    return Depends(read)


class Direct(APIRoute):
    """A route whose function takes the request alone, and whose body `admit` reads; its path has no parameters.

    For answers of models, where a millisecond counts: FastAPI's dependencies take a thread each, and what it wraps
    around a function takes a while for every piece of an answer. It is documented as any other.
    """

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], **documented: Any) -> None:
        super().__init__(path, endpoint, **documented)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            try:
                answer = await endpoint(request)
            except RootstockError as error:
                answer = await errors.render(request, error)
                error.__traceback__ = None  # its frames hold it, and would keep the question until the collector comes
            await answer(scope, receive, send)

        self.app = app


async def admit(request: Request, model: type[A], judge: Callable[[Caller, A, Meaning], T]) -> tuple[A, T]:
    """The body, and what `judge` says of who asks, of it, and of what its model's name means to them.

    A small body, as most are, takes one thread and one statement. Raises what `CallerDep` and `json_body` do, in the
    same order, and what `judge` does.
    """
    key, within = _key(request), await parts(request)
    told, limit = request.headers.get("content-length", ""), within.settings.max_body_bytes
    small = told.isdecimal() and int(told) < min(SMALL_BYTES, limit + 1)
    if not small:  # not much is read for who may not ask
        await within.workers.run(lambda: caller(request, within))
    data = await _read(request, limit)
    read = None if small else await run_in_threadpool(parse, model, data)

    def look() -> tuple[A, T]:
        try:
            body = read or parse(model, data)
        except RootstockError:
            caller(request, within)  # who may not ask hears that first
            raise
        found, meaning = addressing.of_key(within.db, key, body.model)
        return body, judge(_recognised(request, found), body, meaning)

    return await within.workers.run(look)


def parse(model: type[M], data: bytes) -> M:
    """`data` as strict JSON, then as `model`.

    Raises `InvalidRequest` for what is not JSON (NaN, lone surrogates and nesting beyond 200 included) and for what
    the model does not allow.
    """
    try:
        value = from_json(data or b"{}", allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request: {error}. The API expects a JSON object."
        ) from None
    if not isinstance(value, dict):
        raise InvalidType(f"Invalid body: expected an object, but got {json_type(value)} instead.")
    _refuse_unstorable(value)
    return fit(model, value)


def fit(model: type[M], value: dict[str, Any]) -> M:
    """An object that `parse` has let through as `model`. Raises `InvalidRequest` for what the model does not allow."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False)) from None


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI request body for a route that uses `json_body(model)`."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    needed = any(field.is_required() for field in model.model_fields.values())
    return {"requestBody": {"required": needed, "content": {"application/json": {"schema": schema}}}}


async def _read(request: Request, limit: int) -> bytes:
    too_large = PayloadTooLarge(f"The request body is larger than the limit of {limit} bytes.")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        request.state.close = True
        raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            request.state.close = True
            raise too_large
    return bytes(data)


def _refuse_unstorable(value: Any) -> None:
    """Refuse what the parser lets through but a database text or another JSON parser cannot hold."""
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidValue("Invalid body: a string holds a NUL character.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValue("Invalid body: a number is out of range.")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _refuse_unstorable(key)
            _refuse_unstorable(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_unstorable(inner)
