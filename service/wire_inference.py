"""What may be asked of a model: an allow-list with types and ranges, and what of it reaches vLLM.

Everything that is not named here is refused, so the dangerous extras of the engine (chat templates, grammars, prompt
embeddings) stay out by construction. Knows no HTTP.
"""

import functools
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.wire import Asking, RequestModel
from service.wire_fields import Biases, Content, Modalities, Prompt, Stops, ToolChoice, Unsupported
from service.wire_values import Metadata, integral

MAX_TOKENS = 1_000_000
LEAST_TOP_P = 1e-6
"""What vLLM is sent for 0, which it refuses: the likeliest token alone. DataDreamer asks for 0 by default."""
MAX_MESSAGES = 2048
MAX_TOOLS = 128
INT64 = 2**63


Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
_DROPPED = "dropped"
Ignored = Annotated[Any, _DROPPED]
"""Accepted because clients send it, without effect on a model served here."""


class FunctionCall(RequestModel):
    """A call that the model made earlier in the conversation."""

    name: str
    arguments: str


class ToolCall(RequestModel):
    """A tool call of an assistant message."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(RequestModel):
    """One message of the conversation. What the SDK adds when an answer is sent back is accepted and dropped."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    refusal: Ignored = None
    annotations: Ignored = None
    audio: Ignored = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        calls = self.tool_calls is not None or self.function_call is not None or self.refusal is not None
        if self.content is None and not (self.role == "assistant" and calls):
            raise PydanticCustomError("invalid_value", "a message needs 'content'")
        return self


class Function(RequestModel):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class JsonSchema(RequestModel):
    """The schema that an answer must follow."""

    name: Name
    description: str | None = None
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(RequestModel):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_when_needed(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "invalid_value", "'json_schema' goes with the type 'json_schema', and only with it"
            )
        return self


class StreamOptions(RequestModel):
    """How to stream."""

    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class Sampling(Asking):
    """What chat and plain completions share."""

    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Biases | None = None
    n: Annotated[int, Field(ge=1, le=128), BeforeValidator(integral)] | None = None
    seed: Annotated[int, Field(ge=-INT64, le=INT64 - 1), BeforeValidator(integral)] | None = None
    stop: Stops = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    user: Ignored = None

    @field_validator("stream_options", mode="after")
    @classmethod
    def _only_when_streaming(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if not info.data.get("stream"):
            raise PydanticCustomError("invalid_value", "it is only allowed when 'stream' is true")
        return value

    @property
    def asker(self) -> str | None:
        """Whom the client asks for, as far as it says so."""
        named = getattr(self, "safety_identifier", None) or self.user
        return named if isinstance(named, str) else None

    @property
    def include_usage(self) -> bool:
        """Whether the client wants the usage chunk at the end of a stream."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def upstream(self, model: str) -> dict[str, Any]:
        """The body for vLLM: allow-listed fields only, for `model`.

        Streams always report usage, in every chunk: we count tokens, those of a stream that is cut off too.
        """
        body = self.model_dump(exclude_none=True, by_alias=True, exclude=set(self.without_effect()))
        body["model"] = model
        if self.stream:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        if self.top_p == 0:
            body["top_p"] = LEAST_TOP_P
        return body

    @classmethod
    @functools.cache
    def without_effect(cls) -> frozenset[str]:
        """The fields that are accepted and do not change the answer."""
        return frozenset(name for name, field in cls.model_fields.items() if _DROPPED in field.metadata)


class ChatRequest(Sampling):
    """The body of `POST /v1/chat/completions`.

    `reasoning_effort` and `verbosity` are ignored: they would change the prompt away from the one tuned on.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}]
        }
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), BeforeValidator(integral)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), BeforeValidator(integral)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    modalities: Modalities = None
    metadata: Annotated[Metadata | None, _DROPPED] = None
    prediction: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning_effort: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Annotated[bool | None, _DROPPED] = None
    verbosity: Ignored = None
    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    moderation: Unsupported = None
    web_search_options: Unsupported = None

    def upstream(self, model: str) -> dict[str, Any]:
        """As `Sampling.upstream`; one token limit, and messages without what vLLM should not see."""
        body = super().upstream(model)
        body.pop("modalities", None)
        if "max_completion_tokens" in body:
            body.pop("max_tokens", None)
        for message in body["messages"]:
            for name in ("refusal", "annotations", "audio"):
                message.pop(name, None)
        if not body.get("tools"):
            body.pop("tool_choice", None)
            body.pop("parallel_tool_calls", None)
        return body


class CompletionRequest(Sampling):
    """The body of `POST /v1/completions`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "gpt-4o-mini", "prompt": "Once upon", "max_tokens": 16}]}
    )

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS), BeforeValidator(integral)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: Unsupported = None

    @field_validator("logprobs", mode="after")
    @classmethod
    def _not_of_the_prompt(cls, value: int | None, info: ValidationInfo) -> int | None:
        # One such request kills the engine of vLLM 0.32 on a CPU, for every tenant: its LoRA logits kernel fails.
        if info.data.get("echo"):
            raise PydanticCustomError("unsupported_value", "this deployment cannot return it together with 'echo'")
        return value

    @field_validator("best_of", mode="after")
    @classmethod
    def _as_many_as_asked_for(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value != (info.data.get("n") or 1):
            raise PydanticCustomError("unsupported_value", "it must equal 'n' in this deployment")
        return value

    def upstream(self, model: str) -> dict[str, Any]:
        """As `Sampling.upstream`."""
        body = super().upstream(model)
        body.pop("best_of", None)
        return body
