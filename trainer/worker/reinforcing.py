"""What a job needs whose model answers while it trains: a sampler, and of reinforcement the grader that it names and a
model that judges.

Knows nothing about steps or losses.
"""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rootstock import models
from rootstock.db import Database
from rootstock.errors import JobFailure, JudgeUnavailable, ModelNotFound, RootstockError
from rootstock.grading import compile_grader, open_runner
from rootstock.records import JobRecord
from rootstock.settings import Settings
from rootstock.storage import Store
from trainer.base import Base
from trainer.data import Dataset
from trainer.engine import Engine
from trainer.loop import Reporter
from trainer.recipe import Recipe
from trainer.reinforce import Aids
from trainer.sampling import InProcess, Sampler
from trainer.task import Task, task
from trainer.worker.vllm_sampler import ViaVllm

log = logging.getLogger(__name__)


JUDGE_TOKENS = 1024
"""The longest answer of a judge where the grader names none."""


class VllmJudge:
    """Puts a grader's messages to the base model, or to a tuned model of the job's project, as vLLM serves them."""

    def __init__(self, settings: Settings, db: Database, project_id: str) -> None:
        self._settings = settings
        self._db = db
        self._project_id = project_id
        self._client = httpx.Client(timeout=settings.inference_timeout_seconds, trust_env=False)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def ask(
        self, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any], schema: dict[str, Any] | None
    ) -> str:
        """The text of the answer, held to `schema`. Raises `JudgeUnavailable`."""
        if self._settings.vllm_server is None:
            raise JudgeUnavailable("The trainer knows no vLLM to ask (ROOTSTOCK_VLLM_URL).")
        body: dict[str, Any] = {"max_completion_tokens": JUDGE_TOKENS, **sampling}
        body |= {"model": self._served(model), "messages": messages}
        if schema is not None:
            form = {"name": "grade", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        url = self._settings.vllm_server + "/v1/chat/completions"
        try:
            answer = self._client.post(url, json=body)
            answer.raise_for_status()
            return str(answer.json()["choices"][0]["message"]["content"] or "")
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise JudgeUnavailable(f"The model '{model}' could not be asked ({type(error).__name__}).") from error

    def _served(self, model: str) -> str:
        names = {self._settings.base_name, *self._settings.model_aliases, *self._settings.model_aliases.values()}
        if model in names:
            return self._settings.base_name
        try:
            with self._db.read() as tx:
                return models.get(tx, self._project_id, model).adapter_id
        except ModelNotFound:
            raise JudgeUnavailable(f"There is no model '{model}' here to judge.") from None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a job trains."""

    settings: Settings
    db: Database
    store: Store
    base: Base
    engine: Engine
    folder: Path


@contextlib.contextmanager
def aids_for(
    where: Surroundings,
    job: JobRecord,
    recipe: Recipe,
    report: Reporter,
    training: Dataset[Any],
    validation: Dataset[Any] | None,
) -> Iterator[Aids | Task | None]:
    """What the job's method needs beside a model, as long as the block lasts; `None` for methods that need nothing.

    `report` hears of answers that could not be graded. Raises `JobFailure` for a grader that cannot work.
    """
    reinforcement = job.method.get("type") == "reinforcement"
    if not reinforcement and recipe.stopping_metric != "task":
        yield None
        return

    def failed(reason: str) -> None:
        report.warn("grading", f"Answers that cannot be graded count as 0. The first reason: {reason}")

    def unreached(reason: str) -> None:
        report.warn("sampling", f"Answers are sampled in the trainer while vLLM cannot be had: {reason}")

    here = InProcess(where.base, where.engine)
    with contextlib.ExitStack() as held:
        sampler: Sampler = here
        if _through_vllm(where, recipe):
            assert where.settings.vllm_server is not None
            seconds = where.settings.inference_timeout_seconds
            there = ViaVllm(
                where.settings.vllm_server, seconds, where.store, where.base, where.engine, recipe, job.id, where.folder
            )
            held.callback(there.close)
            sampler = there
        pool = held.enter_context(ThreadPoolExecutor(1, thread_name_prefix="grading"))
        if not reinforcement:
            assert validation is not None  # the recipe was refused without
            waiting = {"alive": report.alive, "instead": here, "unreached": unreached, "pool": pool}
            yield task(training, validation, where.base, job.seed, sampler, **waiting)
            return
        branch = job.method["reinforcement"]
        judge = VllmJudge(where.settings, where.db, job.project_id)
        held.callback(judge.close)
        python = held.enter_context(open_runner(where.settings.data_dir / "wasm", where.settings.python_graders))
        try:
            grader = compile_grader(branch["grader"], python=python)
        except RootstockError as error:  # it was accepted by another version of the service
            raise JobFailure("invalid_grader", error.message, "method.reinforcement.grader") from error
        form = (branch.get("response_format") or {}).get("json_schema")
        yield Aids(sampler, grader, judge, form, report.alive, failed, here, unreached, pool)


def _through_vllm(where: Surroundings, recipe: Recipe) -> bool:
    """Whether vLLM shall sample, and computes with what is trained: an adapter on the base as it is."""
    decided = {"vllm": True, "trainer": False}
    wanted = decided.get(where.settings.reinforcement_sampler, where.base.device.type == "cuda")
    return wanted and where.settings.vllm_server is not None and recipe.type == "lora"
