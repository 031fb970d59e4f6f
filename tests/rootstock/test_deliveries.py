"""The outbox from the sender's side: claimed by one at a time, tried again with patience, given up in the end."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import db, deliveries, keys, tables, webhooks
from rootstock.db import Database
from rootstock.deliveries import Claim

BATCH = "batch.completed"


@pytest.fixture
def outbox(any_database: Database) -> Database:
    """One endpoint, one event for it."""
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        webhooks.create(tx, keys.DEFAULT_PROJECT, url="https://hooks.test/", name="", event_types=["*"])
        webhooks.emit(tx, keys.DEFAULT_PROJECT, BATCH, "batch_1")
    return any_database


def claim(database: Database) -> list[Claim]:
    with database.transaction() as tx:
        return deliveries.claim_due(tx)


def settle(database: Database, claimed: Claim, status: int | None) -> str | None:
    with database.transaction() as tx:
        return deliveries.settle(tx, claimed, status_code=status, error=None if status else "away")


def change(database: Database, **values: Any) -> None:
    with database.transaction() as tx:
        tx.execute(tables.webhook_deliveries.update().values(**values))


def row(database: Database) -> sa.Row[Any]:
    with database.read() as tx:
        return tx.execute(sa.select(tables.webhook_deliveries)).one()


def test_a_delivery_is_one_senders_until_its_lease_ends(outbox: Database):
    (first,) = claim(outbox)
    assert claim(outbox) == []
    change(outbox, next_attempt_at=db.now() - 1)  # the first sender died
    (second,) = claim(outbox)
    assert (first.attempt, second.attempt) == (1, 2) and first.id == second.id
    assert settle(outbox, first, 200) is None, "it came back too late"
    assert settle(outbox, second, 204) == "delivered"
    assert settle(outbox, second, 500) is None and claim(outbox) == []
    assert row(outbox).delivered_at > 0 and row(outbox).last_status_code == 204


def test_two_senders_that_saw_the_same_row_do_not_both_get_it(outbox: Database):
    with outbox.transaction() as tx:
        seen = tx.execute(sa.select(tables.webhook_deliveries)).one()
        assert len(deliveries.claim_due(tx)) == 1
        late = tables.webhook_deliveries.update().where(*deliveries._held(seen.id, seen.attempts)).values(attempts=9)
        assert tx.execute(late).rowcount == 0


@pytest.mark.parametrize("status", [None, 301, 404, 410, 500])
def test_everything_but_2xx_is_tried_again_later(outbox: Database, status: int | None):
    (claimed,) = claim(outbox)
    assert settle(outbox, claimed, status) == "pending"
    assert claim(outbox) == [] and row(outbox).last_status_code == status
    change(outbox, next_attempt_at=db.now() - 1)
    (again,) = claim(outbox)
    assert (again.id, again.body()) == (claimed.id, claimed.body())


def test_after_three_days_it_has_failed(outbox: Database):
    change(outbox, created_at=db.now() - deliveries.GIVE_UP_SECONDS)
    (claimed,) = claim(outbox)
    assert settle(outbox, claimed, 500) == "failed"
    change(outbox, next_attempt_at=db.now() - 1)
    assert claim(outbox) == []


def test_waiting_doubles_up_to_a_limit_and_fills_three_days():
    waits = [deliveries.retry_seconds(attempt) for attempt in range(1, 40)]
    assert 4 <= waits[0] <= 6 and 8 <= waits[1] <= 12 and 16 <= waits[2] <= 24
    assert max(waits) <= 1.2 * deliveries.MAX_RETRY_SECONDS
    assert 15 < next(n for n in range(40) if sum(waits[:n]) > deliveries.GIVE_UP_SECONDS) < 35


def test_a_slow_endpoint_leaves_room_for_the_others(outbox: Database):
    with outbox.transaction() as tx:
        for number in range(deliveries.AT_ONCE + 9):
            webhooks.emit(tx, keys.DEFAULT_PROJECT, BATCH, f"batch_many_{number}")
        quiet = webhooks.create(tx, keys.DEFAULT_PROJECT, url="https://quiet.test/", name="", event_types=["*"])
        webhooks.emit(tx, keys.DEFAULT_PROJECT, "batch.failed", "batch_late")
    urls = [claimed.url for claimed in claim(outbox)]
    assert urls.count("https://hooks.test/") == deliveries.PER_ENDPOINT and urls.count(quiet.url) == 1


def test_a_deleted_endpoint_hears_nothing_more(outbox: Database):
    with outbox.transaction() as tx:
        (endpoint,) = webhooks.list_page(tx, keys.DEFAULT_PROJECT, limit=9, after=None).data
        webhooks.delete(tx, keys.DEFAULT_PROJECT, endpoint.id)
        assert webhooks.emit(tx, keys.DEFAULT_PROJECT, "batch.failed", "batch_2") == 0
    assert claim(outbox) == [] and row(outbox).status == "failed"


def test_ended_deliveries_are_forgotten_after_a_month(outbox: Database):
    (claimed,) = claim(outbox)
    change(outbox, next_attempt_at=1.0)
    with outbox.transaction() as tx:
        assert deliveries.purge(tx, 10) == 0, "it still waits"
    settle(outbox, claimed, 200)
    change(outbox, next_attempt_at=db.now() - deliveries.KEPT_SECONDS + 60)
    with outbox.transaction() as tx:
        assert deliveries.purge(tx, 10) == 0
    change(outbox, next_attempt_at=db.now() - deliveries.KEPT_SECONDS - 60)
    with outbox.transaction() as tx:
        assert (deliveries.purge(tx, 10), deliveries.purge(tx, 10)) == (1, 0)


def test_what_waits_for_an_endpoint_deleted_meanwhile_is_forgotten_too(outbox: Database):
    with outbox.transaction() as tx:
        tx.execute(tables.webhook_endpoints.update().values(deleted_at=db.now()))  # while `emit` had not committed
    assert claim(outbox) == [] and row(outbox).status == "pending"
    change(outbox, next_attempt_at=1.0, created_at=1.0)
    with outbox.transaction() as tx:
        assert deliveries.purge(tx, 10) == 1


def test_the_event_and_its_signature_follow_the_standard():
    body = deliveries.event_body("evt_1", BATCH, "batch_1", 1700000000.9)
    assert json.loads(body) == {
        "id": "evt_1",
        "object": "event",
        "created_at": 1700000000,
        "type": BATCH,
        "data": {"id": "batch_1"},
    }
    secret = base64.b64encode(b"k" * 32).decode()
    headers = deliveries.signed(f"whsec_{secret}", "wh_1", 1700000001, body)
    expected = hmac.new(b"k" * 32, b"wh_1.1700000001." + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("wh_1", "1700000001")
