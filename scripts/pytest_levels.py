"""A pytest plugin for scripts/test.sh: tests that start the whole product run one at a time, after the unit tests, and
beside them, one at a time, those that start a part of it or a service.

Under `--dist loadgroup` xdist gives all tests of one group to one worker, in the order of collection. A test that fails
is told at once: a run that is ended before its time prints no summary.
"""

import os
from collections.abc import Generator

import pytest

GROUPS = {"integration": "parts", "acceptance": "product", "gpu": "product"}
"""Level -> those of which one runs at a time. The product's tests mostly wait, so that there is room beside them."""


@pytest.hookimpl(wrapper=True)  # xdist reads the groups first of all plain hooks; a wrapper is before it
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Put every test above unit level in a group, at the end."""

    def level(item: pytest.Item) -> str | None:
        return next((name for name in GROUPS if item.get_closest_marker(name)), None)

    items.sort(key=lambda item: [None, *GROUPS].index(level(item)))
    for item in filter(level, items):
        # Groups from the files themselves would let two stacks run side by side.
        for node in item.listchain():
            node.own_markers = [mark for mark in node.own_markers if mark.name != "xdist_group"]
    for item in items:
        if found := level(item):
            item.add_marker(pytest.mark.xdist_group(GROUPS[found]))
    yield
    # xdist tells the group by the end of the test's id. A pytest it cannot rename tests in would run
    # several stacks at once and fail in confusing ways, so look.
    if getattr(config.option, "loadgroup", False) and any(level(i) and "@" not in i.nodeid for i in items):
        raise pytest.UsageError("pytest-xdist ignores groups with this version of pytest")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a test that failed, with its last line, where the results are put together."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        reason = str(report.longrepr).strip().rpartition("\n")[2]
        print(f"\nfailed: {report.nodeid} ({report.when}, {report.duration:.0f} s): {reason}", flush=True)
