"""Where the items of an eval's run come from, and how a model is asked about them. Knows no HTTP and no rows.

`completions` and `responses` mean the same here: a model is asked through chat completions. What would need answers
that this deployment does not keep is refused by name.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from rootstock.evals.sources import MAX_ITEMS
from service.wire import RequestModel, tag
from service.wire_graders import GraderMessage, Name, tag_of
from service.wire_inference import INT64, MAX_TOKENS, MAX_TOOLS, ResponseFormat, Tool
from service.wire_responses import ResponseTool, TextWish
from service.wire_values import Metadata, integral

DEFAULT_MAX_TOKENS, DEFAULT_SEED = 2048, 42
"""What the API says when the run does not: the longest answer in tokens, and the seed."""

ITEM_INPUT = "item.input"
"""Where items of stored completions have their messages."""

Reference = Annotated[str, StringConstraints(pattern=r"^\s*item[.\[].*$", max_length=256)]


class ContentLine(RequestModel):
    """An item, and its answer where it has one."""

    item: dict[str, Any]
    sample: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_absent(cls, data: Any) -> Any:
        return data


class FileContent(RequestModel):
    """Items that come with the request."""

    type: Literal["file_content"]
    content: Annotated[list[ContentLine], Field(min_length=1, max_length=MAX_ITEMS)]


class FileId(RequestModel):
    """Items of a file with the purpose `evals`: lines of `{"item": {...}, "sample": {...}}`."""

    type: Literal["file_id"]
    id: str


class StoredCompletions(RequestModel):
    """Completions that were stored with `store`, the oldest first."""

    type: Literal["stored_completions"]
    created_after: Annotated[int, BeforeValidator(integral), Field(ge=-INT64, lt=INT64)] | None = None
    created_before: Annotated[int, BeforeValidator(integral), Field(ge=-INT64, lt=INT64)] | None = None
    limit: Annotated[int, BeforeValidator(integral), Field(ge=1, le=MAX_ITEMS)] | None = None
    metadata: Metadata | None = None
    model: str | None = None


def _kept(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "responses":
        raise PydanticCustomError(
            "unsupported_value",
            "this deployment keeps no responses. Use 'file_content', 'file_id', or 'stored_completions' in a data "
            "source of the type 'completions'",
        )
    return value


Lines = Annotated[
    Annotated[FileContent, tag("file_content")] | Annotated[FileId, tag("file_id")], Discriminator(tag_of)
]
Items = Annotated[
    Annotated[FileContent, tag("file_content")]
    | Annotated[FileId, tag("file_id")]
    | Annotated[StoredCompletions, tag("stored_completions")],
    Discriminator(tag_of),
]


class Template(RequestModel):
    """Messages whose texts may hold `{{ item.x }}`."""

    type: Literal["template"]
    template: Annotated[list[GraderMessage], Field(min_length=1, max_length=256)]


class ItemReference(RequestModel):
    """Messages that stand in the item, such as `item.input`."""

    type: Literal["item_reference"]
    item_reference: Reference


InputMessages = Annotated[
    Annotated[Template, tag("template")] | Annotated[ItemReference, tag("item_reference")], Discriminator(tag_of)
]


class Sampled(RequestModel):
    """How a model is asked. `reasoning_effort` is accepted without effect, as in chat completions."""

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-INT64, le=INT64 - 1), BeforeValidator(integral)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), BeforeValidator(integral)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, data: Any) -> Any:
        # The schema and its examples write it differently.
        if isinstance(data, dict) and "max_completions_tokens" in data and "max_completion_tokens" not in data:
            data = {**data, "max_completion_tokens": data["max_completions_tokens"]}
            del data["max_completions_tokens"]
        return data


class ChatSampling(Sampled):
    """How a model is asked, in the words of chat completions."""

    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None


class ResponsesSampling(Sampled):
    """How a model is asked, in the words of responses."""

    text: TextWish | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None


class Jsonl(RequestModel):
    """Items that are graded as they are, with the answers that came with them."""

    type: Literal["jsonl"]
    source: Annotated[Lines, BeforeValidator(_kept)]
    model: None = None


class _Asking(RequestModel):
    model: Name | None = None
    input_messages: InputMessages | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_form(cls, data: Any) -> Any:
        # Guides of the first months send the template bare.
        if isinstance(data, dict) and isinstance(data.get("input"), list) and "input_messages" not in data:
            data = {**data, "input_messages": {"type": "template", "template": data["input"]}}
            del data["input"]
        return data

    @model_validator(mode="after")
    def _asks_somebody(self) -> Self:
        if self.input_messages is not None and self.model is None:
            raise PydanticCustomError("invalid_value", "'input_messages' need the 'model' that they are put to")
        return self


class Completions(_Asking):
    """A model is asked about each item; without `input_messages` and `model`, the answers given are graded."""

    type: Literal["completions"]
    source: Annotated[Items, BeforeValidator(_kept)]
    sampling_params: ChatSampling | None = None


class Responses(_Asking):
    """As `completions`, in the words of the responses API."""

    type: Literal["responses"]
    source: Annotated[Lines, BeforeValidator(_kept)]
    sampling_params: ResponsesSampling | None = None


DataSource = Annotated[
    Annotated[Jsonl, tag("jsonl")]
    | Annotated[Completions, tag("completions")]
    | Annotated[Responses, tag("responses")],
    Discriminator(tag_of),
]
