"""A minute of the soak: nobody gets another's answer or an old one, nobody is lost. For an hour: `make soak`."""

import pytest

from tests.soak.run import Soak, stacked

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("soak-stack"), pytest.mark.timeout(900)]

ADAPTERS = 8


def test_a_minute_of_everything_at_once() -> None:
    with stacked(ADAPTERS) as stack:
        counts = Soak(stack, minutes=1, adapters=ADAPTERS, kill_every=25.0).run()
    assert counts["answers"] > 60, counts
    for happened in ("alias moves", "unloads", "replaced", "replicas killed"):
        assert counts.get(happened, 0) > 0, counts
