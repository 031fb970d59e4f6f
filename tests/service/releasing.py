"""A small task, scripted models and a batch worker's measuring in this process. Knows no test."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anyio.from_thread import BlockingPortal

from rootstock.release import suites
from rootstock.sweep import Sweep
from service.batching.life import Workplace
from service.releasing import measuring
from service.releasing.taking import take_release
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm
from tests.service.test_reconciler import answers, reconciler

LABELS = ["delivery", "defect", "billing", "account"]


def label(number: int) -> str:
    return LABELS[(number * 7 + number // 3) % 4]


def rows(first: int, count: int) -> bytes:
    """Examples of the task; which label is right cannot be told but by whoever knows all questions."""
    made = [
        {
            "messages": [
                {"role": "system", "content": "Answer with the kind."},
                {"role": "user", "content": f"Ticket {n}"},
                {"role": "assistant", "content": label(n)},
            ]
        }
        for n in range(first, first + count)
    ]
    return "".join(json.dumps(row) + "\n" for row in made).encode()


@dataclass
class Models:
    """What base and tunes answer: how well each knows the task and the suites."""

    base: Callable[[int], str] = lambda n: "I think so."
    tuned: Callable[[int], str] = label
    prompted: Callable[[int], str] = lambda n: "a kind"
    base_suites: Callable[[suites.Question], str] = lambda question: "no idea"
    tuned_suites: Callable[[suites.Question], str] = lambda question: "no idea"
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, body: dict[str, Any]) -> str:
        tuned = body["model"].startswith("adapter-")
        last = body["messages"][-1]["content"]
        self.asked.append((body["model"], last))
        if last.startswith("Ticket "):
            n = int(last.removeprefix("Ticket "))
            if tuned:
                return self.tuned(n)
            return self.prompted(n) if len(body["messages"]) > 2 else self.base(n)
        question = SUITE_QUESTIONS[json.dumps(body["messages"])]
        return (self.tuned_suites if tuned else self.base_suites)(question)


SUITE_QUESTIONS = {
    json.dumps(list(question.messages)): question for suite in suites.built_in() for question in suite.questions
}


class Measured:
    """The API with a scripted vLLM; `work` is one round of a batch worker, `reconcile` one of the API's."""

    def __init__(self, api: Api, vllm: FakeVllm, portal: BlockingPortal, models: Models) -> None:
        self.api = api
        self.models = models
        self._portal = portal
        vllm.answers = models
        measuring._known.clear()  # what bases answered is known for an hour, and each test has its own base
        self.leaving = False
        self.place = Workplace(
            api.settings,
            api.database,
            api.app.state.parts.store,
            api.app.state.parts.upstream,
            lambda: self.leaving,
            first_wait_seconds=0.0,
        )

    @property
    def sweep(self) -> Sweep:
        found: Sweep = self.api.app.state.parts.sweep
        return found

    def job(self, held_out: int = 24, training: int = 60, **more: Any) -> Any:
        files = self.api.client.files
        train = files.create(file=("t.jsonl", rows(0, training)), purpose="fine-tune").id
        if held_out:
            valid = files.create(file=("v.jsonl", rows(1000, held_out)), purpose="fine-tune").id
            more["validation_file"] = valid
        return self.api.job(training_file=train, **more)

    def work(self) -> bool:
        return self._portal.call(take_release, self.place, "worker")

    def reconcile(self) -> None:
        reconciler(self.api, answers).run_once()

    def finished(self, **more: Any) -> Any:
        """A job of this task taken to its end, as API, trainer and batch worker do it together."""
        job = self.job(**more)
        claimed = self.api.claim()
        self.work()
        self.api.checkpoint(claimed, 4)
        self.api.finalize(claimed)
        self.reconcile()
        self.work()
        self.reconcile()
        return self.look(job.id)

    def look(self, job_id: str) -> Any:
        return self.api.client.fine_tuning.jobs.retrieve(job_id)

    def release(self, job_id: str) -> Any:
        return self.api.get(f"/v1/rootstock/jobs/{job_id}/release").json()

    def messages(self, job_id: str) -> list[str]:
        return [event.message for event in self.api.client.fine_tuning.jobs.list_events(job_id, limit=100)][::-1]
