"""A chat answer as a response of `/v1/responses`: whole, or event by event from its chunks.

One state machine makes both, so that a stream ends in the very response that a whole answer would have been. Pure
functions of JSON values; knows no HTTP.
"""

from typing import Any

from rootstock import ids
from service.wire_responses import ResponsesRequest

Event = dict[str, Any]


class Responding:
    """One answer. Example: `begin()`, then `chunk(...)` for each, then `end(usage)`; the events of each in order."""

    def __init__(self, wish: ResponsesRequest, model: str, created: float) -> None:
        self._wish = wish
        self._id = ids.new("resp_")
        self._model = model
        self._created = int(created)
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._text: int | None = None  # place of the message among the items
        self._calls: dict[int, int] = {}  # number of a call -> its item's place
        self._reason: str | None = None

    def begin(self) -> list[Event]:
        """The model is asked."""
        return [
            self._event("response.created", response=self._response("in_progress")),
            self._event("response.in_progress", response=self._response("in_progress")),
        ]

    def chunk(self, chunk: dict[str, Any]) -> list[Event]:
        """A piece of the answer, as chat completions stream it."""
        events: list[Event] = []
        for choice in chunk["choices"]:
            delta = choice["delta"]
            self._reason = choice.get("finish_reason") or self._reason
            if delta.get("content"):
                events += self._say(delta["content"])
            for call in delta.get("tool_calls") or []:
                events += self._call(call)
        return events

    def end(self, usage: dict[str, Any] | None) -> list[Event]:
        """The answer is complete."""
        events: list[Event] = []
        if self._text is None and not self._calls:
            events += self._open_message()
        status = "incomplete" if self._reason in ("length", "content_filter") else "completed"
        for place in range(len(self._items)):
            events += self._close(place, status)
        return [*events, self._event(f"response.{status}", response=self._response(status, usage))]

    def failed(self, code: str, message: str) -> list[Event]:
        """The answer broke off."""
        error = {"code": "server_error" if code != "rate_limit_exceeded" else code, "message": message}
        return [self._event("response.failed", response=self._response("failed") | {"error": error})]

    def _say(self, text: str) -> list[Event]:
        events = self._open_message() if self._text is None else []
        assert self._text is not None
        item = self._items[self._text]
        item["content"][0]["text"] += text
        where = {"item_id": item["id"], "output_index": self._text, "content_index": 0}
        return [*events, self._event("response.output_text.delta", **where, delta=text, logprobs=[])]

    def _open_message(self) -> list[Event]:
        self._text = len(self._items)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item = {"id": ids.new("msg_"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        events = [self._event("response.output_item.added", output_index=self._text, item=dict(item))]
        self._items.append(item | {"content": [dict(part)]})
        where = {"item_id": item["id"], "output_index": self._text, "content_index": 0}
        return [*events, self._event("response.content_part.added", **where, part=part)]

    def _call(self, piece: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        function = piece.get("function") or {}
        if piece["index"] not in self._calls:
            place = self._calls[piece["index"]] = len(self._items)
            item = {"id": ids.new("fc_"), "type": "function_call", "status": "in_progress"}
            item |= {
                "call_id": piece.get("id") or ids.new("call_"),
                "name": function.get("name") or "",
                "arguments": "",
            }
            self._items.append(item)
            events.append(self._event("response.output_item.added", output_index=place, item=dict(item)))
        place = self._calls[piece["index"]]
        item = self._items[place]
        if more := function.get("arguments"):
            item["arguments"] += more
            where = {"item_id": item["id"], "output_index": place}
            events.append(self._event("response.function_call_arguments.delta", **where, delta=more))
        return events

    def _close(self, place: int, status: str) -> list[Event]:
        item = self._items[place]
        item["status"] = status
        where: dict[str, Any] = {"item_id": item["id"], "output_index": place}
        if item["type"] == "message":
            part = item["content"][0]
            inside = where | {"content_index": 0}
            events = [
                self._event("response.output_text.done", **inside, text=part["text"], logprobs=[]),
                self._event("response.content_part.done", **inside, part=dict(part)),
            ]
        else:
            told = {"name": item["name"], "arguments": item["arguments"]}
            events = [self._event("response.function_call_arguments.done", **where, **told)]
        return [*events, self._event("response.output_item.done", output_index=place, item=_copy(item))]

    def _event(self, kind: str, **facts: Any) -> Event:
        event = {"type": kind, "sequence_number": self._number, **facts}
        self._number += 1
        return event

    def _response(self, status: str, usage: dict[str, Any] | None = None) -> dict[str, Any]:
        wish = self._wish
        why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(self._reason or "")
        shown = wish.model_dump(include={"tools", "tool_choice"}, exclude_none=True)
        form = wish.text.format.model_dump(exclude_none=True, by_alias=True) if wish.text and wish.text.format else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": why} if status == "incomplete" else None,
            "instructions": wish.instructions,
            "max_output_tokens": wish.max_output_tokens,
            "max_tool_calls": None,
            "metadata": wish.metadata or {},
            "model": self._model,
            "output": [_copy(item) for item in self._items] if status != "in_progress" else [],
            "parallel_tool_calls": wish.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": None,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": wish.safety_identifier,
            "service_tier": "default",
            "store": False,
            "temperature": 1.0 if wish.temperature is None else wish.temperature,
            "text": {"format": form or {"type": "text"}},
            "tool_choice": shown.get("tool_choice", "auto"),
            "tools": [dict.fromkeys(("parameters", "strict")) | tool for tool in shown.get("tools", [])],
            "top_logprobs": 0,
            "top_p": 1.0 if wish.top_p is None else wish.top_p,
            "truncation": "disabled",
            "usage": _usage(usage),
            "user": wish.user,
        }


def whole(answer: dict[str, Any], wish: ResponsesRequest, created: float) -> dict[str, Any]:
    """A whole chat answer as a response."""
    responding = Responding(wish, answer["model"], created)
    (choice, *_) = answer["choices"]
    message = choice["message"]
    calls = [dict(call, index=number) for number, call in enumerate(message.get("tool_calls") or [])]
    delta = {"content": message.get("content"), "tool_calls": calls}
    responding.chunk({"choices": [{"delta": delta, "finish_reason": choice["finish_reason"]}]})
    response: dict[str, Any] = responding.end(answer.get("usage"))[-1]["response"]
    return response


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"content": [dict(part) for part in item["content"]]} if "content" in item else dict(item)


def _usage(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if not found:
        return None
    cached = (found.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": found.get("prompt_tokens") or 0,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": found.get("completion_tokens") or 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": found.get("total_tokens") or 0,
    }
