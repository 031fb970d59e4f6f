"""Many hands on the same jobs at the same moment, on both databases."""

import threading

import pytest

from rootstock import jobs, publish
from rootstock.db import Database
from rootstock.errors import InvalidRequest
from rootstock.records import JobStatus
from tests.rootstock import making


def test_each_of_many_jobs_is_claimed_by_exactly_one_of_many_workers(any_database: Database) -> None:
    with any_database.transaction() as tx:
        training = making.upload(tx)
        wanted = {making.submit(tx, training=training).id for _ in range(200)}
        assert all(jobs.to_queued(tx, job_id) for job_id in wanted)
    start = threading.Barrier(8)
    taken: list[str] = []
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            start.wait(timeout=10)
            while job := making.claim(any_database, worker=name):
                taken.append(job.id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[f"worker-{number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not errors
    # Under SKIP LOCKED a worker may find nothing while others hold the last rows; one more look must find the rest.
    while job := making.claim(any_database):
        taken.append(job.id)
    assert len(taken) == 200
    assert set(taken) == wanted


@pytest.mark.parametrize("rival", ["succeed", "cancel"])
def test_success_and_cancel_at_once_end_in_one_of_them(any_database: Database, rival: str) -> None:
    for _ in range(5):
        job = making.bring(any_database, JobStatus.FINALIZING)
        start = threading.Barrier(2)
        won: list[str] = []

        def succeed(job_id: str = job.id, start: threading.Barrier = start, won: list[str] = won) -> None:
            start.wait(timeout=10)
            with any_database.transaction() as tx:
                if publish.succeed(tx, job_id):
                    won.append("succeed")

        def cancel(job_id: str = job.id, start: threading.Barrier = start, won: list[str] = won) -> None:
            start.wait(timeout=10)
            with any_database.transaction() as tx:
                try:
                    jobs.cancel(tx, "proj_a", job_id)
                    won.append("cancel")
                except InvalidRequest:
                    pass

        threads = [threading.Thread(target=succeed), threading.Thread(target=succeed if rival == "succeed" else cancel)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert len(won) == 1
        status = making.look(any_database, job.id).status
        assert status is (JobStatus.SUCCEEDED if won == ["succeed"] else JobStatus.CANCELLED)
