"""What a model is asked about one item of a run: messages and sampling as a chat request. Pure functions of values."""

from typing import Any

from rootstock.errors import InvalidValue
from rootstock.evals.sources import Item
from rootstock.grading import Sample
from rootstock.grading.outcome import GradingFailed
from rootstock.grading.templates import parse, value_at
from service.deps import fit
from service.wire_eval_sources import DEFAULT_MAX_TOKENS, DEFAULT_SEED, ITEM_INPUT
from service.wire_inference import ChatRequest

_KEPT = ("role", "name", "tool_calls", "tool_call_id", "function_call")


class Questions:
    """The questions of one run, by its data source as it is stored."""

    def __init__(self, data_source: dict[str, Any]) -> None:
        given = data_source.get("sampling_params") or {}
        self.model: str | None = data_source.get("model")
        self.sampling = {
            "temperature": given.get("temperature", 1.0),
            "max_completion_tokens": given.get("max_completion_tokens", DEFAULT_MAX_TOKENS),
            "top_p": given.get("top_p", 1.0),
            "seed": given.get("seed", DEFAULT_SEED),
        }
        """As every item's sample shows them."""

        self._more = _more(given)
        asked = data_source.get("input_messages") or {"type": "item_reference", "item_reference": ITEM_INPUT}
        self._reference = parse(f"{{{{ {asked['item_reference']} }}}}") if asked["type"] == "item_reference" else None
        self._messages = [
            (message["role"], [parse(part["text"]) for part in _parts(message["content"])])
            for message in asked.get("template", [])
        ]

    def about(self, item: Item) -> ChatRequest:
        """The question. Raises `InvalidRequest` or one of its classes where the item makes none."""
        try:
            messages = self._from_item(item) if self._reference else self._rendered(item)
        except GradingFailed as failure:
            raise InvalidValue(failure.message, param="datasource_item") from None
        return fit(ChatRequest, {"model": self.model, "messages": messages} | self.sampling | self._more)

    def _rendered(self, item: Item) -> list[dict[str, Any]]:
        nothing = Sample.nothing()
        return [
            {"role": _role(role), "content": "\n".join(part.render(item.item, nothing) for part in parts)}
            for role, parts in self._messages
        ]

    def _from_item(self, item: Item) -> list[dict[str, Any]]:
        assert self._reference is not None
        found = value_at(self._reference, item.item)
        if isinstance(found, str):
            return [{"role": "user", "content": found}]
        if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
            raise InvalidValue("What 'item_reference' names is no list of messages.", param="datasource_item")
        return [_chat_message(message) for message in found]


def text_of(content: Any) -> str:
    """What a message says, its parts together."""
    if isinstance(content, str):
        return content
    texts = [part if isinstance(part, str) else part.get("text") for part in content or [] if part]
    return "\n".join(text for text in texts if isinstance(text, str))


def _chat_message(message: dict[str, Any]) -> dict[str, Any]:
    said = {key: message[key] for key in _KEPT if message.get(key) is not None}
    content = message.get("content")
    if isinstance(content, dict | list):
        if not all(_is_text(part) for part in _parts(content)):
            raise InvalidValue("A message of the item has parts that are no texts.", param="datasource_item")
        content = text_of(_parts(content))
    return said | {"role": _role(str(message.get("role"))), "content": content}


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _role(role: str) -> str:
    # Chat templates of open models know no developer.
    return "system" if role == "developer" else role


def _more(given: dict[str, Any]) -> dict[str, Any]:
    """Format and tools, from either of the two APIs' words, in those of chat completions."""
    more: dict[str, Any] = {}
    if form := given.get("response_format") or (given.get("text") or {}).get("format"):
        if form["type"] == "json_schema" and "json_schema" not in form:
            form = {"type": "json_schema", "json_schema": {key: form[key] for key in form if key != "type"}}
        more["response_format"] = form
    if tools := given.get("tools"):
        more["tools"] = [
            tool if "function" in tool else {"type": "function", "function": {k: tool[k] for k in tool if k != "type"}}
            for tool in tools
        ]
    return more
