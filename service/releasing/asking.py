"""Questions put to one model, some at a time, as a caller would put them; at temperature 0. Knows no release."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic import ValidationError

from rootstock.errors import RateLimited, RootstockError, Unavailable
from rootstock.records import Caller
from rootstock.release.held_out import Question, said
from service.gateway import CHAT, COMPLETIONS, Addressee, Gateway
from service.wire_inference import ChatRequest, CompletionRequest

log = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 0.5
TRIES = 6
"""How often a question is put to an engine that is away or still loads, half a minute in all, before it is given up
for now."""


class AwayForNow(Exception):
    """The engine does not answer: come back later, nothing is lost."""


class Asker:
    """Puts questions to one model. What a model cannot be asked (too long, no tools here) has no answer: `None`."""

    def __init__(self, gateway: Gateway, caller: Caller, who: Addressee, *, at_once: int, wait: float) -> None:
        self._gateway = gateway
        self._caller = caller
        self._who = who
        self._at_once = at_once
        self._first_wait = wait

    async def each(
        self, questions: Sequence[tuple[int, Question]], max_tokens: int
    ) -> AsyncIterator[list[tuple[int, str | None]]]:
        """The numbered answers in groups, as they come. Raises `AwayForNow`."""
        for start in range(0, len(questions), self._at_once):
            group = questions[start : start + self._at_once]
            async with asyncio.TaskGroup() as together:
                tasks = [together.create_task(self._quietly(one, max_tokens)) for _, one in group]
            found = [task.result() for task in tasks]
            told = [
                (number, text) for (number, _), text in zip(group, found, strict=True) if not isinstance(text, bool)
            ]
            if told:
                yield told
            if len(told) < len(group):
                raise AwayForNow

    async def fits(self, question: Question, max_tokens: int) -> bool:
        """Whether the model takes a question of this length. Raises `AwayForNow`."""
        answer = await self._quietly(question, max_tokens)
        if isinstance(answer, bool):
            raise AwayForNow
        return answer is not None

    async def _quietly(self, question: Question, max_tokens: int) -> str | bool | None:
        """The answer, `None` where there can be none, `False` where there is none for now."""
        for tried in range(TRIES):
            try:
                return await self._ask(question, max_tokens)
            except (Unavailable, RateLimited) as error:
                log.info("try %d of a question: %s", tried + 1, error.message)
                if tried + 1 < TRIES:
                    await asyncio.sleep(self._first_wait * 2**tried)
            except (RootstockError, ValidationError) as error:
                log.info("a question cannot be asked: %s", error)
                return None
        return False

    async def _ask(self, question: Question, max_tokens: int) -> str:
        sampling: dict[str, Any] = {"model": self._who.name, "temperature": 0, "max_tokens": max_tokens}
        if question.prompt is not None:
            plain = CompletionRequest.model_validate({"prompt": question.prompt} | sampling)
            answer = await self._gateway.answer(COMPLETIONS, plain, self._caller, self._who)
            return str(answer["choices"][0]["text"])
        asked = {"messages": list(question.messages or ())}
        if question.tools:
            asked["tools"] = [_tool(tool) for tool in question.tools]
        chat = ChatRequest.model_validate(asked | sampling)
        answer = await self._gateway.answer(CHAT, chat, self._caller, self._who)
        return said(answer["choices"][0]["message"])


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = {key: value for key, value in tool["function"].items() if value is not None}
    return {"type": "function", "function": function}
