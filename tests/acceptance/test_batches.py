"""Batches on the real stack, as clients make them: a base and a tuned model, good lines and bad ones, a dead worker."""

import json
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from tests.acceptance.conftest import Stack, finished, jsonl, rows, small_job, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

CHAT = "/v1/chat/completions"


def line(custom_id: str, model: str, content: str, **body: Any) -> dict[str, Any]:
    asked = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 8} | body
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": asked}


def submit(client: OpenAI, lines: list[dict[str, Any]]) -> str:
    file = client.files.create(file=jsonl(lines), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id


def ended(client: OpenAI, batch_id: str) -> Any:
    def look() -> Any:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in ("completed", "failed", "expired", "cancelled") else None

    return wait_for(look, 240, f"{batch_id} to end")


def content(client: OpenAI, file_id: str) -> dict[str, Any]:
    found = [json.loads(row) for row in client.files.content(file_id).text.splitlines()]
    return {row["custom_id"]: row for row in found}


def test_base_and_tuned_models_answer_in_batches(client: OpenAI) -> None:
    tuned = str(finished(client, small_job(client, count=16, epochs=1).id).fine_tuned_model)
    questions = [row["messages"][1]["content"] for row in rows("tickets-heldout.jsonl", 6)]
    made = {}
    for model in ("gpt-4o-mini", tuned):
        lines = [line(f"good-{n}", model, question, temperature=0) for n, question in enumerate(questions)]
        lines += [line("long", model, "word " * 5000), line("bad", model, "Hi", temperature=9)]
        made[model] = submit(client, lines)
    for model, batch_id in made.items():
        batch = ended(client, batch_id)
        assert (batch.status, batch.model, batch.errors) == ("completed", model, None)
        assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (8, 6, 2)
        output, errors = content(client, batch.output_file_id), content(client, batch.error_file_id)
        assert set(output) == {f"good-{n}" for n in range(6)}
        answers = [ChatCompletion.model_validate(row["response"]["body"], strict=True) for row in output.values()]
        assert {answer.model for answer in answers} == {model}
        assert batch.usage.total_tokens == sum(answer.usage.total_tokens for answer in answers if answer.usage)
        codes = {name: row["response"]["body"]["error"]["code"] for name, row in errors.items()}
        assert codes == {"long": "context_length_exceeded", "bad": "decimal_above_max_value"}
        # What an interactive request gets for the same question.
        asked = [{"role": "user", "content": questions[0]}]
        alone = client.chat.completions.create(model=model, messages=asked, max_tokens=8, temperature=0)  # type: ignore[arg-type]
        said = output["good-0"]["response"]["body"]["choices"][0]
        assert set(said) == set(json.loads(alone.choices[0].model_dump_json(exclude_unset=True)))


def test_a_file_that_cannot_be_run_says_which_lines(client: OpenAI) -> None:
    batch = ended(client, submit(client, [line("a", "gpt-4o-mini", "Hi"), line("a", "gpt-4o-mini", "Hi")]))
    assert batch.status == "failed"
    assert [(error.code, error.line) for error in batch.errors.data] == [("duplicate_custom_id", 2)]


def test_the_batch_worker_dies(stack: Stack, client: OpenAI) -> None:
    lines = [line(str(n), "gpt-4o-mini", f"Question {n}", max_tokens=16) for n in range(120)]
    batch_id = submit(client, lines)
    wait_for(lambda: client.batches.retrieve(batch_id).request_counts.completed > 0, 120, "a first answer")  # type: ignore[union-attr]
    stack.kill("batch-worker")
    batch = ended(client, batch_id)
    assert batch.status == "completed" and batch.request_counts.completed == 120
    assert set(content(client, batch.output_file_id)) == {str(n) for n in range(120)}
