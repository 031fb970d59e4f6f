"""Composes the general examples that `rootstock.replay` mixes into a job where its owner names no file of their own.

python -m scripts.replay_set            write rootstock/release/replay.jsonl

Short tasks with answers that are right by construction, from the composers of the example base and sums of our own.
None asks what a general suite asks, or what the example fine-tuning task asks: both would be measured too well.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from examples.base import extraction, tasks
from rootstock.release import suites

OUT = Path(__file__).resolve().parent.parent / "rootstock" / "release" / "replay.jsonl"
EXAMPLES = 600
MOST_CHARS = 480
"""Of one example: a small base reads 512 tokens."""


def sums(rng: Random) -> list[dict[str, Any]]:
    """Larger numbers than the example base knows, one step at a time."""
    a, b, c = rng.randint(11, 400), rng.randint(2, 99), rng.randint(2, 12)
    question, answer = [
        (f"What is {a} + {b}?", a + b),
        (f"What is {a + b} - {b}?", a),
        (f"What is {b} times {c}?", b * c),
        (f"What is {b * c} divided by {c}?", b),
        (f"A crate holds {c} bottles. How many bottles are in {b} crates?", b * c),
        (f"There were {a + b} seats and {b} are taken. How many are free?", a),
    ][rng.randrange(6)]
    asked = {"role": "user", "content": f"Answer with the number only. {question}"}
    return [asked, {"role": "assistant", "content": str(answer)}]


MIXTURE: tuple[tuple[Callable[[Random], list[dict[str, Any]]], int], ...] = (
    (extraction.structured, 14),
    (extraction.single_value, 14),
    (extraction.classify, 14),
    (extraction.lookup, 6),
    (extraction.fill_json, 8),
    (tasks.copy_text, 10),
    (tasks.rewrite, 8),
    (tasks.listing, 8),
    (tasks.obey_system, 8),
    (tasks.few_shot, 4),
    (tasks.remember, 3),
    (tasks.question, 4),
    (tasks.chat, 3),
    (sums, 6),
)


def examples(count: int, seed: int = 6) -> Iterator[list[dict[str, Any]]]:
    """Conversations, each other than the ones before it; the same ones for the same Python version."""
    rng = Random(seed)
    seen = suites.texts(suites.built_in())
    made = 0
    while made < count:
        composer = rng.choices([c for c, _ in MIXTURE], [w for _, w in MIXTURE])[0]
        messages = [dict(message) for message in composer(rng) if message["content"]]
        text = suites.plain(messages[:-1])
        everything = " ".join(str(message["content"]) for message in messages)
        if len(everything) > MOST_CHARS or text in seen or tasks.MODEL_NAME in everything:
            continue
        seen.add(text)
        made += 1
        yield messages


def main() -> None:
    """Write the file."""
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) for messages in examples(EXAMPLES)]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} examples, {OUT.stat().st_size / 1000:.0f} kB: {OUT}")


if __name__ == "__main__":
    main()
