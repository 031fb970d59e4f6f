"""What "auto" means for the two numbers that decide how long a job is: read by the recipe, and by who estimates it.

Pure rules; knows no jobs and no trainer.
"""

import math


def epochs(examples: int) -> tuple[int, str]:
    """How often to see a file of so many examples, and the rule in words."""
    # OpenAI's published rule: few examples are seen more often, very many less often.
    if 3 * examples < 100:
        return min(25, 100 // max(1, examples)), "about 100 examples in all, at most 25 epochs"
    if 3 * examples > 25_000:
        return max(1, 25_000 // examples), "about 25,000 examples in all"
    return 3, "3 epochs"


def batch_size(examples: int, method: str) -> tuple[int, str]:
    """How many examples one step learns from, and the rule in words."""
    if method == "reinforcement":
        # Each prompt is answered several times; what a step learns from are the differences between those.
        return min(8, max(1, examples)), "8 prompts, each answered several times"
    # A small job needs updates more than smooth gradients. Measured on the demo (320 examples, 3 epochs, one CPU time):
    # validation loss 0.34, 0.14, 0.07, 0.04, 0.03 for batches of 16, 8, 4, 2, 1. OpenAI's own 0.2 % gives 1 there; but
    # one row per step leaves a larger machine mostly starting kernels, so the batch grows with the data until some
    # hundreds of updates are sure, and stops at 16 because LoRA learns less from large batches.
    size = min(16, 2 ** max(0, round(math.log2(max(1, examples) / 128))))
    return size, "a power of two near 1/128 of the examples, from 1 to 16"
