"""Writes the model card of the example base model. It knows nothing about how the numbers in it were obtained."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from examples.base.build import Outcome

_TEXT = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
---

# rootstock-tiny

A {millions:.1f} M parameter chat model, small enough to sit in the repository and to be fine-tuned on a CPU in about
a minute. It exists so that the demo starts at once. It follows simple prompts (copy, rewrite, list, extract, label,
answer as JSON) and knows next to nothing about the world. Do not use it for anything but demos and tests.

| | |
| --- | --- |
| architecture | Qwen3: 4 layers, width 256, 8 heads of 32 (4 key-value heads), tied embeddings |
| vocabulary | {vocab} byte-level BPE pieces, every digit alone |
| context | 2,048 positions, trained on up to {max_length} |
| chat format | ChatML, with generation markers around the assistant's words |
| seed, steps | {seed}, {steps} (batches of {batch} tokens, Muon and AdamW, learning rate {lr}) |
| tokens seen | {tokens:,} |
| time, hardware | {minutes:.1f} minutes, {hardware}, {threads} thread(s){note} |
| final loss | {loss:.3f} (weighted cross entropy, averaged over the last steps) |
| weights | bfloat16 |

## Rebuild

    python examples/base/build.py{flags}

Same seed, same Python and torch version: same text and, up to rounding, the same weights.

## What it answers exactly

Share of fresh pre-training tasks whose whole answer is the most likely one, token by token ({measured} each):

{table}

## Text and licence

All conversations are composed by the build script; their wording was written for this project and falls under the
project's licence. The running English comes from the documentation strings of the Python distribution that ran the
script (Python Software Foundation licence). Nothing was downloaded, and no other model's output was used. The support
tickets of the fine-tuning example are not part of the pre-training text.
"""


def model_card(outcome: Outcome) -> str:
    """The README.md of the model directory."""
    options = outcome.options
    resume = f" --resume {options.resume}" if options.resume else ""
    rows = [f"| {kind.replace('_', ' ')} | {share:.0%} |" for kind, share in outcome.exact.items()]
    return _TEXT.format(
        millions=outcome.parameters / 1e6,
        vocab=f"{options.vocab_size:,}",
        max_length=options.max_length,
        seed=options.seed,
        steps=f"{options.steps:,}",
        measured=options.samples_measured,
        batch=f"{options.tokens_per_batch:,}",
        lr=options.learning_rate,
        tokens=outcome.tokens,
        minutes=outcome.minutes,
        hardware=outcome.hardware,
        threads=options.threads,
        note="",
        loss=outcome.loss,
        flags=f"{resume} --seed {options.seed} --steps {options.steps}",
        table="\n".join(["| task | exact |", "| --- | --- |", *rows]),
    )
