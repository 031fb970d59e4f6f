"""What every test shares: levels in order of cost, and no network at unit level."""

import socket
from typing import Any

import pytest

LEVELS = ("integration", "acceptance", "gpu")

OWN_SERVERS: set[int] = set()
"""Ports of stand-ins that run in the tests' own process: no machine lacks them."""


def level(item: pytest.Item) -> int:
    """0 for a unit test, then the position of its marker."""
    return next((number for number, name in enumerate(LEVELS, 1) if item.get_closest_marker(name)), 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cheap tests first, so that a plain mistake shows before processes are started."""
    items.sort(key=level)


@pytest.fixture(autouse=True)
def no_network_at_unit_level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test that needs a service is an integration test: say so instead of depending on the machine."""
    if level(request.node) == 0:
        connect = socket.socket.connect

        def refuse(self: socket.socket, address: Any) -> None:
            if not isinstance(address, tuple) or address[1] not in OWN_SERVERS:
                raise AssertionError("unit tests open no connections; mark this one integration")
            connect(self, address)

        monkeypatch.setattr(socket.socket, "connect", refuse)
