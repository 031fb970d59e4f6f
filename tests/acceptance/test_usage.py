"""Usage through the whole product: the real engine reports its tokens chunk by chunk, and what is cut off counts."""

from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

MODEL = "gpt-4.1-nano"  # a name that no other test of this level asks for
PROMPTS = ["Count from one to ninety.", "Name every letter."]


def row(client: OpenAI) -> dict[str, Any]:
    query = {"group_by": "none", "model": MODEL}
    answer = client.get("/rootstock/usage", cast_to=httpx.Response, options={"params": query}).json()
    return {name: answer["data"][0][name] for name in ("requests", "prompt_tokens", "completion_tokens")}


def test_streams_count_whole_or_cut_off(client: OpenAI) -> None:
    assert row(client) == {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
    asked: dict[str, Any] = {
        "model": MODEL,
        "prompt": PROMPTS,
        "n": 2,
        "max_tokens": 8,
        "temperature": 1,
        "stream": True,
    }
    *pieces, last = client.completions.create(**asked, stream_options={"include_usage": True})
    assert last.usage is not None and all(piece.usage is None for piece in pieces)
    assert {choice.index for piece in pieces for choice in piece.choices} == {0, 1, 2, 3}
    whole = {"prompt_tokens": last.usage.prompt_tokens, "completion_tokens": last.usage.completion_tokens}
    eventually(lambda: row(client) == {"requests": 1} | whole)

    stream = client.completions.create(**asked | {"max_tokens": 200})
    seen: set[int] = set()
    while len(seen) < 4:
        seen |= {choice.index for choice in next(stream).choices}
    stream.close()
    eventually(lambda: row(client)["requests"] == 2)
    cut = row(client)
    # Both prompts are in it, each once, and at least a token of each of the four answers, but not all of them.
    assert cut["prompt_tokens"] == 2 * whole["prompt_tokens"]
    assert 4 <= cut["completion_tokens"] - whole["completion_tokens"] < 800
