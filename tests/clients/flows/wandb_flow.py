"""WandbLogger.sync, offline: it reads the result file as base64 or CSV, both data files and every field of the job."""

import os
from pathlib import Path

from openai import OpenAI
from wandb.integration.openai.fine_tuning import WandbLogger

client = OpenAI()
with open(os.environ["TRAINING_FILE"], "rb") as training, open(os.environ["VALIDATION_FILE"], "rb") as validation:
    files = [client.files.create(file=file, purpose="fine-tune").id for file in (training, validation)]
for validation_file in (files[1], None):
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini",
        training_file=files[0],
        validation_file=validation_file,
        suffix="wandb",
        hyperparameters={"n_epochs": 1},
    )
    done = WandbLogger.sync(fine_tune_job_id=job.id, openai_client=client, project="tickets")  # waits for the job
    assert done and "completed successfully" in done, done
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error

runs = sorted(Path(os.environ.get("WANDB_DIR", ".")).glob("wandb/offline-run-*/run-*.wandb"))
assert len(runs) == 2, runs
written = runs[0].read_bytes()
for expected in (b"train_loss", b"valid_loss", b"fine_tuned_model"):
    assert expected in written, f"{expected} was not logged"
answer = client.chat.completions.create(
    model=job.fine_tuned_model, messages=[{"role": "user", "content": "My parcel never arrived."}], max_tokens=40
)
print("answer:", answer.choices[0].message.content)
