"""A pytest plugin for scripts/test.sh: tests that start processes run after the others, in two rows side by side.

One row shares the stack of the acceptance tests; all others that start something are the other row, so at most two
vLLM servers run at once, and a third for one test. Under `--dist loadgroup` xdist gives all tests of one group to one
worker, in the order of collection. A test that fails is told at once: a run that is ended before its time prints no
summary.
"""

import os
from collections.abc import Generator

import pytest

STARTS_PROCESSES = ("integration", "acceptance", "gpu")
STACK = "stack"
"""The fixture that the first row shares, and the name of that row."""

REASON_LINES = 12


@pytest.hookimpl(wrapper=True)  # xdist reads the groups first of all plain hooks; a wrapper is before it
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Put every test above unit level in one of two groups, at the end; the longer one first."""

    def level(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(STARTS_PROCESSES, 1) if item.get_closest_marker(name)), 0)

    def shares_the_stack(item: pytest.Item) -> bool:
        return STACK in getattr(item, "fixturenames", ())

    for item in filter(level, items):
        item.add_marker(pytest.mark.xdist_group(STACK if shares_the_stack(item) else "processes"))
    yield
    items.sort(key=lambda item: (level(item) > 0, not shares_the_stack(item), level(item)))
    # xdist tells the group by the end of the test's id. A pytest it cannot rename tests in would run
    # several stacks at once and fail in confusing ways, so look.
    if getattr(config.option, "loadgroup", False) and any(level(i) and "@" not in i.nodeid for i in items):
        raise pytest.UsageError("pytest-xdist ignores groups with this version of pytest")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a test that failed and say why, where the results are put together."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        lines = str(report.longrepr).strip().splitlines()
        reason = "\n".join([line for line in lines if line.startswith("E ")][:REASON_LINES] + lines[-1:])
        print(f"\nfailed: {report.nodeid} ({report.when}, {report.duration:.0f} s)\n{reason}", flush=True)
