"""Two minutes of the soak that `make soak` runs for an hour: the same acts, fewer adapters, for they take seconds each
to train and to prove."""

import pytest

from tests.soak.run import Soak, stacked

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

ADAPTERS = 16
ACTS = ("answers", "alias moves", "unloads", "replaced", "replicas killed")


def test_two_minutes_of_everything_at_once_give_no_wrong_answer_and_lose_none() -> None:
    with stacked(ADAPTERS) as stack:
        counts = Soak(stack, minutes=2, adapters=ADAPTERS, kill_every=40).run()
    assert all(counts.get(act) for act in ACTS), f"not everything happened: {counts}"
