"""A short, repeatable form of `make fuzz`: every operation of the document, with data within and outside it."""

import pytest

from scripts.api.fuzz import SHORT, fuzz
from scripts.api.live import live
from scripts.api.seed import seed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_every_operation_keeps_what_the_document_promises():
    with live() as api:
        seed(api)
        status, report = fuzz(api, arguments=SHORT, short=True)
    assert status == 0, "faults were found: they are printed above; `make fuzz ARGS=--short` repeats them"
    assert report["operations"]["tested"] == report["operations"]["total"]
