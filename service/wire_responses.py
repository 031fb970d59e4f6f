"""The body of `POST /v1/responses` as far as it can be honoured without keeping anything, and as a chat request.

What would need memory, tools of OpenAI's or other media is refused by name. Knows no HTTP.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

from service.wire import Asking, RequestModel, tag
from service.wire_fields import Unsupported
from service.wire_inference import MAX_MESSAGES, MAX_TOKENS, MAX_TOOLS, Ignored, Name
from service.wire_values import Metadata, integral

MAX_PARTS = 1024


class Part(RequestModel):
    """A piece of a message: text only."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Ignored = None
    logprobs: Ignored = None


def _form(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<list>"


Text = Annotated[
    Annotated[str, tag("text")] | Annotated[list[Part], Field(max_length=MAX_PARTS), tag("list")], Discriminator(_form)
]


class Item(RequestModel):
    """A message, a call that the model made, or what came of it. What the SDK adds to items of an answer is dropped."""

    type: Literal["message", "function_call", "function_call_output"] | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Text | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Text | None = None
    id: Ignored = None
    status: Ignored = None
    phase: Ignored = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"function_call": ("call_id", "name", "arguments"), "function_call_output": ("call_id", "output")}
        for name in needed.get(self.type or "message", ("role", "content")):
            if getattr(self, name) is None:
                raise PydanticCustomError("invalid_value", f"an item of this type needs '{name}'")
        return self

    @property
    def text(self) -> str:
        """What it says."""
        said = self.output if self.type == "function_call_output" else self.content
        return said if isinstance(said, str) else "\n".join(part.text for part in said or [])


class ResponseTool(RequestModel):
    """A function that the model may call. Its type comes first: of a tool of OpenAI's, that is what is wrong."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenTool(RequestModel):
    """The function that the model has to call."""

    type: Literal["function"]
    name: Name


class TextFormat(RequestModel):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _schema_when_needed(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None and self.name is not None):
            raise PydanticCustomError("invalid_value", "'name' and 'schema' go with the type 'json_schema'")
        return self


class TextWish(RequestModel):
    """What the text of the answer is to look like."""

    format: TextFormat | None = None
    verbosity: Ignored = None


class ResponseStreamOptions(RequestModel):
    """How to stream."""

    include_obfuscation: Ignored = None


class ResponsesRequest(Asking):
    """The body of `POST /v1/responses`. Nothing is stored: `store` is accepted, the answer says `false`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "gpt-4o-mini", "input": "Say hello.", "max_output_tokens": 16}]}
    )

    input: Annotated[
        Annotated[str, tag("text")] | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES), tag("list")],
        Discriminator(_form),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), BeforeValidator(integral)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], tag("word")] | Annotated[ChosenTool, tag("function")],
            Discriminator(lambda value: "<word>" if isinstance(value, str) else "<function>"),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextWish | None = None
    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: str | None = None
    truncation: Literal["disabled"] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    background: Annotated[bool, Field(json_schema_extra={"const": False})] | None = None
    include: Annotated[list[str], Field(max_length=0)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    service_tier: Ignored = None
    conversation: Unsupported = None
    max_tool_calls: Unsupported = None
    previous_response_id: Unsupported = None
    prompt: Unsupported = None
    reasoning: Unsupported = None

    @model_validator(mode="after")
    def _now(self) -> Self:
        if self.background:
            raise PydanticCustomError("unsupported_value", "'background' must be false: nothing is stored here")
        return self

    def as_chat(self) -> dict[str, Any]:
        """The same question as the body of a chat completion."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self._messages(),
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "parallel_tool_calls": self.parallel_tool_calls,
            "user": self.user,
            "safety_identifier": self.safety_identifier,
            "stream": self.stream,
        }
        if self.tools:
            functions = [tool.model_dump(exclude={"type"}, exclude_none=True) for tool in self.tools]
            body["tools"] = [{"type": "function", "function": function} for function in functions]
            choice = self.tool_choice
            if isinstance(choice, ChosenTool):
                body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
            else:
                body["tool_choice"] = choice
        if self.text is not None and self.text.format is not None:
            body["response_format"] = _response_format(self.text.format)
        return {name: value for name, value in body.items() if value is not None}

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for item in self.input:
            if item.type == "function_call":
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                if messages and messages[-1]["role"] == "assistant":  # one turn of the model may be several items
                    messages[-1].setdefault("tool_calls", []).append(call)
                else:
                    messages.append({"role": "assistant", "tool_calls": [call]})
            elif item.type == "function_call_output":
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": item.text})
            else:
                messages.append({"role": item.role, "content": item.text})
        return messages


def _response_format(wish: TextFormat) -> dict[str, Any]:
    if wish.type != "json_schema":
        return {"type": wish.type}
    schema = {"name": wish.name, "description": wish.description, "schema": wish.json_schema, "strict": wish.strict}
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}
