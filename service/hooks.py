"""Sends webhooks: takes what is due from the outbox, signs it, posts it, notes the answer. Knows no routes.

Every API process runs one of these beside its reconciler; they share the outbox without sending anything twice at once.
"""

import asyncio
import logging
import time

import rootstock
from rootstock import deliveries
from rootstock.db import Database
from rootstock.deliveries import Claim
from rootstock.telemetry import WEBHOOK_ATTEMPTS
from service.outbound import Outbound, Undeliverable

log = logging.getLogger(__name__)

Answer = tuple[int | None, str | None]
"""The HTTP status, if there was one, and what went wrong, if anything did."""

_HEADERS = {"content-type": "application/json", "user-agent": f"Rootstock/{rootstock.__version__}"}


class Sender:
    """Example: `Sender(database, Outbound()).run_once()`, every second or so."""

    def __init__(self, database: Database, outbound: Outbound) -> None:
        self._db = database
        self._outbound = outbound

    def run_once(self) -> int:
        """Attempt what is due, side by side; how many attempts that were."""
        with self._db.transaction() as tx:
            claims = deliveries.claim_due(tx)
        if not claims:
            return 0
        answers = asyncio.run(self._attempt_all(claims))
        with self._db.transaction() as tx:
            for claim, (status, error) in zip(claims, answers, strict=True):
                outcome = deliveries.settle(tx, claim, status_code=status, error=error)
                WEBHOOK_ATTEMPTS.labels(outcome=outcome or "overtaken").inc()
                if error is not None:
                    log.warning("webhook %s, attempt %d: %s", claim.id, claim.attempt, error)
        return len(claims)

    async def _attempt_all(self, claims: list[Claim]) -> list[Answer]:
        tries = [attempt(self._outbound, claim.url, claim.secret, claim.id, claim.body()) for claim in claims]
        return await asyncio.gather(*tries)


async def attempt(outbound: Outbound, url: str, secret: str, message_id: str, body: bytes) -> Answer:
    """Post one signed event: the status of the answer, and what went wrong unless it is a 2xx."""
    signature = deliveries.signed(secret, message_id, int(time.time()), body)
    try:
        status = await outbound.post(url, {**_HEADERS, **signature}, body)
    except Undeliverable as error:
        return None, str(error)
    except Exception:
        log.exception("webhook %s", message_id)
        return None, "The attempt failed for an internal reason."
    return status, None if 200 <= status < 300 else f"The endpoint answered with HTTP status {status}."
