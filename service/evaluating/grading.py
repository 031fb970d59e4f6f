"""One item of a run, from its line to its result: sampled where a model is asked, then graded by every criterion.

Whatever happens costs this item only: it ends as an `Outcome` in every case. Knows no row and no store.
"""

import asyncio
import logging
from concurrent.futures import Executor
from typing import Any

from rootstock.errors import NotFound, RootstockError, ServerError
from rootstock.evals.criteria import Criterion
from rootstock.evals.records import ItemStatus, Outcome
from rootstock.evals.sources import Item, sample_of
from rootstock.grading import Sample
from service.batching.asking import Asker
from service.evaluating.judging import Counts, PatientJudge
from service.evaluating.questions import Questions, text_of
from service.gateway import CHAT

log = logging.getLogger(__name__)

NO_TOKENS = {"total_tokens": 0, "completion_tokens": 0, "prompt_tokens": 0, "cached_tokens": 0}


class Evaluator:
    """Samples and grades the items of one run; `threads` are for the grading, which may take minutes."""

    def __init__(self, asker: Asker, questions: Questions, criteria: list[Criterion], threads: Executor) -> None:
        self._asker = asker
        self._questions = questions
        self._criteria = criteria
        self._threads = threads

    async def outcome(self, item: Item) -> Outcome:
        """What becomes of an item; always something."""
        counts = Counts()
        try:
            if self._questions.model:
                sample, shown = await self._sampled(item, counts)
            else:
                sample, shown = sample_of(item.sample), self._given(item)
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._threads, self._graded, item, sample, counts, loop)
        except RootstockError as error:
            return self._failed(item, error, counts)
        except Exception:  # whatever it is, it must cost this item only, and its text is no customer's business
            log.exception("item %d failed for a reason of ours", item.number)
            return self._failed(item, ServerError(), counts)
        if any("error" in (result["sample"] or {}) for result in results):
            status = ItemStatus.ERROR
        else:
            status = ItemStatus.PASS if all(result["passed"] for result in results) else ItemStatus.FAIL
        return Outcome(item.number, status, item.item, results, shown, counts.as_dict())

    async def _sampled(self, item: Item, counts: Counts) -> tuple[Sample, dict[str, Any]]:
        question = self._questions.about(item)
        try:
            answer = await self._asker.patiently(CHAT, question)
        except RootstockError as error:
            if not isinstance(error, NotFound):
                counts.failed(question.model)
            raise
        tokens = counts.answered(answer["model"], answer.get("usage"))
        choice = answer["choices"][0]
        said = {"role": "assistant"} | {key: choice["message"].get(key) for key in ("content", "tool_calls", "refusal")}
        # An engine may hand out half a surrogate pair, which nothing that reads it could be sent.
        said["content"] = (said["content"] or "").encode("utf-8", "replace").decode()
        choices = [{"index": 0, "message": said, "finish_reason": choice["finish_reason"]}]
        sample = Sample.of(said["content"], tools=said["tool_calls"], choices=choices)
        asked = question.model_dump(include={"messages"}, exclude_none=True)["messages"]
        return sample, self._shown(asked, said, answer["model"], choice["finish_reason"], tokens)

    def _given(self, item: Item) -> dict[str, Any]:
        """The answer that came with the item, as results show it."""
        given = item.sample or {}
        sample = sample_of(item.sample)
        first = sample.choices[0] if sample.choices and isinstance(sample.choices[0], dict) else {}
        said = {"role": "assistant", "content": sample.output_text, "tool_calls": sample.output_tools}
        usage = given["usage"] if isinstance(given.get("usage"), dict) else {}
        tokens = {name: usage[name] if isinstance(usage.get(name), int) else 0 for name in NO_TOKENS}
        asked = item.item.get("input") if "completion_id" in item.item else None
        return self._shown(
            asked if isinstance(asked, list) else [],
            said if sample.given else None,
            str(given.get("model") or ""),
            str(first.get("finish_reason") or ("stop" if sample.given else "")),
            tokens,
        )

    def _graded(
        self, item: Item, sample: Sample, counts: Counts, loop: asyncio.AbstractEventLoop
    ) -> list[dict[str, Any]]:
        results = []
        for criterion in self._criteria:
            judge = PatientJudge(self._asker, loop, counts)
            result = criterion.result(item.item, sample, judge)
            if judge.said is not None:
                result["sample"] = judge.said | (result["sample"] or {})
            results.append(result)
        return results

    def _failed(self, item: Item, error: RootstockError, counts: Counts) -> Outcome:
        shown = self._shown([], None, self._questions.model or "", "error", NO_TOKENS)
        shown["error"] = {"code": error.code or error.type, "message": error.message}
        return Outcome(item.number, ItemStatus.ERROR, item.item, [], shown, counts.as_dict())

    def _shown(
        self, asked: list[Any], said: dict[str, Any] | None, model: str, finish_reason: str, tokens: dict[str, int]
    ) -> dict[str, Any]:
        """The `sample` of an output item."""
        output = []
        if said is not None:
            calls = {"tool_calls": said["tool_calls"]} if said.get("tool_calls") else {}
            output = [{"role": said["role"], "content": said["content"]} | calls]
        return {
            "input": [{"role": str(one.get("role")), "content": text_of(one.get("content"))} for one in asked if one],
            "output": output,
            "finish_reason": finish_reason,
            "model": model,
            "usage": tokens,
            "error": None,
            **self._questions.sampling,
        }
