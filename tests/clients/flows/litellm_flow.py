"""LiteLLM: fine-tuning calls, each answer read again through its own pydantic model, then a completion and a batch."""

import json
import os
import time

import litellm

with open(os.environ["TRAINING_FILE"], "rb") as training:
    file = litellm.create_file(file=training, purpose="fine-tune", custom_llm_provider="openai")
assert litellm.file_content(file.id, custom_llm_provider="openai").content


def create(suffix):
    return litellm.create_fine_tuning_job(
        model="gpt-4o-mini-2024-07-18",
        training_file=file.id,
        suffix=suffix,
        hyperparameters={"n_epochs": 1},
        custom_llm_provider="openai",
    )


job = create("litellm")
unwanted = litellm.create_fine_tuning_job(  # it always sends hyperparameters, here {}
    model="gpt-4o-mini-2024-07-18", training_file=file.id, suffix="unwanted", custom_llm_provider="openai"
)
cancelled = litellm.cancel_fine_tuning_job(unwanted.id, custom_llm_provider="openai")
assert cancelled.status == "cancelled", cancelled.status
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    job = litellm.retrieve_fine_tuning_job(job.id, custom_llm_provider="openai")
assert job.status == "succeeded", job
assert job.hyperparameters.n_epochs == 1
listed = litellm.list_fine_tuning_jobs(limit=5, custom_llm_provider="openai")
assert job.id in [item.id for item in listed.data]

# A bare name is routed to OpenAI because it holds ft:gpt-4; the prefixed one is what its documentation writes.
question = [{"role": "user", "content": "My parcel never arrived."}]
answer = litellm.completion(model=job.fine_tuned_model, messages=question, max_tokens=40)
again = litellm.completion(model=f"openai/{job.fine_tuned_model}", messages=question, max_tokens=40, stream=True)
assert "".join(part.choices[0].delta.content or "" for part in again)

# The same question as a batch.
line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions"}
line["body"] = {"model": job.fine_tuned_model, "messages": question, "max_tokens": 40}
asked = litellm.create_file(
    file=("batch.jsonl", json.dumps(line).encode()), purpose="batch", custom_llm_provider="openai"
)
batch = litellm.create_batch("24h", "/v1/chat/completions", asked.id, custom_llm_provider="openai")
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(1)
    batch = litellm.retrieve_batch(batch.id, custom_llm_provider="openai")
assert batch.status == "completed" and batch.request_counts.completed == 1, batch
result = json.loads(litellm.file_content(batch.output_file_id, custom_llm_provider="openai").content)
assert result["response"]["body"]["choices"][0]["message"]["content"], result

print("answer:", answer.choices[0].message.content)
