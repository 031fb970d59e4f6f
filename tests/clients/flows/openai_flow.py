"""The cookbook with the official Python SDK: upload, tune, watch, ask, read the metrics, tidy up."""

import base64
import os
import time

from openai import BadRequestError, NotFoundError, OpenAI

client = OpenAI()  # OPENAI_BASE_URL and OPENAI_API_KEY

with open(os.environ["TRAINING_FILE"], "rb") as training, open(os.environ["VALIDATION_FILE"], "rb") as validation:
    training_file = client.files.create(file=training, purpose="fine-tune")
    validation_file = client.files.create(file=validation, purpose="fine-tune")
training_file = client.files.wait_for_processing(training_file.id)
assert training_file.status == "processed", training_file.status
assert training_file.id in [item.id for item in client.files.list(purpose="fine-tune")]

job = client.fine_tuning.jobs.create(
    model="gpt-4o-mini",
    training_file=training_file.id,
    validation_file=validation_file.id,
    suffix="python",
    seed=7,
    metadata={"client": "openai-python"},
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
)
print("created", job.id, job.model)
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
assert job.status == "succeeded", job.error
assert job.method.supervised.hyperparameters.n_epochs == 1

events = client.fine_tuning.jobs.list_events(job.id, limit=50).data
events.reverse()
for event in events:
    print(event.level, event.message)
assert events[0].created_at <= events[-1].created_at
checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
assert checkpoints and checkpoints[0].step_number > 0
assert job.id in [item.id for item in client.fine_tuning.jobs.list(metadata={"client": "openai-python"})]

results = base64.b64decode(client.files.content(job.result_files[0]).read()).decode()
assert results.startswith("step,"), results[:80]

question = [{"role": "user", "content": "My parcel never arrived."}]
answer = client.chat.completions.create(model=job.fine_tuned_model, messages=question, max_tokens=40)
assert answer.model == job.fine_tuned_model
streamed, usage = "", None
for chunk in client.chat.completions.create(
    model=job.fine_tuned_model,
    messages=question,
    max_tokens=40,
    stream=True,
    stream_options={"include_usage": True},
):
    if chunk.choices:
        streamed += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
assert streamed and usage and usage.completion_tokens > 0

try:
    client.fine_tuning.jobs.cancel(job.id)
    raise SystemExit("a finished job could be cancelled")
except BadRequestError as error:
    print("cancel of a finished job:", error.message)
assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
assert client.models.delete(job.fine_tuned_model).deleted
try:
    client.models.retrieve(job.fine_tuned_model)
    raise SystemExit("a deleted model is still there")
except NotFoundError as error:
    print("deleted:", error.message)
client.files.delete(training_file.id)

print("answer:", answer.choices[0].message.content)
