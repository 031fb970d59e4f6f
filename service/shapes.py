"""vLLM's answers in OpenAI's shape: allow-listed keys only, under the name that the client asked for.

Pure functions of JSON values. Knows no HTTP.
"""

import functools
import hashlib
from typing import Any

_FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")
_MESSAGE_KEYS = ("role", "content", "refusal", "tool_calls", "function_call")
_FINGERPRINT = "system_fingerprint"
_USAGE_KEYS = ("prompt_tokens", "completion_tokens", "total_tokens")


def chat_completion(answer: dict[str, Any], model: str) -> dict[str, Any]:
    """A whole chat answer."""
    return _envelope(answer, model, "chat.completion") | {
        "choices": [
            _choice(choice) | {"message": {"content": None, "refusal": None} | _message(choice["message"])}
            for choice in answer["choices"]
        ],
        "usage": usage(answer.get("usage")),
    }


def chat_chunk(answer: dict[str, Any], model: str) -> dict[str, Any]:
    """One piece of a streamed chat answer, without usage."""
    chunk = _envelope(answer, model, "chat.completion.chunk")
    chunk["choices"] = choices = []
    for choice in answer["choices"]:
        told = _choice(choice)
        told["delta"] = _message(choice["delta"])
        choices.append(told)
    return chunk


def completion(answer: dict[str, Any], model: str) -> dict[str, Any]:
    """A whole plain answer."""
    shaped = completion_chunk(answer, model)
    return shaped | {"usage": usage(answer["usage"])} if answer.get("usage") else shaped


def completion_chunk(answer: dict[str, Any], model: str) -> dict[str, Any]:
    """One piece of a streamed plain answer, without usage."""
    return _envelope(answer, model, "text_completion") | {
        "choices": [_choice(choice) | {"text": choice["text"]} for choice in answer["choices"]]
    }


def usage(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Token counts; the details only where the engine tells them."""
    if not found:
        return None
    counts: dict[str, Any] = {key: found.get(key) or 0 for key in _USAGE_KEYS}
    details = found.get("prompt_tokens_details") or {}
    if isinstance(details.get("cached_tokens"), int):
        counts["prompt_tokens_details"] = {"cached_tokens": details["cached_tokens"]}
    return counts


class Events:
    """Cuts a byte stream into the payloads of server-sent events, wherever the network cut it.

    Example: `for payload in events.feed(chunk): ...`.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that are complete now. vLLM writes each on one `data:` line."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


def _envelope(answer: dict[str, Any], model: str, kind: str) -> dict[str, Any]:
    return {
        "id": answer["id"],
        "object": kind,
        "created": answer["created"],
        "model": model,
        "system_fingerprint": _fingerprint(found) if isinstance(found := answer.get(_FINGERPRINT), str) else None,
    }


@functools.lru_cache(maxsize=64)
def _fingerprint(found: str) -> str:
    # Equal when the engine's is equal, without telling its version.
    return f"fp_{hashlib.sha256(found.encode()).hexdigest()[:10]}"


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    reason = choice.get("finish_reason")
    return {
        "index": choice["index"],
        "logprobs": choice.get("logprobs"),
        # Engine-only reasons (an abort, a repetition stop) are outside what strict clients accept.
        "finish_reason": reason if reason is None or reason in _FINISH_REASONS else "stop",
    }


def _message(message: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in message.items()
        if key in _MESSAGE_KEYS and (value is not None or key in ("content", "refusal"))
    }
