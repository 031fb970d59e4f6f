"""A streamed chat answer put together again from its chunks. Pure functions of JSON values; knows no HTTP."""

from typing import Any


class Assembly:
    """Example: `for chunk in chunks: assembly.add(chunk, usage)`, then `assembly.whole()`."""

    def __init__(self) -> None:
        self._envelope: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] | None = None

    def add(self, chunk: dict[str, Any], usage: dict[str, Any] | None) -> None:
        """One `chat.completion.chunk` in the order of arrival; `usage` as far as it is known by then."""
        self._envelope = self._envelope or {key: value for key, value in chunk.items() if key != "choices"}
        self._usage = usage or self._usage
        for piece in chunk["choices"]:
            choice = self._choices.setdefault(piece["index"], _new(piece["index"]))
            choice["finish_reason"] = piece["finish_reason"] or choice["finish_reason"]
            for name, tokens in (piece["logprobs"] or {}).items():
                if isinstance(tokens, list):
                    choice["logprobs"] = choice["logprobs"] or {"content": None, "refusal": None}
                    choice["logprobs"][name] = (choice["logprobs"].get(name) or []) + tokens
            _extend(choice["message"], piece["delta"])

    def whole(self) -> dict[str, Any]:
        """The `chat.completion` that the chunks add up to."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        return self._envelope | {"object": "chat.completion", "choices": choices, "usage": self._usage}


def _new(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None}
    return {"index": index, "logprobs": None, "finish_reason": "stop", "message": message}


def _extend(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("content", "refusal"):
        if delta.get(name) is not None:
            message[name] = (message[name] or "") + delta[name]
    for piece in delta.get("tool_calls") or []:
        calls = message.setdefault("tool_calls", [])
        while len(calls) <= piece["index"]:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[piece["index"]]
        call["id"] = piece.get("id") or call["id"]
        function = piece.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""
