"""Fine-tune and compare, with nothing but the official OpenAI SDK.

The same script runs against any server that speaks the API: set OPENAI_BASE_URL and OPENAI_API_KEY, then

    python examples/quickstart.py

It uploads the support-ticket examples, trains, asks the base model and the tuned model the same held-out questions
and prints a table. Exit code 0 only if the tuned model answered and beat the base model.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.score import score
from openai import OpenAI

DATA = Path(__file__).resolve().parent / "data"
POLL_SECONDS = 1.0
WIDTH = 100


@contextmanager
def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Time one stage and say that it began."""
    print(f"\n▸ {name}", flush=True)
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began


def bar(step: int, total: int, loss: float, eta_seconds: float) -> str:
    """One line of progress: a bar, step, loss and the time that is left."""
    filled = round(28 * step / max(total, 1))
    return f"  [{'█' * filled}{'·' * (28 - filled)}] step {step}/{total}  loss {loss:.3f}  ETA {eta_seconds:4.0f} s"


def follow(client: OpenAI, job_id: str) -> Any:
    """Show a job's events as they come, with a live bar for the training steps; return the finished job."""
    seen: set[str] = set()
    first_step: tuple[int, float] | None = None
    live = sys.stdout.isatty()
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        fresh = []
        for event in client.fine_tuning.jobs.list_events(job_id, limit=100):  # newest first, all pages
            if event.id in seen:
                break
            seen.add(event.id)
            fresh.append(event)
        for event in reversed(fresh):
            if event.type == "metrics" and isinstance(event.data, dict):
                step, total = event.data["step"], event.data["total_steps"]
                first_step = first_step or (step - 1, time.monotonic() - 0.1)
                rate = (step - first_step[0]) / (time.monotonic() - first_step[1])
                line = bar(step, total, event.data["train_loss"], (total - step) / rate)
                if live:
                    print("\r" + line, end="" if step < total else "\n", flush=True)
                elif step == total or step % max(1, total // 10) == 0:
                    print(line, flush=True)
            else:
                print(f"{chr(13) + ' ' * WIDTH + chr(13) if live else ''}  {event.message}", flush=True)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(POLL_SECONDS)


def ask(client: OpenAI, model: str, messages: list[dict[str, str]]) -> str:
    """One greedy answer."""
    answer = client.chat.completions.create(
        model=model,
        messages=messages,  # type: ignore[arg-type]
        temperature=0,
        max_completion_tokens=120,
    )
    return answer.choices[0].message.content or ""


def ask_all(client: OpenAI, model: str, rows: list[dict[str, Any]]) -> list[str]:
    """Every held-out question, a few at a time."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda row: ask(client, model, row["messages"][:-1]), rows))


def clip(text: str, width: int = WIDTH - 14) -> str:
    """One line of at most `width` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def report(rows: list[dict[str, Any]], base: list[str], tuned: list[str]) -> tuple[float, float]:
    """Print three answers side by side and both scores; return (base score, tuned score)."""
    expected = [row["messages"][-1]["content"] for row in rows]
    base_scores = [score(want, got) for want, got in zip(expected, base, strict=True)]
    tuned_scores = [score(want, got) for want, got in zip(expected, tuned, strict=True)]
    for index in range(min(3, len(rows))):
        print(f"\n  ticket     {clip(rows[index]['messages'][-2]['content'])}")
        print(f"  expected   {clip(expected[index])}")
        print(f"  base       {clip(base[index])}")
        print(f"  tuned      {clip(tuned[index])}")
    base_score, tuned_score = sum(base_scores) / len(rows), sum(tuned_scores) / len(rows)
    valid = [sum(is_json(text) for text in answers) / len(rows) for answers in (base, tuned)]
    print(f"\n  {'':<22}{'base':>8}{'tuned':>8}")
    print(f"  {'fields right':<22}{base_score:>8.1%}{tuned_score:>8.1%}")
    print(f"  {'valid JSON':<22}{valid[0]:>8.1%}{valid[1]:>8.1%}")
    print(f"  {'perfect answers':<22}{base_scores.count(1.0):>8}{tuned_scores.count(1.0):>8}   of {len(rows)}")
    return base_score, tuned_score


def is_json(text: str) -> bool:
    """Whether a whole answer is one JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def main() -> int:
    """Run every stage; the exit code says whether the tuned model won."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt-4o-mini-2024-07-18", help="model to tune (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=2, help="passes over the data; 0: the server decides (default: %(default)s)"
    )
    parser.add_argument("--suffix", default="tickets", help="appears in the tuned model's name (default: %(default)s)")
    options = parser.parse_args()
    client = OpenAI()  # OPENAI_BASE_URL and OPENAI_API_KEY
    seconds: dict[str, float] = {}
    rows = [json.loads(line) for line in (DATA / "tickets-heldout.jsonl").read_text("utf-8").splitlines()]

    with stage("upload", seconds):
        training = client.files.create(file=DATA / "tickets-train.jsonl", purpose="fine-tune")
        validation = client.files.create(file=DATA / "tickets-validation.jsonl", purpose="fine-tune")
        print(f"  {training.filename} {training.bytes:,} bytes, {validation.filename} {validation.bytes:,} bytes")

    with stage("train", seconds):
        job = client.fine_tuning.jobs.create(
            model=options.model,
            training_file=training.id,
            validation_file=validation.id,
            suffix=options.suffix,
            seed=7,
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": options.epochs} if options.epochs else {}},
            },
        )
        job = follow(client, job.id)
        if job.status != "succeeded" or job.fine_tuned_model is None:
            print(f"\nThe job ended as {job.status}: {job.error.message if job.error else ''}")
            return 1

    with stage("ask the base model", seconds):
        base = ask_all(client, job.model, rows)
        print(f"  {len(rows)} held-out tickets, model {job.model}")
    with stage("ask the tuned model", seconds):
        tuned = ask_all(client, job.fine_tuned_model, rows)
        print(f"  {len(rows)} held-out tickets, model {job.fine_tuned_model}")

    base_score, tuned_score = report(rows, base, tuned)
    print("\n  " + "   ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
    if tuned_score <= base_score:
        print("\nThe tuned model did not beat the base model.")
        return 1
    print(f"\nThe tuned model wins: {base_score:.1%} -> {tuned_score:.1%} of the fields right.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
