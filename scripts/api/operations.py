"""One call of every operation of the official Python SDK that is in scope, and what each one needs to exist first.

Knows the SDK's names and how to make a file, a job or a batch; judges nothing.
"""

import inspect
import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import httpx
from openai import OpenAI
from openai._resource import SyncAPIResource

from scripts.api.live import MODEL, SLOWLY, TERMINAL, Live, batch_rows, training_rows
from tests.service.conftest import OTHER_PROJECT

SCOPE = ("files", "uploads", "fine_tuning", "models", "chat.completions", "completions", "batches", "webhooks", "evals")
LATER: tuple[str, ...] = ()
"""Resources that are known and not served yet."""

GRADER: Any = {
    "type": "string_check",
    "name": "same",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
ITEMS: Any = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}


def asking(question: str) -> Any:
    """The data source of a run that asks this of one item."""
    return {
        "type": "completions",
        "model": MODEL,
        "input_messages": {"type": "template", "template": [{"role": "user", "content": question}]},
        "source": {"type": "file_content", "content": [{"item": {"country": "France", "answer": "Paris"}}]},
    }


ASKING = asking("Capital of {{ item.country }}?")
HELLO: Any = [{"role": "user", "content": "Say hello."}]
WAIT_SECONDS = 600


def upstream(client: OpenAI) -> dict[str, Callable[..., Any]]:
    """Every public operation of the resources in scope and of those for later, by its dotted name."""
    found: dict[str, Callable[..., Any]] = {}
    for name in dict.fromkeys((*SCOPE, *(later.split(".")[0] for later in LATER))):
        resource: Any = client
        for part in name.split("."):
            resource = getattr(resource, part)
        found |= dict(_walk(name, resource))
    return dict(sorted(found.items()))


def is_later(operation: str) -> bool:
    """Whether the operation is left to a later version."""
    return operation.startswith(LATER)


def _walk(name: str, resource: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    for attribute in dir(type(resource)):
        if attribute.startswith(("_", "with_")):
            continue
        if inspect.isfunction(inspect.getattr_static(type(resource), attribute)):
            yield f"{name}.{attribute}", getattr(resource, attribute)
        elif isinstance(inner := getattr(resource, attribute), SyncAPIResource):
            yield from _walk(f"{name}.{attribute}", inner)


class World:
    """A client, and one of each thing, made when first asked for."""

    def __init__(self, api: Live) -> None:
        self.api = api
        self.exchanges: list[httpx.Response] = []
        http: Any = httpx.Client(event_hooks={"response": [self._note]}, timeout=120)
        self.client = OpenAI(api_key=api.key, base_url=f"{api.url}/v1", max_retries=0, http_client=http)

    def _note(self, response: httpx.Response) -> None:
        response.read()
        self.exchanges.append(response)

    def file(self) -> str:
        return self._stored(training_rows(), "fine-tune")

    def _stored(self, data: bytes, purpose: Any) -> str:
        return self.client.files.create(file=("train.jsonl", data), purpose=purpose).id

    def job(self, **more: Any) -> Any:
        return self.client.fine_tuning.jobs.create(model=MODEL, training_file=self.training, **more)

    def upload(self) -> Any:
        data = training_rows()
        return self.client.uploads.create(
            bytes=len(data), filename="train.jsonl", mime_type="application/jsonl", purpose="fine-tune"
        )

    def stored(self) -> str:
        return self.client.chat.completions.create(model=MODEL, messages=HELLO, store=True, metadata={"k": "v"}).id

    def hook(self, **more: Any) -> Any:
        url = self.api.inbox.url if self.api.inbox else "https://example.com/hooks"
        return self.client.webhooks.create(name="conformance", url=url, event_types=["fine_tuning.job.succeeded"])

    def delivery(self) -> tuple[bytes, dict[str, str], str]:
        """A signed event as it arrived, and the secret of the endpoint."""
        assert self.api.inbox is not None, "needs a receiver of our own"
        made = self.hook()
        self.client.webhooks.test(made.id, event_type="fine_tuning.job.succeeded")
        # Events of jobs that are still ending are told to this endpoint, too.
        told = [one for one in self.api.inbox.received if json.loads(one[1])["data"]["id"] == "test"]
        headers, body = told[-1]
        return body, headers, made.signing_secret

    def succeeded(self, **more: Any) -> Any:
        return self._until(self.job(**more).id, lambda found: found.status == "succeeded")

    def running(self) -> Any:
        """A job that a trainer holds, for what only such a job can do."""
        job = self.job(metadata={"hold": "running"})
        return self._until(job.id, lambda found: found.status == "running")

    def paused(self) -> str:
        return self.client.fine_tuning.jobs.pause(self.running().id).id

    def permission(self) -> Any:
        granting = self.client.fine_tuning.checkpoints.permissions.create
        return granting(self.tuned, project_ids=[OTHER_PROJECT]).data[0]

    def _until(self, job_id: str, met: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + WAIT_SECONDS
        while not met(found := self.client.fine_tuning.jobs.retrieve(job_id)):
            assert time.monotonic() < deadline and found.status not in TERMINAL, f"{job_id} is {found.status}"
            time.sleep(0.1)
        return found

    @cached_property
    def training(self) -> str:
        return self.file()

    @cached_property
    def done(self) -> Any:
        """A job that succeeded."""
        return self.succeeded(metadata={"team": "search"}, suffix="conformance", validation_file=self.training)

    @cached_property
    def tuned(self) -> str:
        return str(self.done.fine_tuned_model)

    @cached_property
    def batch_input(self) -> str:
        return self._stored(batch_rows(), "batch")

    @cached_property
    def slow_batch_input(self) -> str:
        """Of a batch that is still at work when it is to be cancelled."""
        return self._stored(batch_rows(question=SLOWLY), "batch")

    def evaluation(self) -> Any:
        return self.client.evals.create(name="capitals", data_source_config=ITEMS, testing_criteria=[GRADER])

    def run(self, source: Any = ASKING) -> Any:
        return self.client.evals.runs.create(self.evaluation().id, data_source=source)

    @cached_property
    def measured(self) -> Any:
        """A run that has ended."""
        run, deadline = self.run(), time.monotonic() + WAIT_SECONDS
        while run.status in ("queued", "in_progress"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
            run = self.client.evals.runs.retrieve(run.id, eval_id=run.eval_id)
        return run

    def item(self) -> Any:
        return self.client.evals.runs.output_items.list(self.measured.id, eval_id=self.measured.eval_id).data[0]

    def batch(self, input_file: str | None = None) -> Any:
        return self.client.batches.create(
            input_file_id=input_file or self.batch_input, endpoint="/v1/chat/completions", completion_window="24h"
        )


def _chunked(w: World) -> Any:
    return {
        "file": training_rows(),
        "filename": "train.jsonl",
        "bytes": len(training_rows()),
        "mime_type": "application/jsonl",
        "purpose": "fine-tune",
    }


def _parts(w: World) -> dict[str, Any]:
    made = w.upload()
    return {"upload_id": made.id, "part_ids": [w.client.uploads.parts.create(made.id, data=training_rows()).id]}


def _signed(w: World) -> dict[str, Any]:
    body, headers, secret = w.delivery()
    return {"payload": body, "headers": headers, "secret": secret}


def _of_run(run: Any) -> dict[str, Any]:
    return {"eval_id": run.eval_id, "run_id": run.id}


CALLS: dict[str, Callable[[World], dict[str, Any]]] = {
    "files.content": lambda w: {"file_id": w.training},
    "files.create": lambda w: {
        "file": ("train.jsonl", training_rows()),
        "purpose": "fine-tune",
        "expires_after": {"anchor": "created_at", "seconds": 3600},
    },
    "files.delete": lambda w: {"file_id": w.file()},
    "files.list": lambda w: {"limit": 1, "order": "desc", "purpose": "fine-tune", "after": (w.training, w.file())[1]},
    "files.retrieve": lambda w: {"file_id": w.training},
    "files.retrieve_content": lambda w: {"file_id": w.training},
    "files.wait_for_processing": lambda w: {"id": w.training},
    "uploads.cancel": lambda w: {"upload_id": w.upload().id},
    "uploads.complete": _parts,
    "uploads.create": lambda w: {
        "bytes": 4,
        "filename": "train.jsonl",
        "mime_type": "application/jsonl",
        "purpose": "fine-tune",
    },
    "uploads.parts.create": lambda w: {"upload_id": w.upload().id, "data": training_rows()},
    "uploads.upload_file_chunked": _chunked,
    "fine_tuning.alpha.graders.run": lambda w: {"grader": GRADER, "model_sample": "42", "item": {"answer": "42"}},
    "fine_tuning.alpha.graders.validate": lambda w: {"grader": GRADER},
    "fine_tuning.checkpoints.permissions.create": lambda w: {
        "fine_tuned_model_checkpoint": w.tuned,
        "project_ids": [OTHER_PROJECT],
    },
    "fine_tuning.checkpoints.permissions.delete": lambda w: {
        "permission_id": w.permission().id,
        "fine_tuned_model_checkpoint": w.tuned,
    },
    "fine_tuning.checkpoints.permissions.list": lambda w: {
        "fine_tuned_model_checkpoint": (w.permission(), w.tuned)[1],
        "limit": 1,
        "order": "descending",
    },
    "fine_tuning.checkpoints.permissions.retrieve": lambda w: {
        "fine_tuned_model_checkpoint": (w.permission(), w.tuned)[1],
        "limit": 1,
    },
    "fine_tuning.jobs.cancel": lambda w: {"fine_tuning_job_id": w.running().id},
    "fine_tuning.jobs.checkpoints.list": lambda w: {"fine_tuning_job_id": w.done.id, "limit": 1},
    "fine_tuning.jobs.create": lambda w: {
        "model": MODEL,
        "training_file": w.training,
        "validation_file": w.training,
        "suffix": "conformance",
        "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
        "metadata": {"team": "search"},
    },
    "fine_tuning.jobs.list": lambda w: {"limit": 1, "metadata": {"team": (w.done, "search")[1]}},
    "fine_tuning.jobs.list_events": lambda w: {"fine_tuning_job_id": w.done.id, "limit": 1},
    "fine_tuning.jobs.pause": lambda w: {"fine_tuning_job_id": w.running().id},
    "fine_tuning.jobs.resume": lambda w: {"fine_tuning_job_id": w.paused()},
    "fine_tuning.jobs.retrieve": lambda w: {"fine_tuning_job_id": w.done.id},
    "models.delete": lambda w: {
        "model": w._until(w.job().id, lambda found: found.status == "succeeded").fine_tuned_model
    },
    "models.list": lambda w: {},
    "models.retrieve": lambda w: {"model": w.tuned},
    "chat.completions.create": lambda w: {"model": MODEL, "messages": HELLO, "temperature": 0.5, "max_tokens": 8},
    "chat.completions.delete": lambda w: {"completion_id": w.stored()},
    "chat.completions.list": lambda w: {"limit": 1, "metadata": {"k": (w.stored(), "v")[1]}, "model": MODEL},
    "chat.completions.messages.list": lambda w: {"completion_id": w.stored(), "limit": 1},
    "chat.completions.parse": lambda w: {"model": MODEL, "messages": HELLO},
    "chat.completions.retrieve": lambda w: {"completion_id": w.stored()},
    "chat.completions.stream": lambda w: {"model": MODEL, "messages": HELLO},
    "chat.completions.update": lambda w: {"completion_id": w.stored(), "metadata": {"k": "w"}},
    "completions.create": lambda w: {"model": MODEL, "prompt": "Once upon", "max_tokens": 8},
    "batches.cancel": lambda w: {"batch_id": w.batch(w.slow_batch_input).id},
    "batches.create": lambda w: {
        "input_file_id": w.batch_input,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"k": "v"},
    },
    "batches.list": lambda w: {"limit": (w.batch(), 1)[1]},
    "batches.retrieve": lambda w: {"batch_id": w.batch().id},
    "evals.create": lambda w: {
        "name": "capitals",
        "data_source_config": ITEMS,
        "testing_criteria": [GRADER],
        "metadata": {"k": "v"},
    },
    "evals.delete": lambda w: {"eval_id": w.evaluation().id},
    "evals.list": lambda w: {"limit": (w.evaluation(), 1)[1], "order": "desc", "order_by": "updated_at"},
    "evals.retrieve": lambda w: {"eval_id": w.evaluation().id},
    "evals.update": lambda w: {"eval_id": w.evaluation().id, "name": "renamed", "metadata": {"k": "w"}},
    "evals.runs.cancel": lambda w: _of_run(w.run(asking(SLOWLY))),
    "evals.runs.create": lambda w: {
        "eval_id": w.evaluation().id,
        "data_source": ASKING,
        "name": "first",
        "metadata": {"k": "v"},
    },
    "evals.runs.delete": lambda w: _of_run(w.run()),
    "evals.runs.list": lambda w: {"eval_id": w.measured.eval_id, "limit": 1, "order": "asc", "status": "completed"},
    "evals.runs.output_items.list": lambda w: _of_run(w.measured) | {"limit": 1, "order": "asc"},
    "evals.runs.output_items.retrieve": lambda w: _of_run(w.measured) | {"output_item_id": w.item().id},
    "evals.runs.retrieve": lambda w: _of_run(w.measured),
    "webhooks.create": lambda w: {
        "name": "conformance",
        "url": w.api.inbox.url if w.api.inbox else "https://example.com/hooks",
        "event_types": ["fine_tuning.job.succeeded"],
    },
    "webhooks.delete": lambda w: {"webhook_endpoint_id": w.hook().id},
    "webhooks.event_types.list": lambda w: {},
    "webhooks.list": lambda w: {"limit": (w.hook(), 1)[1]},
    "webhooks.retrieve": lambda w: {"webhook_endpoint_id": w.hook().id},
    "webhooks.rotate_secret": lambda w: {"webhook_endpoint_id": w.hook().id},
    "webhooks.test": lambda w: {"webhook_endpoint_id": w.hook().id, "event_type": "fine_tuning.job.succeeded"},
    "webhooks.unwrap": _signed,
    "webhooks.update": lambda w: {"webhook_endpoint_id": w.hook().id, "name": "renamed"},
    "webhooks.verify_signature": _signed,
}
"""How each operation in scope is called: with what, made beforehand."""
