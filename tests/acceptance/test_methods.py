"""What a job may train, and learning from a grader, with real processes: each kind of model answers in the end."""

import contextlib
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai import InternalServerError, OpenAI

from rootstock.settings import REPOSITORY
from tests.acceptance.conftest import Stack, finished, jsonl, metrics, rows, small_job, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

QUESTION = rows("tickets-heldout.jsonl", 1)[0]["messages"][:-1]


def prompt(example: dict[str, Any]) -> dict[str, Any]:
    """The ticket as a question, and what a right answer says."""
    *asked, right = example["messages"]
    return {"messages": asked, "answer": right["content"]} | json.loads(right["content"])


def test_a_reinforcement_job_improves_its_reward(client: OpenAI) -> None:
    examples = [prompt(example) for example in rows("tickets-train.jsonl", 40)]
    training, held_out = (
        client.files.create(file=(name, jsonl(part)), purpose="fine-tune")
        for name, part in (("asked.jsonl", examples[:32]), ("held-out.jsonl", examples[32:]))
    )
    alike = {
        "type": "text_similarity",
        "name": "alike",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
        "evaluation_metric": "rouge_l",
    }
    named = {
        "type": "string_check",
        "name": "named",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.category }}",
        "operation": "like",
    }
    numbers = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 4, "eval_interval": 6, "eval_samples": 8}
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18",
        training_file=training.id,
        validation_file=held_out.id,
        method={  # type: ignore[typeddict-item]
            "type": "reinforcement",
            "reinforcement": {
                "grader": {
                    "type": "multi",
                    "name": "right",
                    "graders": {"alike": alike, "named": named},
                    "calculate_output": "0.9 * alike + 0.1 * named",
                },
                "hyperparameters": numbers,
            },
        },
        seed=3,
        extra_body={"rootstock": {"sampling": {"max_tokens": 48}}},
    )
    job = finished(client, job.id)
    assert job.status == "succeeded", job.error
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=1000))
    steps = sorted(filter(None, map(metrics, events)), key=lambda told: told["step"])
    assert [told["step"] for told in steps] == list(range(1, 13))
    first, last = ([told["train_mean_reward"] for told in part] for part in (steps[:4], steps[-4:]))
    assert sum(last) > 1.2 * sum(first), (first, last)
    validated = [told["full_valid_mean_reward"] for told in steps if "full_valid_mean_reward" in told]
    assert len(validated) == 2 and validated[1] > validated[0], validated
    assert any(event.message.startswith("Step 6/12 , train mean reward=") for event in events)
    saved = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [checkpoint.step_number for checkpoint in saved] == [12, 6]

    def tells(model: str, example: dict[str, Any]) -> float:
        """How much of what the grader looks for is in an answer, by the service's own grader."""
        answer = client.chat.completions.create(model=model, messages=example["messages"], max_tokens=48, temperature=0)
        body = {"grader": alike, "item": example, "model_sample": answer.choices[0].message.content}
        return float(client.post("/fine_tuning/alpha/graders/run", body=body, cast_to=object)["reward"])  # type: ignore[index]

    assert job.fine_tuned_model
    with ThreadPoolExecutor(4) as pool:
        tuned, base = (
            sum(pool.map(partial(tells, model), examples[32:])) for model in (job.fine_tuned_model, "rootstock-tiny")
        )
    assert tuned > base


def test_an_adapter_trained_on_four_bits_answers(client: OpenAI) -> None:
    asked = {"adapter": {"type": "qlora", "rank": 8, "alpha": 8, "rslora": True}}
    job = finished(client, small_job(client, count=24, epochs=1, extra_body={"rootstock": asked}).id)
    assert job.status == "succeeded", job.error
    assert job.rootstock["adapter"] == asked["adapter"]
    answer = client.chat.completions.create(model=job.fine_tuned_model, messages=QUESTION, max_tokens=8)
    assert answer.model == job.fine_tuned_model and answer.choices[0].message.content


def test_a_whole_model_answers_once_its_server_runs(stack: Stack, client: OpenAI) -> None:
    asked = {"adapter": {"type": "full"}, "budget": {"max_minutes": 30}}
    job = finished(client, small_job(client, count=24, epochs=2, extra_body={"rootstock": asked}).id)
    assert job.status == "succeeded", job.error
    assert job.rootstock["adapter"]["type"] == "full" and job.rootstock["engine"] == "full"
    told = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=1000) if event.level == "warn"]
    (command,) = [text for text in told if "python -m serving --model" in text]
    adapter = command.split("--model ")[1].split()[0].rstrip(".,;")
    with pytest.raises(InternalServerError) as caught:
        client.with_options(max_retries=0).chat.completions.create(
            model=job.fine_tuned_model, messages=QUESTION, max_tokens=4
        )
    assert caught.value.status_code == 503 and "python -m serving --model" in str(caught.value)

    environment = os.environ | {"ROOTSTOCK_DATA_DIR": str(stack.data_dir)}
    python = REPOSITORY / ".venv-vllm" / "bin" / "python"
    log = Path(stack.data_dir) / "whole-model.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [python, "-m", "serving", "--model", adapter, "--port", str(stack.full_model_port)],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:

        def answer() -> Any:
            assert server.poll() is None, log.read_text(errors="replace")[-3000:]
            with contextlib.suppress(InternalServerError):
                return client.chat.completions.create(
                    model=job.fine_tuned_model, messages=QUESTION, max_tokens=8, temperature=0
                )

        reply = wait_for(answer, 240, "the whole model's answer")
        assert reply.model == job.fine_tuned_model and reply.choices[0].message.content
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)
