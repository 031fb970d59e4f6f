"""WandbLogger.sync, offline: it reads the result file as base64 or CSV and every field of the job."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from openai import OpenAI
from wandb.integration.openai.fine_tuning import WandbLogger

client = OpenAI()


class LoginOnly(BaseHTTPRequestHandler):
    """Weights & Biases' own server as far as a login goes: `sync` insists on one, even for a run that stays offline."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        viewer = {"id": "me", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}
        reply = json.dumps({"data": {"viewer": viewer}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        """Silence."""


server = ThreadingHTTPServer(("127.0.0.1", 0), LoginOnly)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ.update(WANDB_API_KEY="0" * 40, WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}")
print("note: run kept offline, so without data files as artifacts; its own server is a stand-in that only logs in")

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
    # Waits for the job itself. The data files as artifacts need an online run: wandb refuses `use_artifact` offline.
    done = WandbLogger.sync(
        fine_tune_job_id=job.id, openai_client=client, project="tickets", mode="offline", log_datasets=False
    )
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
