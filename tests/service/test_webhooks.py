"""Webhooks end to end: configured and verified with the official SDK, sent over real HTTP to a server of the test."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.webhooks import webhook_endpoint, webhook_endpoint_list, webhook_endpoint_with_secret
from pydantic import TypeAdapter

from rootstock import db, tables, webhooks
from service.app import create_app
from service.hooks import Sender
from service.outbound import Outbound, networks
from tests.receiver import Receiver
from tests.service.conftest import Api, served

URL = "https://hooks.test/in?x=1"
PATHS = ("/v1/webhook_endpoints", "/v1/rootstock/webhooks")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().running() as running:
        yield running


@pytest.fixture
def open_api(make_api: Callable[..., Api]) -> Api:
    """The API where webhooks may go to this machine."""
    return make_api(webhook_allowed_networks="127.0.0.0/8")


def sender(api: Api) -> Sender:
    return Sender(api.database, Outbound(networks(api.settings.webhook_allowed_networks)))


def due_now(api: Api) -> None:
    with api.database.transaction() as tx:
        tx.execute(tables.webhook_deliveries.update().values(next_attempt_at=db.now() - 1))


def deliveries(api: Api, endpoint: str) -> Any:
    return api.get(f"/v1/rootstock/webhooks/{endpoint}/deliveries").json()["data"]


def refused(api: Api, **body: Any) -> Any:
    answer = api.post(PATHS[1], json=body)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


@pytest.mark.parametrize("path", PATHS)
def test_an_endpoint_lives_and_dies(api: Api, path: str):
    made = api.post(path, json={"url": URL, "name": "ci", "event_types": ["batch.failed", "batch.failed"]}).json()
    TypeAdapter(webhook_endpoint_with_secret.WebhookEndpointWithSecret).validate_python(made)
    assert made["signing_secret"].startswith("whsec_") and made["event_types"] == ["batch.failed"]
    secret = made.pop("signing_secret")
    assert made["signing_secret_hint"].endswith(secret[-4:])
    found = api.get(f"{path}/{made['id']}").json()
    assert found == made
    TypeAdapter(webhook_endpoint.WebhookEndpoint).validate_python(found)
    page = api.get(path).json()
    TypeAdapter(webhook_endpoint_list.WebhookEndpointList).validate_python(page)
    assert page == {
        "object": "list",
        "data": [made],
        "first_id": made["id"],
        "last_id": made["id"],
        "has_more": False,
    }
    assert secret not in json.dumps(page)
    gone = api.http.delete(f"{path}/{made['id']}").json()
    assert gone == {"id": made["id"], "object": "webhook_endpoint.deleted", "deleted": True}
    for call in (api.http.get, api.http.delete):
        assert call(f"{path}/{made['id']}").status_code == 404


def test_the_newest_sdk_manages_endpoints(api: Api):
    if not hasattr(api.client.webhooks, "create"):
        pytest.skip("this SDK has no endpoint management")
    made = [api.client.webhooks.create(url=URL, name=str(n), event_types=["batch.completed"]) for n in range(3)]
    listed = list(api.client.webhooks.list(limit=1))
    assert [one.id for one in listed] == [one.id for one in reversed(made)]
    assert api.client.webhooks.retrieve(made[0].id).name == "0"
    assert api.client.webhooks.delete(made[0].id).deleted
    assert len(list(api.client.webhooks.list())) == 2


def test_endpoints_of_another_project_are_not_there(api: Api):
    made = api.post(PATHS[1], json={"url": URL}).json()
    foreign = {"Authorization": f"Bearer {api.other.api_key}"}
    for path in (made["id"], f"{made['id']}/deliveries", "None", "x" * 5000):
        assert api.get(f"{PATHS[1]}/{path}", headers=foreign).status_code == 404
    assert api.get(PATHS[1], headers=foreign).json()["data"] == []
    assert api.post(f"{PATHS[1]}/{made['id']}/test", headers=foreign).status_code == 404


@pytest.mark.parametrize(
    "url", ["http://hooks.test/", "https://127.0.0.1/", "https://169.254.169.254/", "ftp://x.test", "nonsense"]
)
def test_a_url_that_must_not_be_called_is_refused_when_it_is_configured(api: Api, url: str):
    assert refused(api, url=url)["param"] == "url"


def test_what_does_not_exist_is_refused_by_name(api: Api):
    assert refused(api)["code"] == "missing_required_parameter"
    assert refused(api, url=URL, event_types=["batch.done"])["param"] == "event_types"
    assert refused(api, url=URL, event_types=["*", "batch.failed"])["param"] == "event_types"
    assert refused(api, url=URL, event_types=[1])["param"].startswith("event_types")
    assert refused(api, url=URL, event_types=["batch.failed", 1])["param"] == "event_types[1]"
    assert refused(api, url=URL, events=[])["code"] == "unknown_parameter"


def test_a_project_has_only_so_many(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(webhooks, "MAX_ENDPOINTS", 1)
    assert api.post(PATHS[1], json={"url": URL}).status_code == 200
    assert "at most 1" in refused(api, url=URL)["message"]


@pytest.mark.integration
def test_a_succeeded_job_is_told_in_a_form_that_the_sdk_accepts(open_api: Api, receiver: Receiver):
    made = open_api.post(PATHS[1], json={"url": receiver.url}).json()
    job = open_api.succeed()
    assert sender(open_api).run_once() == 1 and sender(open_api).run_once() == 0
    ((headers, body),) = receiver.requests
    event = OpenAI(api_key="x", webhook_secret=made["signing_secret"]).webhooks.unwrap(body.decode(), headers)
    assert (event.type, event.data.id, event.object) == ("fine_tuning.job.succeeded", job.id, "event")
    assert headers["content-type"] == "application/json" and "," not in headers["webhook-signature"][3:]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        OpenAI(api_key="x", webhook_secret="whsec_AAAA").webhooks.unwrap(body.decode(), headers)
    (delivery,) = deliveries(open_api, made["id"])
    assert delivery["status"] == "delivered" and delivery["id"] == headers["webhook-id"]
    assert (delivery["attempts"], delivery["last_status_code"], delivery["last_error"]) == (1, 204, None)


@pytest.mark.integration
def test_a_refused_event_comes_again_signed_anew(open_api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    made = open_api.post(PATHS[1], json={"url": receiver.url}).json()
    receiver.answers = [302, 500]
    job = open_api.job()
    open_api.client.fine_tuning.jobs.cancel(job.id)
    now = time.time()
    for seconds in (0, 4000, 8000):
        monkeypatch.setattr("service.hooks.time.time", lambda later=seconds: now + later)
        assert sender(open_api).run_once() == 1
        due_now(open_api)
    assert sender(open_api).run_once() == 0 and len(receiver.requests) == 3
    monkeypatch.undo()
    seen = [headers for headers, _ in receiver.requests]
    assert len({headers["webhook-id"] for headers in seen}) == 1 == len({body for _, body in receiver.requests})
    assert [int(headers["webhook-timestamp"]) - int(now) for headers in seen] == [0, 4000, 8000]
    assert len({headers["webhook-signature"] for headers in seen}) == 3
    (delivery,) = deliveries(open_api, made["id"])
    assert delivery["status"] == "delivered" and delivery["attempts"] == 3


@pytest.mark.integration
def test_a_server_that_is_away_is_noted_and_tried_again(open_api: Api, receiver: Receiver):
    made = open_api.post(PATHS[1], json={"url": "http://127.0.0.1:1/"}).json()
    also = open_api.post(PATHS[1], json={"url": receiver.url}).json()
    open_api.client.fine_tuning.jobs.cancel(open_api.job().id)
    assert sender(open_api).run_once() == 2
    (waiting,) = deliveries(open_api, made["id"])
    assert waiting["status"] == "pending" and waiting["next_attempt_at"] > waiting["created_at"]
    assert waiting["last_status_code"] is None and "connection failed" in waiting["last_error"]
    assert deliveries(open_api, also["id"])[0]["status"] == "delivered", "one failure is nobody else's"


@pytest.mark.integration
def test_two_processes_send_an_event_once(open_api: Api, receiver: Receiver):
    open_api.post(PATHS[1], json={"url": receiver.url})
    for _ in range(3):
        open_api.client.fine_tuning.jobs.cancel(open_api.job().id)
    both = [threading.Thread(target=sender(open_api).run_once) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert len(receiver.requests) == 3 == len({headers["webhook-id"] for headers, _ in receiver.requests})


def test_an_address_forbidden_since_is_not_called(open_api: Api):
    made = open_api.post(PATHS[1], json={"url": "http://127.0.0.1:1/"}).json()
    open_api.client.fine_tuning.jobs.cancel(open_api.job().id)
    assert Sender(open_api.database, Outbound()).run_once() == 1  # a socket would fail this unit test
    assert "not allowed" in deliveries(open_api, made["id"])[0]["last_error"]


@pytest.mark.integration
def test_a_test_event_is_signed_and_its_answer_is_shown(open_api: Api, receiver: Receiver):
    made = open_api.post(PATHS[1], json={"url": receiver.url}).json()
    open_api.app.state.parts.outbound._allowed[:] = networks("127.0.0.0/8")
    receiver.answers = [418]
    answer = open_api.post(f"{PATHS[0]}/{made['id']}/test", json={"event_type": "batch.failed"}).json()
    assert answer == {
        "object": "webhook_endpoint.test",
        "webhook_endpoint_id": made["id"],
        "event_type": "batch.failed",
        "status_code": 418,
        "success": True,
    }
    ((headers, body),) = receiver.requests
    event = OpenAI(api_key="x", webhook_secret=made["signing_secret"]).webhooks.unwrap(body.decode(), headers)
    assert event.type == "batch.failed" and deliveries(open_api, made["id"]) == []


def test_a_test_event_that_cannot_be_sent_says_why(open_api: Api):
    made = open_api.post(PATHS[1], json={"url": "http://127.0.0.1:1/"}).json()
    answer = open_api.post(f"{PATHS[1]}/{made['id']}/test")
    assert answer.status_code == 400 and "not allowed" in answer.json()["error"]["message"]


@pytest.mark.integration
def test_the_api_process_sends_by_itself(open_api: Api, receiver: Receiver):
    open_api.post(PATHS[1], json={"url": receiver.url})
    open_api.client.fine_tuning.jobs.cancel(open_api.job().id)
    with served(create_app(open_api.settings.with_values(redis_url="redis://127.0.0.1:1/0", vllm_url=None))):
        assert receiver.arrived.wait(30)


def test_an_endpoint_can_be_changed_and_its_secret_renewed(api: Api):
    made = api.client.webhooks.create(name="a", url="https://example.com/a", event_types=["batch.failed"])
    changed = api.client.webhooks.update(made.id, name="b", event_types=["batch.completed"])
    assert (changed.name, changed.url, changed.event_types) == ("b", "https://example.com/a", ["batch.completed"])
    renewed = api.client.webhooks.rotate_secret(made.id)
    assert renewed.signing_secret.startswith("whsec_") and renewed.signing_secret != made.signing_secret
    with pytest.raises(openai.BadRequestError, match="keep_old_secret"):
        api.client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    with pytest.raises(openai.BadRequestError):
        api.client.webhooks.update(made.id, url="http://10.0.0.1/")
    with pytest.raises(openai.NotFoundError):
        api.client.webhooks.update("we_nobody", name="b")
    assert "batch.failed" in api.client.webhooks.event_types.list().data
