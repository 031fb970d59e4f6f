"""The doorbell: an RQ message that wakes a worker. Knows nothing about what waits for it, or whether it still does.

Losing every message, or all of Redis, loses nothing: the row is the truth, the sweep rings again and idle workers
look at the table by themselves. The only file that enqueues; `rootstock.doorbell` listens.
"""

import logging
import re

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

log = logging.getLogger(__name__)

FUNCTION = "rootstock.doorbell.ring"
"""What a message says that RQ should call. Only a name: whoever hears it looks at the table and calls nothing."""

BATCHES = "rootstock-batches"
"""The RQ queue of the batch workers."""

TIMEOUT_SECONDS = 1.0
"""A dead Redis may not hold up whoever rings."""

FAILURE_TTL_SECONDS = 60

MAX_UNHEARD = 100
"""Messages that may lie in a queue. One is enough to make a worker look at the whole table; without a limit a queue
that nobody hears would fill Redis."""


def queue_name(base: str) -> str:
    """The RQ queue of a base model's trainers. Two names may share one: a trainer claims only jobs of its own base.

    Example: `queue_name("Qwen/Qwen3-0.6B")` is `"rootstock-train-qwen-qwen3-0-6b"`.
    """
    return "rootstock-train-" + (re.sub(r"[^a-z0-9]+", "-", base.lower()).strip("-") or "base")


class Bell:
    """Rings workers through one Redis. Connects when first used, so any start order is fine."""

    def __init__(self, redis_url: str) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(
            redis_url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    def ring(self, queue_name: str, row_id: str, rings: int) -> bool:
        """Wake a worker that listens to this queue; false (and a log line) when Redis is away. Never raises.

        `rings` numbers the bells of one row: RQ ids must differ, or a message that got stuck would block the next.
        """
        try:
            queue = Queue(queue_name, connection=self._redis, serializer=JSONSerializer)
            if queue.count < MAX_UNHEARD:
                queue.enqueue_call(
                    FUNCTION,
                    args=[row_id],
                    job_id=f"{row_id}-{rings}",
                    timeout=-1,
                    result_ttl=0,
                    failure_ttl=FAILURE_TTL_SECONDS,
                )
        except (redis.RedisError, OSError) as error:
            log.warning("could not ring for %s, the sweep will try again: %s", row_id, error)
            return False
        return True

    def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self._redis.ping())
        except (redis.RedisError, OSError):
            return False

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()
