"""What vLLM itself knows of its first tokens: when a question reached it and when it sent the first text of the answer.

Between those two is the engine, whose queue differs by far more than a gateway adds; what is left of the time that a
client waited is the way there and back. Also `python -m benchmarks.serving.stamps`: `python -m serving` with a vLLM
that notes this.
"""

import json
import re
import time
from typing import Any

PATH = "/bench/stamps"
"""Where the notes are asked for; they are forgotten then."""

_FIRST_TEXT = re.compile(rb'"id":"([^"]+)".*?"content":"[^"]', re.S)


class Stamps:
    """An ASGI middleware: for each streamed chat answer, by its id, the seconds of both moments."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._noted: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        path = scope.get("path")
        if path == PATH:
            body, self._noted = json.dumps(self._noted).encode(), {}
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        if path != "/v1/chat/completions":
            await self._app(scope, receive, send)
            return
        reached, waiting = time.perf_counter(), True

        async def noted(message: Any) -> None:
            nonlocal waiting
            if waiting and (found := _FIRST_TEXT.search(message.get("body", b""))):
                waiting = False
                self._noted[found[1].decode()] = (reached, time.perf_counter())
            await send(message)

        await self._app(scope, receive, noted)


def main() -> None:
    """Become the vLLM server of these settings, with the notes."""
    from serving import __main__ as serving

    plain = serving.vllm_arguments

    def arguments(*given: Any) -> list[str]:
        return [*plain(*given), "--middleware", "benchmarks.serving.stamps.Stamps"]

    serving.vllm_arguments = arguments
    serving.main()


if __name__ == "__main__":
    main()
