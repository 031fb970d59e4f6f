"""The routes of probes and monitoring: open, quick, and they name the part that is away."""

from typing import Any

import pytest

from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm

READY = {"database": "ok", "redis": "ok", "store": "ok", "vllm": "ok"}


@pytest.fixture
def keyless(api: Api) -> Api:
    del api.http.headers["Authorization"]
    return api


def test_alive_whatever_else_is_away(keyless: Api):
    keyless.bell.heard = False
    assert keyless.get("/healthz").json() == {"status": "ok"}


def test_ready_when_every_part_answers(keyless: Api):
    answer = keyless.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "parts": READY}


@pytest.mark.parametrize(
    ("part", "status", "code"),
    [
        ("database", "not_ready", 503),
        ("store", "not_ready", 503),
        ("redis", "degraded", 200),  # jobs are accepted all the same, the sweep rings later
        ("vllm", "degraded", 200),  # only inference waits
    ],
)
def test_a_part_that_is_away_is_named(
    keyless: Api, vllm: FakeVllm, part: str, status: str, code: int, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any) -> Any:
        raise OSError("away")

    if part == "database":
        monkeypatch.setattr(keyless.database, "revision", lambda: "0000_other")
    elif part == "redis":
        keyless.bell.heard = False
    elif part == "store":
        monkeypatch.setattr(keyless.app.state.parts.store, "check", fail)
    else:
        vllm.healthy = False
    answer = keyless.get("/readyz")
    assert answer.status_code == code
    assert answer.json() == {"status": status, "parts": READY | {part: "away"}}


def test_without_serving_vllm_is_off_and_that_is_fine(make_api: Any):
    answer = make_api(vllm_url=None).get("/readyz")
    assert answer.status_code == 200 and answer.json()["parts"]["vllm"] == "off"


def test_metrics_count_requests_by_route_never_by_what_was_typed(keyless: Api):
    keyless.get("/v1/files/planted-id")
    keyless.http.request("PLANTED", "/nowhere-planted")
    text = keyless.get("/metrics").text
    assert 'rootstock_requests_total{method="GET",route="/v1/files/{file_id}",status="401"}' in text
    assert 'rootstock_requests_total{method="other",route="unmatched",status="404"}' in text
    assert "rootstock_request_seconds_bucket" in text and "planted" not in text.lower()
