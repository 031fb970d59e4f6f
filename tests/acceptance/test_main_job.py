"""The main job end to end: the real processes, driven by the official SDK over HTTP only."""

import base64
import csv
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.acceptance.conftest import ROOT, Stack, finished, jsonl, metrics, rows, small_job
from tests.logprobs import Opening, distance

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


def test_the_quickstart_learns_the_task(stack: Stack) -> None:
    environment = os.environ | {"OPENAI_BASE_URL": stack.url, "OPENAI_API_KEY": stack.key}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "quickstart.py"), "--epochs", "1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The tuned model wins" in done.stdout


def test_a_job_tells_its_whole_story(client: OpenAI) -> None:
    validation = client.files.create(
        file=("valid.jsonl", jsonl(rows("tickets-validation.jsonl", 16))), purpose="fine-tune"
    )
    job = small_job(client, suffix="My_Story", validation_file=validation.id, metadata={"team": "support"})
    assert job.status == "validating_files"
    assert job.model == "gpt-4o-mini-2024-07-18"
    job = finished(client, job.id)
    assert job.status == "succeeded", job.error
    name = job.fine_tuned_model
    assert name.startswith("ft:gpt-4o-mini-2024-07-18:rootstock:my-story:") and name.count(":") == 4
    assert job.trained_tokens > 0 and job.finished_at >= job.created_at
    assert job.hyperparameters.n_epochs == 2 and job.hyperparameters.batch_size == 8
    assert isinstance(job.hyperparameters.learning_rate_multiplier, float | int)

    events = list(reversed(list(client.fine_tuning.jobs.list_events(job.id, limit=1000))))
    told = [event.message for event in events if event.type == "message"]
    (baseline,) = [message for message in told if message.startswith("Baseline: json_fields of the base model on 16")]
    (verdict,) = [message for message in told if message.startswith("Release verdict: ")]
    assert told.index(baseline) < told.index(verdict) < told.index(f"New fine-tuned model created: {name}")
    release = job.rootstock["release"]
    assert release["verdict"] in ("ship", "hold") and release["examples"] == 16 and len(release["suites"]) >= 6
    assert release["models"]["tuned"] == name and release["scores"]["checkpoint-6"] is not None
    assert release["scores"]["zero_shot"]["mean"] <= release["scores"]["tuned"]["mean"], "it learned some of the form"
    messages = [message for message in told if message not in (baseline, verdict)]
    assert messages[:4] == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file} and validation file: {validation.id}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
    ]
    assert messages[-2:] == [f"New fine-tuned model created: {name}", "The job has successfully completed"]
    steps = [data for event in events if (data := metrics(event))]
    assert [data["step"] for data in steps] == list(range(1, 13)) and steps[0]["total_steps"] == 12
    assert steps[-1]["train_loss"] < steps[0]["train_loss"]
    assert "full_valid_loss" in steps[5] and "full_valid_loss" in steps[-1]

    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [12, 6]
    assert checkpoints[0].fine_tuned_model_checkpoint == name
    earlier = checkpoints[1].fine_tuned_model_checkpoint
    assert earlier.endswith(":ckpt-step-6")

    content = base64.b64decode(client.files.content(job.result_files[0]).read()).decode()
    table = list(csv.DictReader(io.StringIO(content)))
    assert list(table[0]) == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert [int(row["step"]) for row in table] == list(range(1, 13))

    assert {name, earlier} <= {model.id for model in client.models.list()}
    question = rows("tickets-heldout.jsonl", 1)[0]["messages"][:-1]
    for model in (name, earlier):
        answer = client.chat.completions.create(model=model, messages=question, max_tokens=16, temperature=0)
        assert answer.model == model and answer.choices[0].message.content
    chunks = list(
        client.chat.completions.create(
            model=name,
            messages=question,
            max_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text and all(chunk.model == name for chunk in chunks)
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert client.completions.create(model=name, prompt="Hello", max_tokens=4).choices[0].text is not None
    asked = {"model": name, "input": question, "max_output_tokens": 16, "temperature": 0}
    assert client.responses.create(**asked).output_text == text
    told = [event.delta for event in client.responses.create(**asked, stream=True) if event.type.endswith("text.delta")]
    assert "".join(told) == text

    with pytest.raises(BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)
    assert client.models.delete(name).deleted
    with pytest.raises(NotFoundError):
        client.chat.completions.create(model=name, messages=question, max_tokens=4)
    assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == name


def test_bad_content_fails_the_job_with_its_line_and_the_next_job_runs(client: OpenAI) -> None:
    lines = jsonl(rows("tickets-train.jsonl", 12)).splitlines(keepends=True)
    lines[6] = b'{"messages": [{"role": "user", "content": "hi"}, {"content": "no role"}]}\n'
    broken = client.files.create(file=("broken.jsonl", b"".join(lines)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=broken.id)
    job = finished(client, job.id, 60)
    assert job.status == "failed"
    assert job.error.code == "invalid_training_file" and job.error.param == "training_file"
    assert "Example 7, message 2" in job.error.message
    assert finished(client, small_job(client, count=10, epochs=1).id).status == "succeeded"


def test_a_training_file_may_be_deleted_while_its_job_runs(client: OpenAI) -> None:
    job = small_job(client, count=24, epochs=1)
    client.files.delete(job.training_file)
    assert finished(client, job.id).status == "succeeded"


def test_base_and_tuned_answers_never_mix_under_load(client: OpenAI) -> None:
    tuned = finished(client, small_job(client, count=64, epochs=3, seed=7).id).fine_tuned_model
    questions = [row["messages"][:-1] for row in rows("tickets-heldout.jsonl", 6)]
    models = ("rootstock-tiny", tuned)
    work = [(model, number) for number in range(len(questions)) for model in models]

    def opening(item: tuple[str, int]) -> Opening:
        model, number = item
        reply = client.chat.completions.create(
            model=model, messages=questions[number], temperature=0, max_tokens=8, logprobs=True, top_logprobs=5
        )
        logprobs = reply.choices[0].logprobs
        assert logprobs and logprobs.content
        return {token.token: token.logprob for token in logprobs.content[0].top_logprobs}

    alone = {item: opening(item) for item in work}
    apart = [distance(alone[models[0], number], alone[models[1], number]) for number in range(len(questions))]
    assert min(apart) > 0.5, apart
    crowd = work * 4
    with ThreadPoolExecutor(12) as pool:
        for (model, number), seen in zip(crowd, pool.map(opening, crowd), strict=True):
            nearest = min(models, key=lambda candidate: distance(seen, alone[candidate, number]))
            assert nearest == model, f"{model} was asked question {number} and answered as {nearest}"


def test_the_admin_routes_of_the_engine_are_not_reachable(stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {stack.key}"}
    root = stack.url.removesuffix("/v1")
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/invocations", "/tokenize", "/adapters"):
        reply = httpx.post(root + path, json={}, headers=headers)
        assert reply.status_code == 404 and reply.json()["error"]["message"].startswith("Invalid URL")
