"""The benchmark's notes of vLLM's first tokens: of the first text, not of the role before it, and once."""

import asyncio
import json
import time
from typing import Any

from benchmarks.serving.stamps import PATH, Stamps

ROLE = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":"Hi"}}]}\n\n'


def test_the_first_text_is_noted_and_told_once() -> None:
    sent: list[tuple[float, bytes]] = []
    clock = time.perf_counter

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for piece in (ROLE, TEXT, TEXT):
            await asyncio.sleep(0.01)
            await send({"type": "http.response.body", "body": piece})

    async def send(message: Any) -> None:
        sent.append((clock(), message.get("body", b"")))

    async def main() -> tuple[float, float, float, dict[str, Any], dict[str, Any]]:
        stamps, began = Stamps(app), clock()
        await stamps({"path": "/v1/chat/completions"}, None, send)
        role, text, _ = (at for at, _ in sent)
        told = []
        for _ in range(2):
            await stamps({"path": PATH}, None, send)
            told.append(json.loads(sent[-1][1]))
        return began, role, text, *told

    began, role, text, first, second = asyncio.run(main())
    reached, noted = first["chatcmpl-1"]
    assert began <= reached < role < noted <= text and second == {}
