"""Preference tuning with real processes: a DPO job learns what is preferred, and its model answers."""

import base64
import csv
import io
import json
from typing import Any

import pytest
from openai import OpenAI

from tests.acceptance.conftest import Stack, finished, jsonl, metrics, rows

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

OTHER = {"delivery": "billing", "billing": "account", "account": "defect", "defect": "delivery"}


def preference(example: dict[str, Any]) -> dict[str, Any]:
    """The ticket with the right fields, preferred to one with two of them wrong."""
    *asked, right = example["messages"]
    fields = json.loads(right["content"])
    wrong = fields | {"category": OTHER[fields["category"]], "needs_refund": not fields["needs_refund"]}
    worse = {"role": "assistant", "content": json.dumps(wrong, separators=(",", ":"))}
    return {"input": {"messages": asked}, "preferred_output": [right], "non_preferred_output": [worse]}


def test_a_preference_job_learns_what_is_preferred(stack: Stack, client: OpenAI) -> None:
    data = jsonl([preference(example) for example in rows("tickets-train.jsonl", 32)])
    training = client.files.create(file=("preferences.jsonl", data), purpose="fine-tune")
    numbers = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 20}
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18",
        training_file=training.id,
        method={"type": "dpo", "dpo": {"hyperparameters": {**numbers, "beta": "auto"}}},  # type: ignore[typeddict-item]
    )
    job = finished(client, job.id)
    assert job.status == "succeeded", job.error
    assert job.method and job.method.dpo and job.method.dpo.hyperparameters
    assert job.method.dpo.hyperparameters.model_dump() == numbers | {"beta": 0.1}
    assert job.hyperparameters.model_dump() == numbers

    events = client.fine_tuning.jobs.list_events(job.id, limit=1000)
    steps = sorted(filter(None, map(metrics, events)), key=lambda told: told["step"])
    assert [told["step"] for told in steps] == list(range(1, 13))
    last_epoch = [told["train_reward_accuracy"] for told in steps[8:]]
    assert sum(last_epoch) / 4 > 0.5, last_epoch
    assert steps[-1]["train_loss"] < steps[0]["train_loss"]
    assert steps[-1]["train_reward_margin"] > 0

    content = base64.b64decode(client.files.content(job.result_files[0]).read()).decode()
    table = list(csv.DictReader(io.StringIO(content)))
    assert list(table[0])[5:7] == ["train_reward_margin", "train_reward_accuracy"]

    assert job.fine_tuned_model
    question = rows("tickets-heldout.jsonl", 1)[0]["messages"][:-1]
    answer = client.chat.completions.create(model=job.fine_tuned_model, messages=question, max_tokens=16, temperature=0)
    assert answer.model == job.fine_tuned_model and answer.choices[0].message.content
