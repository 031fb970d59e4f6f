"""What a job will take before it is paid for: tokens, steps, memory, time, cost, each with the bars of its error.

`model` learns from jobs that ended, `estimate` puts an estimate together. Pure arithmetic: knows no rows, no stores,
no HTTP, and no tokenizer.
"""

from rootstock.estimating.estimate import Estimate, Plan, estimate
from rootstock.estimating.model import Bars, Past

__all__ = ["Bars", "Estimate", "Past", "Plan", "estimate"]
