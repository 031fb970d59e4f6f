"""Training data: JSONL checked once while it is uploaded, judged per job, read again by the trainer.

`lines` cuts the stream, `parse` makes objects of lines, `shapes` holds the rules, `check` puts them together,
`verdict` says what a check means for a job, `examples` reads a checked file. Knows nothing about rows, stores, tokens.
"""

from rootstock.datasets.check import Checker
from rootstock.datasets.examples import Example, read_examples
from rootstock.datasets.verdict import PARAMS, check_from_json, check_to_json, judge

__all__ = ["PARAMS", "Checker", "Example", "check_from_json", "check_to_json", "judge", "read_examples"]
