"""OpenAI-shaped completions, as the document shows them; `service.shapes` builds them from what vLLM answers.

Knows no HTTP. A key with a default is left out where there is nothing to say.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Finish = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class Answer(BaseModel):
    """A JSON object with exactly these keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptTokensDetails(Answer):
    """How many tokens of the prompt were computed before."""

    cached_tokens: int


class Usage(Answer):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails(cached_tokens=0)


class TopLogprob(Answer):
    """A token that could have been chosen."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token that was chosen, and those that could have been."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Log-probabilities of a message."""

    content: list[TokenLogprob] | None
    refusal: None = None


class CalledFunction(Answer):
    """A function with its arguments as JSON text."""

    name: str
    arguments: str


class AnsweredCall(Answer):
    """A tool call that the model made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnsweredMessage(Answer):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[AnsweredCall] = []
    function_call: CalledFunction | None = None


class ChatChoice(Answer):
    """One answer."""

    index: int
    logprobs: ChatLogprobs | None
    finish_reason: Finish
    message: AnsweredMessage


class ChatCompletion(Answer):
    """A whole chat answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: Usage | None


class TextLogprobs(Answer):
    """Log-probabilities of a text, token by token."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class TextChoice(Answer):
    """One continuation."""

    index: int
    logprobs: TextLogprobs | None
    finish_reason: Finish | None
    text: str


class TextCompletion(Answer):
    """A whole plain completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[TextChoice]
    usage: Usage | None = None


class ModelResponse(Answer):
    """An answer of `/v1/responses`, with the fields of the official SDK's `Response`."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "failed", "in_progress"]
    background: Literal[False]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: dict[str, Any] | None
    user: str | None
