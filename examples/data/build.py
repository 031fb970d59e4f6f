"""Writes the example fine-tuning data: support tickets as chat JSONL, in a training, validation and held-out part.

`python examples/data/build.py` rewrites the committed files byte for byte. The module knows nothing about tokenizers,
models or the service.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs as a plain script from anywhere

from examples.data import wordings as w
from examples.data.score import score

__all__ = ["KEYS", "SIZES", "SYSTEM_PROMPT", "Ticket", "build", "score"]

KEYS = ("category", "priority", "product", "order_id", "needs_refund")
SIZES = {"train": 320, "validation": 40, "heldout": 40}
SYSTEM_PROMPT = (
    "Answer with compact JSON, keys in this order: category (delivery, defect, billing, account), "
    "priority (low, medium, high), product, order_id (or null), needs_refund (true, false)."
)
EPILOG = """examples:
  python examples/data/build.py                  rewrite the committed files
  python examples/data/build.py --out /tmp/data  write them elsewhere
"""


@dataclass(frozen=True)
class Ticket:
    """One customer message and what is to be read out of it."""

    text: str
    category: str
    priority: str
    product: str
    order_id: str | None
    needs_refund: bool

    def answer(self) -> str:
        """The expected answer: compact JSON, keys in the documented order."""
        return json.dumps({key: getattr(self, key) for key in KEYS}, separators=(",", ":"))

    def row(self) -> dict[str, list[dict[str, str]]]:
        """The ticket as one line of an OpenAI chat fine-tuning file."""
        return {
            "messages": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": self.text},
                {"role": "assistant", "content": self.answer()},
            ]
        }


def _draw(rng: Random, known: tuple[str, ...], unseen: tuple[str, ...], share: float) -> str:
    """A known wording, or with probability `share` one that only the held-out part uses."""
    return rng.choice(unseen) if rng.random() < share else rng.choice(known)


def ticket(rng: Random, category: str, priority: str, needs_refund: bool, unseen: float) -> Ticket:
    """A ticket with the labels given; `unseen` is the share of wordings and values that training never shows."""
    brand = _draw(rng, w.BRANDS, w.HELDOUT_BRANDS, unseen)
    product = f"{brand} {_draw(rng, w.ITEMS, w.HELDOUT_ITEMS, unseen)}"
    prefix = _draw(rng, w.ORDER_PREFIXES, w.HELDOUT_ORDER_PREFIXES, unseen)
    order_id = f"{prefix}-{rng.randint(10000, 99999)}" if rng.random() < 0.85 else None
    problem = _draw(rng, w.PROBLEMS[category], w.HELDOUT_PROBLEMS[category], unseen).format(p=product)
    rest = [
        rng.choice(w.ORDERS).format(o=order_id) if order_id else rng.choice(w.NO_ORDER),
        _draw(rng, w.PRIORITIES[priority], w.HELDOUT_PRIORITIES[priority], unseen),
        _draw(rng, w.WISHES[needs_refund], w.HELDOUT_WISHES[needs_refund], unseen),
    ]
    rng.shuffle(rest)
    rest.insert(rng.choice((0, 0, 0, 1)), problem)
    if rng.random() < 0.5:
        rest.insert(0, rng.choice(w.GREETINGS))
    if rng.random() < 0.5:
        rest.append(rng.choice(w.CLOSINGS).format(n=_draw(rng, w.NAMES, w.HELDOUT_NAMES, unseen)))
    return Ticket(" ".join(rest), category, priority, product, order_id, needs_refund)


def tickets(rng: Random, count: int, unseen: float) -> Iterator[Ticket]:
    """`count` tickets in which all combinations of labels are about equally frequent, in random order."""
    labels = [(c, p, r) for c in w.PROBLEMS for p in w.PRIORITIES for r in (True, False)]
    plan = [labels[i % len(labels)] for i in range(count)]
    rng.shuffle(plan)
    return (ticket(rng, category, priority, refund, unseen) for category, priority, refund in plan)


def build(seed: int = 0) -> dict[str, list[Ticket]]:
    """All parts by name. Order numbers and texts never repeat, within a part or across parts."""
    parts: dict[str, list[Ticket]] = {}
    seen: set[str] = set()
    for name, count in SIZES.items():
        rng = Random(f"{seed} {name}")
        unseen = 0.4 if name == "heldout" else 0.0
        parts[name] = []
        for drawn in tickets(rng, count, unseen):
            fresh = drawn
            while fresh.text in seen or (fresh.order_id or "") in seen:
                fresh = ticket(rng, drawn.category, drawn.priority, drawn.needs_refund, unseen)
            seen.update({fresh.text} | ({fresh.order_id} if fresh.order_id else set()))
            parts[name].append(fresh)
    return parts


def write(out: Path, seed: int = 0) -> None:
    """One JSONL file for each part."""
    out.mkdir(parents=True, exist_ok=True)
    for name, part in build(seed).items():
        lines = "".join(json.dumps(one.row()) + "\n" for one in part)
        (out / f"tickets-{name}.jsonl").write_text(lines, encoding="utf-8")


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        description="Write the support-ticket fine-tuning files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="directory to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the tickets (default %(default)s)")
    arguments = parser.parse_args()
    write(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
