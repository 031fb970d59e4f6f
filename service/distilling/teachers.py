"""Who answers prompts: a model served here, or one behind a foreign OpenAI-compatible endpoint, with patience.

What passes (429, 5xx, a broken connection) is waited for with growing pauses; what is about one prompt becomes that
prompt's error; what will not get better ends the run with `TeacherGone`. Knows no rows.
"""

import asyncio
import json
import logging
import random
from dataclasses import dataclass, field
from typing import Any, Protocol

from rootstock.distil import Answer, Prompt
from rootstock.errors import NotFound, RootstockError
from rootstock.records import Caller
from rootstock.usage import Amounts
from service.batching.asking import Asker
from service.deps import fit
from service.gateway import CHAT, Gateway
from service.outbound import Answered, Outbound, Undeliverable
from service.wire_inference import ChatRequest

log = logging.getLogger(__name__)

TRIES = 8
MAX_WAIT_SECONDS = 60.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
_PASSES = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_ABOUT_THE_PROMPT = {400, 413, 422}


class TeacherGone(Exception):
    """The teacher will not answer any more; the message says why, and holds no key."""


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, and what it took; `own` by the name of a model that is served here."""

    answer: Answer
    tokens: Amounts
    own: dict[str, Amounts] = field(default_factory=dict)


class Teacher(Protocol):
    """Something that answers prompts."""

    async def answer(self, prompt: Prompt) -> Told:
        """The answer, or the error in its place. Raises `TeacherGone`."""
        ...


class Hosted:
    """A model of this deployment, asked as the project would ask it."""

    def __init__(self, gateway: Gateway, caller: Caller, spec: dict[str, Any], first_wait_seconds: float) -> None:
        self._asker = Asker(gateway, caller, first_wait_seconds)
        self._wish = _sampling(spec) | {"seed": spec["seed"]}

    async def answer(self, prompt: Prompt) -> Told:
        """As `Teacher.answer`."""
        try:
            found = await self._asker.patiently(CHAT, fit(ChatRequest, self._wish | prompt.asked))
        except NotFound as error:
            raise TeacherGone(error.message) from None
        except RootstockError as error:
            return Told(Answer({}, None, error.message), Amounts(1, 1), {self._wish["model"]: Amounts(1, 1)})
        spent = _amounts(found)
        return Told(_answer(found), spent, {found["model"]: spent})


class Foreign:
    """A model behind any OpenAI-compatible endpoint, reached under the rules of webhooks."""

    def __init__(
        self, outbound: Outbound, spec: dict[str, Any], key: str | None, *, seconds: float, first_wait_seconds: float
    ) -> None:
        self._outbound = outbound
        self._url = spec["teacher"]["base_url"].rstrip("/") + "/chat/completions"
        self._wish = _sampling(spec)
        self._headers = {"content-type": "application/json", "accept": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._seconds = seconds
        self._first_wait = first_wait_seconds

    async def answer(self, prompt: Prompt) -> Told:
        """As `Teacher.answer`."""
        body = json.dumps(self._wish | prompt.asked).encode()
        reason = ""
        for tries in range(TRIES):
            wait = min(MAX_WAIT_SECONDS, self._first_wait * 2**tries) * random.uniform(0.75, 1.0)
            try:
                found = await self._outbound.ask(
                    self._url, self._headers, body, seconds=self._seconds, max_bytes=MAX_ANSWER_BYTES
                )
            except Undeliverable as error:
                reason = str(error)
            else:
                if found.status not in _PASSES:
                    return self._read(found)
                reason = f"it answers with HTTP status {found.status}"
                wait = max(wait, _told_to_wait(found))
            log.info("try %d of a prompt: %s", tries + 1, reason)
            if tries + 1 < TRIES:
                await asyncio.sleep(wait)
        raise TeacherGone(f"The teacher did not answer {TRIES} times in a row: {reason}")

    def _read(self, found: Answered) -> Told:
        if found.status in _ABOUT_THE_PROMPT:
            # What it says is not shown: a URL may have been chosen to read somebody else's answers.
            return Told(Answer({}, None, f"HTTP status {found.status}"), Amounts(1, 1))
        if found.status != 200:
            raise TeacherGone(f"The teacher refuses: it answers with HTTP status {found.status}.")
        try:
            answer = json.loads(found.body or b"")
            return Told(_answer(answer), _amounts(answer))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return Told(Answer({}, None, "This is no chat completion."), Amounts(1, 1))


def _sampling(spec: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec["teacher"].items() if name != "base_url"}


def _answer(found: dict[str, Any]) -> Answer:
    choice = found["choices"][0]
    said = {name: choice["message"].get(name) for name in ("content", "refusal", "tool_calls")}
    reason = choice.get("finish_reason")
    return Answer({"role": "assistant"} | said, reason if isinstance(reason, str) else None)


def _amounts(found: dict[str, Any]) -> Amounts:
    counted = found.get("usage") or {}
    prompt, completion = (_count(counted.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return Amounts(1, 0, prompt, completion)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**40 else 0


def _told_to_wait(found: Answered) -> float:
    given = found.headers.get("retry-after", "")
    return min(MAX_WAIT_SECONDS, float(given)) if given.isascii() and given.isdigit() else 0.0
