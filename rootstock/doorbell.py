"""The RQ worker that hears `rootstock.bell`, in a daemon thread. A message means only "look at the table".

Nothing that a message says is ever executed or unpickled, and no command sent through Redis is obeyed: whoever can
write to Redis can make workers look, and no more. Redis may come and go at any time; workers also look by themselves.
Knows nothing about what there is to look for.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import SimpleWorker
from rq.worker.base import WorkerStatus

from rootstock.bell import FUNCTION

log = logging.getLogger(__name__)

LISTENER_TTL_SECONDS = 60
"""How soon a dead connection is noticed; also how long the worker stays listed after its death."""

MAX_WAIT_SECONDS = 30.0


class _Listener(SimpleWorker):
    """RQ's worker without processes, signals, timers, callbacks, pub/sub commands and registry maintenance."""

    def __init__(self, queue: Queue, connection: redis.Redis, on_ring: Callable[[], None]) -> None:
        super().__init__(
            [queue],
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=LISTENER_TTL_SECONDS,
            log_job_description=False,
        )
        self._on_ring = on_ring

    def execute_job(self, job: Job, queue: Queue) -> None:
        try:
            known = job.func_name == FUNCTION
        except DeserializationError:
            known = False
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue.key, 1, job.id)
            pipeline.delete(job.key)
            pipeline.execute()
        if known:
            self._on_ring()
        else:
            log.warning("dropped a message that is no bell: %.80r", job.id)

    def bootstrap(self, *_: Any, **__: Any) -> None:
        self.register_birth()  # type: ignore[no-untyped-call]
        self.set_state(WorkerStatus.STARTED)
        # A bell that somebody took and died with. The sweep rings again; this only keeps Redis tidy.
        for queue in self.queues:
            self.connection.delete(queue.intermediate_queue.key)

    def run_maintenance_tasks(self) -> None:
        # RQ's own would call functions by the names that it finds in Redis.
        self.last_cleaned_at = now()  # type: ignore[assignment]

    def _install_signal_handlers(self) -> None:
        pass

    def subscribe(self) -> None:
        pass

    def unsubscribe(self) -> None:
        pass

    def check_for_suspension(self, burst: bool) -> None:
        pass

    def procline(self, message: str) -> None:
        pass


class Doorbell:
    """Listens to one queue for as long as the process lives and calls `on_ring` at each bell, in a thread of its own.

    Example: `Doorbell(settings.effective_redis_url, bell.BATCHES, wake.set).start()`.
    """

    def __init__(self, redis_url: str, queue: str, on_ring: Callable[[], None]) -> None:
        self._url = redis_url
        self._queue = queue
        self._on_ring = on_ring
        self._listener: _Listener | None = None
        self._thread = threading.Thread(target=self._listen, name="doorbell", daemon=True)

    def start(self) -> None:
        """Begin to listen; returns at once, whether Redis is there or not."""
        logging.getLogger("rq.worker").setLevel(logging.WARNING)
        self._thread.start()

    def leave(self) -> None:
        """Take this worker off RQ's list, for those who look at it."""
        if self._listener is not None:
            try:
                self._listener.register_death()  # type: ignore[no-untyped-call]
            except (redis.RedisError, OSError) as error:
                log.debug("could not sign off from Redis: %s", error)

    def _listen(self) -> None:
        wait = 1.0
        while True:
            began = time.monotonic()
            try:
                connection = redis.Redis.from_url(self._url, socket_connect_timeout=5.0)
                queue = Queue(self._queue, connection=connection, serializer=JSONSerializer)
                self._listener = _Listener(queue, connection, self._on_ring)
                self._listener.work(logging_level=None)
            except (redis.RedisError, OSError, ValueError) as error:
                log.warning("cannot hear the bell, trying again in %.0f s: %s", wait, error)
            if time.monotonic() - began > MAX_WAIT_SECONDS:
                wait = 1.0
            time.sleep(wait)
            wait = min(MAX_WAIT_SECONDS, 2 * wait)
