"""LlamaIndex's OpenAIFinetuneEngine: tune a file, use the model; a bad file must show as failed, not hang."""

import json
import os
import time
from pathlib import Path

from llama_index.core.llms import ChatMessage
from llama_index.finetuning import OpenAIFinetuneEngine

# The engine's SDK reads OPENAI_BASE_URL, the LLM class that it returns reads this one.
os.environ["OPENAI_API_BASE"] = os.environ["OPENAI_BASE_URL"]


def ended(engine):
    while (job := engine.get_current_job()).status not in ("succeeded", "failed", "cancelled"):
        time.sleep(1)
    return job


# 400 at creation would make it sleep and retry for ever, so faults of the data have to come later.
rows = [json.loads(line) for line in Path(os.environ["TRAINING_FILE"]).read_text().splitlines()]
bad = Path("bad.jsonl")
bad.write_text("".join(json.dumps({"messages": row["messages"][:-1]}) + "\n" for row in rows[:12]))
refused = OpenAIFinetuneEngine("gpt-4o-mini-2024-07-18", str(bad), validate_json=False)
refused.finetune()
job = ended(refused)
assert job.status == "failed" and job.error.code and job.error.message, job
print("the bad file:", job.error.code, job.error.message)

engine = OpenAIFinetuneEngine("gpt-4o-mini-2024-07-18", os.environ["TRAINING_FILE"], verbose=True)
engine.finetune()
job = ended(engine)
assert job.status == "succeeded", job.error
model = engine.get_finetuned_model(temperature=0, max_tokens=40)
print("context window it assumes:", model.metadata.context_window)
answer = model.chat([ChatMessage(role="user", content="My parcel never arrived.")])
assert "".join(part.delta or "" for part in model.stream_complete("My parcel never arrived."))

print("answer:", answer.message.content)
