"""Instructor's command line (`instructor jobs`, `instructor files`), then a typed answer from the tuned model."""

import contextlib
import os
import pty
import re
import subprocess
import threading
import time
from enum import StrEnum

import instructor
from openai import OpenAI
from pydantic import BaseModel

client = OpenAI()


def run(*words):
    wide = os.environ | {"COLUMNS": "300"}
    done = subprocess.run(["instructor", *words], capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Watch:
    """`create-from-file` watches for ever, and only draws its table on a terminal: give it one, read what it draws."""

    def __init__(self, *words):
        ours, theirs = pty.openpty()
        command = ["instructor", "jobs", "create-from-file", os.environ["TRAINING_FILE"], "--model", "gpt-4o-mini"]
        self.process = subprocess.Popen(
            [*command, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"COLUMNS": "300", "TERM": "xterm"},
        )
        os.close(theirs)
        self.shown = ""
        threading.Thread(target=self._read, args=(ours,), daemon=True).start()

    def _read(self, terminal):
        with contextlib.suppress(OSError):
            while piece := os.read(terminal, 65536):
                self.shown += piece.decode(errors="replace")

    def until(self, pattern):
        """The first match in what it has drawn."""
        while not (found := re.search(pattern, self.shown)):
            assert self.process.poll() is None, self.shown[-2000:]
            time.sleep(0.3)
        return found[0]

    def stop(self):
        assert self.process.poll() is None, self.shown[-2000:]
        self.process.terminate()
        self.process.wait()


watch = Watch("--validation-file", os.environ["VALIDATION_FILE"], "--n-epochs", "1", "--model-suffix", "instr")
job_id = watch.until(r"ftjob-\w+")
watch.until(r"Fine Tuning Job Monitoring")
watch.until(job_id + r"[^\n]*(succeeded|failed|cancelled)")  # its row: the table shows other jobs, too
watch.stop()
job = client.fine_tuning.jobs.retrieve(job_id)
assert job.status == "succeeded", job.error
assert job.user_provided_suffix == "instr" and job.hyperparameters.n_epochs == 1

watch = Watch("--model-suffix", "unwanted")
unwanted = watch.until(r"ftjob-\w+")
said = run("jobs", "cancel", unwanted)
assert "cancelled successfully" in said, said
watch.stop()
assert client.fine_tuning.jobs.retrieve(unwanted).status == "cancelled"
assert "file-" in run("files", "list")
run("files", "status", job.training_file)  # draws a spinner; its exit code is all there is


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
