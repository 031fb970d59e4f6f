"""An eval from its items to its results, with the official SDK alone: no word of it is ours.

OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=... python examples/evals.py [MODEL]
"""

import sys
import time

from openai import OpenAI

ITEMS = [
    {"item": {"country": "France", "capital": "Paris"}},
    {"item": {"country": "Italy", "capital": "Rome"}},
    {"item": {"country": "Japan", "capital": "Tokyo"}},
]


def main(client: OpenAI, model: str) -> None:
    """Ask the model for three capitals and let two criteria judge the answers."""
    made = client.evals.create(
        name="capitals",
        data_source_config={
            "type": "custom",
            "item_schema": {
                "type": "object",
                "properties": {"country": {"type": "string"}, "capital": {"type": "string"}},
                "required": ["country", "capital"],
            },
            "include_sample_schema": True,
        },
        testing_criteria=[
            {
                "type": "string_check",
                "name": "names the capital",
                "input": "{{ sample.output_text }}",
                "operation": "ilike",
                "reference": "{{ item.capital }}",
            },
            {
                "type": "python",
                "name": "is short",
                "source": "def grade(sample, item):\n    return 1.0 if len(sample['output_text']) < 100 else 0.0\n",
                "pass_threshold": 1.0,
            },
        ],
    )
    run = client.evals.runs.create(
        made.id,
        name=f"capitals by {model}",
        data_source={
            "type": "completions",
            "model": model,
            "input_messages": {
                "type": "template",
                "template": [
                    {"role": "developer", "content": "Answer with the name of the city only."},
                    {"role": "user", "content": "What is the capital of {{ item.country }}?"},
                ],
            },
            "sampling_params": {"temperature": 0, "max_completion_tokens": 32},
            "source": {"type": "file_content", "content": ITEMS},
        },
    )
    while run.status in ("queued", "in_progress"):
        time.sleep(0.5)
        run = client.evals.runs.retrieve(run.id, eval_id=made.id)
    counts = run.result_counts
    print(f"{run.status}: {counts.passed} of {counts.total} passed, {counts.failed} failed, {counts.errored} errors")
    for item in client.evals.runs.output_items.list(run.id, eval_id=made.id):
        said = item.sample.output[0].content if item.sample.output else item.sample.error.message
        print(f"{item.datasource_item['country']}: {said} -> {item.status}")


if __name__ == "__main__":
    main(OpenAI(), sys.argv[1] if len(sys.argv) > 1 else "gpt-4o-mini")
