"""Small sets for the tests of the data report."""

import json
from typing import Any


def chat(user: str, answer: str, system: str | None = None, **more: Any) -> dict[str, Any]:
    """One plain conversation."""
    messages = [{"role": "system", "content": system}] if system else []
    return {
        "messages": [*messages, {"role": "user", "content": user}, {"role": "assistant", "content": answer, **more}]
    }


def lines(*examples: Any) -> list[bytes]:
    """As lines; bytes stay as they are."""
    return [item if isinstance(item, bytes) else json.dumps(item).encode() for item in examples]


CLEAN = [
    chat(f"{question} {thing}?", answer)
    for question, answer in (("Where do I buy a", "In our shop."), ("Who repairs my", "Our workshop."))
    for thing in ("kettle", "lamp", "drone", "tent", "guitar", "scooter", "monitor", "camera", "mixer", "helmet")
]
