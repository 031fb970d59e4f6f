"""Chunks add up to the answer that would have come whole."""

from typing import Any

from openai.types.chat import ChatCompletion
from pydantic import TypeAdapter

from service.assembly import Assembly

ENVELOPE = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 7,
    "model": "m",
    "system_fingerprint": None,
}


def chunk(*choices: dict[str, Any]) -> dict[str, Any]:
    return ENVELOPE | {"choices": [{"logprobs": None, "finish_reason": None} | choice for choice in choices]}


def piece(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta} | more


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    named = {"id": more["id"], "type": "function", "function": {"name": more["name"], "arguments": arguments}}
    return {"index": index} | (named if more["id"] else {"function": {"arguments": arguments}})


def whole(*chunks: dict[str, Any], usage: dict[str, Any] | None = None) -> Any:
    assembly = Assembly()
    for one in chunks:
        assembly.add(one, None)
    assembly.add(chunk(), usage)
    answer = assembly.whole()
    TypeAdapter(ChatCompletion).validate_python(answer)
    return answer


def test_words_become_a_text():
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    answer = whole(
        chunk(piece(0, {"role": "assistant", "content": ""})),
        chunk(piece(0, {"content": "Hel"})),
        chunk(piece(0, {"content": "lo"}, finish_reason="length")),
        usage=usage,
    )
    assert answer == ENVELOPE | {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "finish_reason": "length",
                "logprobs": None,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
            }
        ],
        "usage": usage,
    }


def test_choices_that_arrive_mixed_are_told_apart():
    answer = whole(
        chunk(piece(1, {"content": "b"})),
        chunk(piece(0, {"content": "a"}), piece(1, {"content": "B"}, finish_reason="stop")),
        chunk(piece(0, {"content": "A"}, finish_reason="stop")),
    )
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["aA", "bB"]


def test_tool_calls_come_in_pieces():
    first = call(0, "", id="call_1", name="look")
    answer = whole(
        chunk(piece(0, {"role": "assistant", "content": None, "tool_calls": [first]})),
        chunk(piece(0, {"tool_calls": [call(0, '{"x":', id="", name="")]})),
        chunk(piece(0, {"tool_calls": [call(0, "1}", id="", name=""), call(1, "{}", id="call_2", name="see")]})),
        chunk(piece(0, {}, finish_reason="tool_calls")),
    )
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"x":1}'}},
        {"id": "call_2", "type": "function", "function": {"name": "see", "arguments": "{}"}},
    ]


def test_log_probabilities_are_joined():
    def token(text: str) -> dict[str, Any]:
        return {"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}

    answer = whole(
        chunk(piece(0, {"content": "a"}, logprobs={"content": [token("a")]})),
        chunk(piece(0, {"content": "b"}, logprobs={"content": [token("b")]}, finish_reason="stop")),
    )
    assert answer["choices"][0]["logprobs"] == {"content": [token("a"), token("b")], "refusal": None}
