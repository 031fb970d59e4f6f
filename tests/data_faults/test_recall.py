"""Known faults in sets of 1,000 lines: nearly all are found, and next to nothing else. More sets: `measure.py`."""

import pytest

from tests.data_faults import bases, faults
from tests.data_faults.measure import compose, fits, score

RECALL, FALSE_ALARMS = 0.95, 0.02

CHOSEN = [
    ("classification", faults.contradiction, "en"),
    ("classification", faults.inconsistent_format, "de"),
    ("classification", faults.label_imbalance, "en"),
    ("extraction", faults.contradiction, "de"),
    ("extraction", faults.inconsistent_format, "en"),
    ("extraction", faults.invalid_json, "en"),
    ("tool_calls", faults.exact_duplicate, "en"),
    ("tool_calls", faults.no_trainable_tokens, "en"),
    ("support", faults.near_duplicate, "en"),
    ("support", faults.split_leak, "en"),
    ("support", faults.pii, "en"),
    ("support", faults.secret, "en"),
    ("support", faults.refusal, "en"),
    ("support", faults.special_token, "en"),
    ("support", faults.encoding_damage, "en"),
    ("support", faults.inconsistent_system_prompt, "en"),
    ("support", faults.truncated, "en"),
    ("support", faults.knowledge, "en"),
]


@pytest.mark.parametrize(("base", "plant", "language"), CHOSEN, ids=lambda value: getattr(value, "__name__", value))
def test_planted_faults_are_found_and_little_else(base: str, plant: faults.Plant, language: str) -> None:
    assert fits(plant, base)
    got = score(compose(bases.TUNED[base], plant, 11, language, lines=500, count=25), plant.__name__)
    assert got.recall >= RECALL, got.missed
    assert max(got.false_alarms.values(), default=0.0) <= FALSE_ALARMS, got.wrong
