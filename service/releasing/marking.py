"""What an answer of a release is worth: by the plan's metric, or by the grader that the job names. Knows no rows.

Graders run in threads of their own: a model that judges may let them wait for long, and the lease has to be kept.
"""

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from rootstock.grading import PythonRunner, Sample, compile_grader
from rootstock.release.held_out import Question
from rootstock.release.verdict import BAR
from service.batching.asking import Asker
from service.evaluating.judging import Counts, PatientJudge
from service.releasing.reading import Plan

log = logging.getLogger(__name__)

AT_ONCE = 8


class Marker:
    """Scores the answers to one plan's questions; a context manager, which closes `python` too.

    `failure` is what a grader failed of first.
    """

    def __init__(self, plan: Plan, asker: Asker, python: PythonRunner) -> None:
        self.failure: str | None = None
        self._plan = plan
        self._asker = asker
        self._python = python
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="grading")
        self._grader = None if plan.grader is None else compile_grader(plan.grader, python=self._python)

    def __enter__(self) -> "Marker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._python.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def score(self, number: int, text: str) -> float | None:
        """Of an answer to the question of this number; `None` where the grader failed.

        An answer without what the grader reads (JSON asked of prose) is worth 0: that is the answer's fault.
        """
        question = self._plan.questions[number]
        if self._grader is None:
            return self._plan.metric.score(text, question.reference)
        loop = asyncio.get_running_loop()
        judge = PatientJudge(self._asker, loop, Counts())
        sample = Sample.of(text, tools=_calls(text) if question.tools else None)
        grade = await loop.run_in_executor(self._threads, self._grader.grade, item(question), sample, judge)
        if grade.failed is None or grade.wrong_form:
            return grade.reward
        log.info("an answer could not be graded: %s", grade.failed)
        self.failure = self.failure or grade.failed
        return None


def item(question: Question) -> dict[str, Any]:
    """What a grader sees of a held-out example; of one for reinforcement the same as in training."""
    if question.item is not None:
        return question.item
    asked = {"messages": list(question.messages)} if question.messages is not None else {"prompt": question.prompt}
    return asked | {"reference_answer": question.reference}


def bar(asked: float | None, grader: dict[str, Any] | None) -> float | None:
    """The score at which a prompt is enough: as asked, else near the most there is, `None` where nobody knows that."""
    if asked is not None or grader is None:
        return BAR if asked is None else asked
    if grader["type"] == "score_model":
        low, high = grader.get("range") or (0.0, 1.0)
        return float(low + BAR * (high - low))
    return BAR if grader["type"] in ("string_check", "text_similarity") else None


def _calls(text: str) -> list[dict[str, Any]]:
    """The tool calls of an answer, of which the text holds names and arguments, as the chat API writes them."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = [one for one in told if isinstance(one, dict) and "name" in one] if isinstance(told, list) else []
    return [
        {"type": "function", "function": {"name": one["name"], "arguments": json.dumps(one.get("arguments"))}}
        for one in calls
    ]
