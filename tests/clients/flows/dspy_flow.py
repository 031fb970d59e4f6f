"""DSPy's LM.finetune, which uploads, starts, prints the newest event and returns an LM of the tuned model."""

import json
import os

import dspy
from dspy.clients.utils_finetune import TrainDataFormat

dspy.settings.configure(experimental=True)
with open(os.environ["TRAINING_FILE"], encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]

base = dspy.LM("openai/gpt-4o-mini-2024-07-18", temperature=0, max_tokens=40, cache=False)
job = base.finetune(rows, TrainDataFormat.CHAT, train_kwargs={"n_epochs": 1})
tuned = job.result()
if isinstance(tuned, Exception):
    raise tuned
assert tuned.model.startswith("ft:gpt-4o-mini"), tuned.model
assert job.status().name == "succeeded"
answer = tuned(messages=[{"role": "user", "content": "My parcel never arrived."}])[0]
print("answer:", answer if isinstance(answer, str) else answer["text"])
