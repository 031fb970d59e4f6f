"""The vocabulary of the example fine-tuning task, which the pre-training conversations must not contain.

It is kept here, next to the corpus it restricts, so that a test can hold the two apart: if the base model had seen the
task's keys or labels, the demo's before-and-after comparison would mean little. The module knows nothing else.
"""

from __future__ import annotations

RESERVED_WORDS: tuple[str, ...] = (
    "category",
    "priority",
    "product",
    "order_id",
    "needs_refund",
    "refund",
    "invoice",
    "parcel",
    "courier",
    "delivery",
    "defect",
    "billing",
    "account",
    "low",
    "medium",
    "high",
)
