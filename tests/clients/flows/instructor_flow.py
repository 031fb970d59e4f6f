"""Instructor's command line (`instructor jobs`, `instructor files`), then a typed answer from the tuned model."""

import os
import re
import subprocess
import time
from enum import StrEnum

import instructor
from openai import OpenAI
from pydantic import BaseModel

client = OpenAI()


def run(*words):
    done = subprocess.run(["instructor", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(*words):
    """`create-from-file` watches for ever; stop it once its table shows what it is watched for."""
    command = ["instructor", "jobs", "create-from-file", os.environ["TRAINING_FILE"], "--model", "gpt-4o-mini", *words]
    shown = open("shown.txt", "w+")  # noqa: SIM115  (read for as long as the client writes)
    return subprocess.Popen(command, stdout=shown, stderr=subprocess.STDOUT, text=True), shown


def job_id(process, shown):
    while not (found := re.search(r"ftjob-\w+", shown_text(shown))):
        assert process.poll() is None, shown_text(shown)
        time.sleep(0.5)
    return found[0]


def shown_text(shown):
    shown.seek(0)
    return shown.read()


watch, shown = start("--validation-file", os.environ["VALIDATION_FILE"], "--n-epochs", "1", "--model-suffix", "instr")
job = client.fine_tuning.jobs.retrieve(job_id(watch, shown))
while job.status not in ("succeeded", "failed", "cancelled"):
    assert watch.poll() is None, shown_text(shown)
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
time.sleep(4)  # two more rounds of its table, now with a finished job in it
assert watch.poll() is None, shown_text(shown)
watch.terminate()
watch.wait()
assert "Fine Tuning Job Monitoring" in shown_text(shown)
assert job.status == "succeeded", job.error
assert job.user_provided_suffix == "instr" and job.hyperparameters.n_epochs == 1

watch, shown = start("--model-suffix", "unwanted")
unwanted = job_id(watch, shown)
assert "cancelled successfully" in run("jobs", "cancel", unwanted)
watch.terminate()
watch.wait()
assert client.fine_tuning.jobs.retrieve(unwanted).status == "cancelled"
assert "file-" in run("files", "list")
assert "processed" in run("files", "status", job.training_file)


class Priority(StrEnum):
    low = "low"
    medium = "medium"
    high = "high"


class Ticket(BaseModel):
    priority: Priority
    needs_refund: bool


answer = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA).chat.completions.create(
    model=job.fine_tuned_model,
    messages=[{"role": "user", "content": "My parcel never arrived."}],
    response_model=Ticket,
    max_tokens=60,
)
print("answer:", answer.model_dump_json())
