"""The one error tree. Each class carries what a client sees; knows nothing about HTTP frameworks or queues.

    RootstockError
    ├── InvalidRequest            400  the request cannot be honoured as sent
    │   ├── MissingParameter      400  missing_required_parameter
    │   ├── UnknownParameter      400  unknown_parameter
    │   ├── InvalidType           400  invalid_type
    │   ├── InvalidValue          400  invalid_value
    │   ├── IdempotencyKeyReused  400  idempotency_key_reused
    │   └── ModelNotTunable       400  model_not_available
    ├── Unauthenticated           401  no key
    │   ├── InvalidApiKey         401  invalid_api_key
    │   └── HeaderMismatch        401  mismatched_organization | mismatched_project
    ├── PermissionDenied          403  the caller may not do this
    ├── NotFound                  404  absent, or somebody else's: the two read the same
    │   ├── FileNotFound          404
    │   ├── UploadNotFound        404
    │   ├── JobNotFound           404  fine_tune_not_found
    │   ├── BatchNotFound         404
    │   ├── ModelNotFound         404  model_not_found
    │   ├── AliasNotFound         404  alias_not_found
    │   └── UnknownRoute          404
    ├── MethodNotAllowed          405
    ├── Conflict                  409  it would undo what somebody else did, or break what depends on it
    │   ├── AliasConflict         409  alias_moved
    │   ├── ModelInUse            409  model_in_use
    │   └── ModelHeld             409  model_held
    ├── PayloadTooLarge           413
    ├── UnsupportedEncoding       415
    ├── RateLimited               429  rate_limit_exceeded, type `requests`
    │   └── TokensLimited         429  rate_limit_exceeded, type `tokens`
    ├── ServerError               500  its text is generic; the cause goes to the log only
    │   └── ModelDamaged          500  model_damaged: what is stored of a model is not what was stored
    ├── Unavailable               503  a part is away or still loading; retry
    │   ├── EngineAway            503  a server of models does not answer: another may
    │   ├── EngineSlow            503  it took too long: another would, too
    │   └── JudgeUnavailable      503  the model that grades cannot be asked
    ├── JobFailure                 -   ends a job; stored in the job's `error` field
    ├── LeaseLost                  -   another worker (or nobody) owns the job now: stop, write nothing
    ├── StoreError                503  the object store refused or is away
    │   └── ObjectNotFound        503  an object that a row names is gone
    ├── AdapterInvalid            -   an adapter that must not reach vLLM; the message says what is wrong with it
    ├── ImportStopped             -   an import cannot go on; what it did is kept, the same command continues
    ├── ExportFailed              -   an export cannot be completed; nothing is left of it
    └── ConfigurationError         -   the process refuses to start; the message says what to do

In a request the service's single handler renders `body()`; in a job the worker stores `code`, `message`, `param`.
To add an error: subclass the nearest class, set its attributes, add it to the drawing and to docs/errors.md
(a test holds both).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class RootstockError(Exception):
    """Base of every error we raise on purpose.

    `message` is shown to the client. `param` is the dotted path of the offending field, if there is one.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after_seconds: int | None = None
    should_retry: bool | None = None
    """False: repeating the same request is in vain, and SDKs are told so. None: as the status says."""

    headers: Mapping[str, str] = MappingProxyType({})
    """More that the client is told beside the body."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if param is not None:
            self.param = param
        if code is not None:
            self.code = code

    def body(self) -> dict[str, Any]:
        """The wire form `{"error": {message, type, param, code}}`, all four keys always present."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments would be lost by Exception's own pickling; errors cross process boundaries in tests.
        return (_rebuild, (type(self), self.message, self.param, self.code))


def _rebuild(kind: type[RootstockError], message: str, param: str | None, code: str | None) -> RootstockError:
    error = kind.__new__(kind)
    RootstockError.__init__(error, message, param=param, code=code)
    return error


class InvalidRequest(RootstockError):
    """The request cannot be honoured as it was sent."""

    status = 400
    type = "invalid_request_error"


class MissingParameter(InvalidRequest):
    """A required field is absent."""

    code = "missing_required_parameter"


class UnknownParameter(InvalidRequest):
    """A field that this operation does not have, most often a typo."""

    code = "unknown_parameter"


class InvalidType(InvalidRequest):
    """A field of the wrong JSON type."""

    code = "invalid_type"


class InvalidValue(InvalidRequest):
    """A field of the right type whose value cannot be used."""

    code = "invalid_value"


class IdempotencyKeyReused(InvalidRequest):
    """An `Idempotency-Key` of the last 24 hours came back with a different request."""

    code = "idempotency_key_reused"
    param = "Idempotency-Key"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The Idempotency-Key '{key[:64]}' was used for a different request within the last 24 hours. "
            "Repeat that request unchanged, or use a new key."
        )


class ModelNotTunable(InvalidRequest):
    """The named model is not hosted here or cannot be tuned."""

    code = "model_not_available"
    param = "model"

    def __init__(self, model: str, reason: str = "is not available for fine-tuning or does not exist.") -> None:
        super().__init__(f"Model {model} {reason}")


class Unauthenticated(RootstockError):
    """The request carries no API key."""

    status = 401
    type = "invalid_request_error"

    def __init__(self) -> None:
        super().__init__(
            "You didn't provide an API key. You need to provide your API key in an Authorization header using "
            "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
        )


class InvalidApiKey(Unauthenticated):
    """The API key is unknown or revoked. Only a masked form of it is ever shown."""

    code = "invalid_api_key"

    def __init__(self, key: str) -> None:
        masked = f"{key[:5]}***{key[-2:]}" if len(key) > 12 else "***"
        RootstockError.__init__(self, f"Incorrect API key provided: {masked}.")


class HeaderMismatch(Unauthenticated):
    """The request names an organisation or project that the API key does not belong to."""

    def __init__(self, header: str, code: str) -> None:
        RootstockError.__init__(self, f"{header} header should match the one that the API key belongs to.", code=code)


class PermissionDenied(RootstockError):
    """The caller is known but may not do this."""

    status = 403
    type = "invalid_request_error"


class NotFound(RootstockError):
    """Absent, deleted, expired, or owned by another project: a caller cannot tell which."""

    status = 404
    type = "invalid_request_error"


class FileNotFound(NotFound):
    """No such file for this project."""

    param = "id"

    def __init__(self, file_id: str) -> None:
        super().__init__(f"No such File object: {file_id}")


class UploadNotFound(NotFound):
    """No such upload in parts for this project."""

    param = "upload_id"

    def __init__(self, upload_id: str) -> None:
        super().__init__(f"No such Upload object: {upload_id}")


class JobNotFound(NotFound):
    """No such fine-tuning job for this project."""

    param = "fine_tune_id"
    code = "fine_tune_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Could not find fine tune: {job_id}")


class BatchNotFound(NotFound):
    """No such batch for this project."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"No batch found with id '{batch_id}'.")


class ModelNotFound(NotFound):
    """No such model for this project (the form of `/v1/models`)."""

    param = "model"
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model '{model}' does not exist")


class AliasNotFound(NotFound):
    """No such alias for this project."""

    code = "alias_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"No such alias: {name[:128]}")


class UnknownRoute(NotFound):
    """No operation answers at this path."""

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Invalid URL ({method} {path})")


class MethodNotAllowed(RootstockError):
    """The path exists, the method does not."""

    status = 405
    type = "invalid_request_error"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Invalid method for URL ({method} {path})")


class Conflict(RootstockError):
    """The request contradicts what is there now. Look again, then decide: repeating it would be refused too."""

    status = 409
    type = "invalid_request_error"
    should_retry = False


class AliasConflict(Conflict):
    """The alias is not where the request believed it to be."""

    code = "alias_moved"


class ModelInUse(Conflict):
    """The model cannot be deleted while aliases send requests to it."""

    code = "model_in_use"
    param = "model"


class ModelHeld(Conflict):
    """The project's policy holds this tuned model until an owner lets it out."""

    code = "model_held"
    param = "model"


class PayloadTooLarge(RootstockError):
    """The body or file is over the limit."""

    status = 413
    type = "invalid_request_error"


class UnsupportedEncoding(RootstockError):
    """Content-Encoding on a request body is refused: a 1 MB body could unpack to 1 GB."""

    status = 415
    type = "invalid_request_error"


class RateLimited(RootstockError):
    """Too many requests, in a minute or at a time; `retry_after_seconds` or `should_retry` says when to come back."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_seconds: int = 1, should_retry: bool | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.should_retry = should_retry


class TokensLimited(RateLimited):
    """Too many tokens in this minute, or more in one request than a minute may have."""

    type = "tokens"


class ServerError(RootstockError):
    """An internal failure. The message is generic on purpose; the cause is in the log under the request id."""

    def __init__(self) -> None:
        super().__init__("The server had an error while processing your request. Sorry about that!")


class ModelDamaged(ServerError):
    """What is stored of a model is not what its manifest says. It will not get better: no retry."""

    code = "model_damaged"
    should_retry = False

    def __init__(self, model: str) -> None:
        RootstockError.__init__(self, f"The stored files of the model '{model}' are damaged; the log says how.")


class Unavailable(RootstockError):
    """A part the request needs is away or still loading; the same request may succeed later."""

    status = 503
    type = "server_error"
    code = "service_unavailable"
    retry_after_seconds = 2


class EngineAway(Unavailable):
    """A server of models cannot be reached or has failed. Another one is asked where there is one."""

    reached = True  # whether it may have read the request


class EngineSlow(Unavailable):
    """A server of models did not answer within the time that one answer may take."""


class JudgeUnavailable(Unavailable):
    """The model that a grader names cannot be asked. Ends in a failed grade, so a job goes on."""


class JobFailure(RootstockError):
    """Ends a fine-tuning job: `code`, `message` and `param` become the job's `error` (contract 3.6)."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message, code=code, param=param)


class LeaseLost(RootstockError):
    """This worker no longer owns the job (its fence is stale): stop at once and write nothing more."""


class StoreError(Unavailable):
    """The object store refused the operation or cannot be reached."""


class ObjectNotFound(StoreError):
    """An object that should exist is not in the store."""


class AdapterInvalid(RootstockError):
    """An adapter that is not what its manifest says or that vLLM must never load. It will not get better: no retry."""


class ImportStopped(RootstockError):
    """`rootstock import` cannot go on. What is done is kept: the same command continues from there."""


class ExportFailed(RootstockError):
    """A tuned model cannot be exported or merged. Nothing is left of the attempt."""


class ConfigurationError(RootstockError):
    """The process must not start; the message is one sentence that says what to change."""
